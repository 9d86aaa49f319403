/** Services behind an API, on another origin: one journey per kind, from entering it to the recording, and what becomes of its key. */
import { expect, test } from '@playwright/test';
import type { Page } from '@playwright/test';
import { FakeService, events, json } from '../../test/fake_service.ts';
import type { Answering, Routes } from '../../test/fake_service.ts';

const LANGUAGE = 'Language models (Ollama, LM Studio, llama.cpp, vLLM, …)';
const KEY = 'sk-a-key-that-nobody-may-find';

const started: FakeService[] = [];
test.afterEach(async () => {
  await Promise.all(started.splice(0).map((fake) => fake.stop()));
});

async function service(routes: Routes): Promise<FakeService> {
  const fake = await FakeService.start(routes);
  started.push(fake);
  return fake;
}

/** Opens the room and enters a server there. */
async function enter(page: Page, kind: string, address: string): Promise<void> {
  await page.goto('/?backend=wasm#engines');
  await page.getByLabel('Kind').selectOption({ label: kind });
  await page.getByRole('textbox', { name: 'Address' }).fill(address);
  await page.getByRole('button', { name: 'Enter', exact: true }).click();
}

/** Everything that the page stores or shows, as text. */
async function keptBy(page: Page): Promise<string> {
  return page.evaluate(async () => {
    const texts = [
      JSON.stringify({ ...localStorage }),
      JSON.stringify({ ...sessionStorage }),
      document.documentElement.outerHTML,
      location.href,
    ];
    for (const { name = '' } of await indexedDB.databases()) {
      const opened = indexedDB.open(name);
      await new Promise((done) => (opened.onsuccess = done));
      for (const store of opened.result.objectStoreNames) {
        const all = opened.result.transaction(store).objectStore(store).getAll();
        await new Promise((done) => (all.onsuccess = done));
        texts.push(JSON.stringify(all.result));
      }
      opened.result.close();
    }
    const read = async (folder: FileSystemDirectoryHandle): Promise<void> => {
      for await (const entry of folder.values()) {
        if (entry.kind === 'directory') {
          await read(entry);
        } else {
          texts.push(await (await entry.getFile()).text());
        }
      }
    };
    await read(await navigator.storage.getDirectory());
    return texts.join('\n');
  });
}

async function make(page: Page, operation: object) {
  return page.evaluate(async (asked) => {
    const { id } = await globalThis.darkroom!.submit(asked);
    return globalThis.darkroom!.wait(id);
  }, operation);
}

test.describe('a language model on a server', () => {
  const said = (content: string) => ({ choices: [{ delta: { content }, finish_reason: null }] });
  const end = [
    { choices: [{ delta: {}, finish_reason: 'stop' }] },
    { choices: [], usage: { prompt_tokens: 20, completion_tokens: 4 } },
    'data: [DONE]',
  ];
  const models = json(200, { object: 'list', data: [{ id: 'qwen3:8b' }, { id: 'llama3.2:3b' }] });

  test('rewrites words for a picture that is made here, and both are recorded', async ({ page, baseURL }) => {
    const fake = await service({
      'GET /v1/models': models,
      'POST /v1/chat/completions': events([said('two red '), said('apples'), ...end]),
    });
    await enter(page, LANGUAGE, `${fake.url}/v1`);
    await expect(page.getByText('The language server answers.')).toBeVisible();
    await expect(page.getByLabel('Model')).toHaveValue('qwen3:8b');
    await expect(page.getByText('Your words and rules go to this server')).toBeVisible();

    const host = fake.url.replace('http://', '');
    const ref = `openai_chat@${fake.url}/v1#qwen3:8b`;
    const job = await make(page, {
      operation: 'image_generation',
      config: 'interception_less',
      checkpoints: { interception: ref },
      parameters: { prompt: 'apples', steps: 1, width: 64, height: 64 },
    });
    expect(job.error).toBeNull();
    const words = job.entities.find(({ type }) => type === 'interception');
    expect(words?.metadata).toMatchObject({
      language_model: ref,
      made_by: { engine: 'openai_chat', server: `${fake.url}/v1`, model: 'qwen3:8b', usage: { input: 20, output: 4 } },
    });
    expect(job.entities.map(({ type }) => type)).toContain('output_image');
    expect(new Set(fake.heard.map(({ headers }) => headers.origin))).toEqual(new Set([baseURL]));

    await page.reload();
    await expect(page.getByText(/1 request · 20 tokens sent, 4 made/)).toBeVisible();
    await page.getByRole('link', { name: 'Studio' }).click();
    await page.getByRole('radio', { name: 'Text' }).check();
    await expect(page.getByRole('combobox', { name: 'Language model' })).toContainText('qwen3:8b');
    await expect(page.getByText(`Your words go to ${host}.`)).toBeVisible();
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('many apples');
    await page.getByRole('textbox', { name: 'Rule' }).fill('Say less.');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByText('two red apples')).toBeVisible();
    expect(fake.sentTo('/v1/chat/completions').at(-1)).toMatchObject({
      model: 'qwen3:8b',
      messages: [
        { role: 'system', content: 'Say less.' },
        { role: 'user', content: 'many apples' },
      ],
    });
  });

  test('is not asked twice by a page that was reloaded in the middle', async ({ page }) => {
    const fake = await service({
      'GET /v1/models': models,
      'POST /v1/chat/completions': events([said('two red ')], 'hold'),
    });
    await enter(page, LANGUAGE, `${fake.url}/v1`);
    await expect(page.getByText('The language server answers.')).toBeVisible();
    const id = await page.evaluate(
      async (ref) =>
        (
          await globalThis.darkroom!.submit({
            operation: 'text_transformation',
            config: 'text_transformation',
            checkpoints: { output: ref },
            parameters: { prompt: 'apples', instruction: 'Say less.' },
          })
        ).id,
      `openai_chat@${fake.url}/v1#qwen3:8b`,
    );
    await expect.poll(() => fake.sentTo('/v1/chat/completions').length).toBe(1);
    await page.reload();
    const job = await page.evaluate((one) => globalThis.darkroom!.wait(one), id);
    expect(job.error?.message).toContain('it is not asked again by itself');
    expect(fake.sentTo('/v1/chat/completions')).toHaveLength(1);
  });

  test('that lets no page ask it is explained, with the line that does', async ({ page }) => {
    const fake = await service({ 'GET /v1/models': models });
    fake.cors = 'none';
    await enter(page, LANGUAGE, `${fake.url}/v1`);
    await expect(page.getByText(`The language server at ${fake.url}/v1 does not let pages ask it.`)).toBeVisible();
  });
});

/** One pixel. */
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const partial = { type: 'image_generation.partial_image', b64_json: PNG, partial_image_index: 0 };
const completed = (usage: object) => ({ type: 'image_generation.completed', b64_json: PNG, usage });

interface Journey {
  kind: string;
  base: string;
  answers: string;
  models: Routes;
  route: string;
  answer: Answering;
  way: string;
  config: string;
  made: Record<string, unknown>;
  /** Of the request, as JSON. */
  sent: Record<string, unknown>;
}

const JOURNEYS: Journey[] = [
  {
    kind: 'AUTOMATIC1111, Forge, SD.Next, stable-diffusion.cpp',
    base: '',
    answers: 'The web UI answers.',
    models: { 'GET /sdapi/v1/sd-models': json(200, [{ title: 'v1-5.safetensors [abc]' }]) },
    route: '/sdapi/v1/txt2img',
    answer: json(200, { images: [PNG], info: JSON.stringify({ all_seeds: [7], sd_model_name: 'v1-5' }) }),
    way: 'AUTOMATIC1111, Forge, SD.Next',
    config: 'automatic1111',
    made: { engine: 'automatic1111', model: 'v1-5', seed: '7' },
    sent: { prompt: 'a lighthouse', steps: 20, cfg_scale: 7, width: 512, height: 512 },
  },
  {
    kind: 'OpenAI pictures',
    base: '/v1',
    answers: 'The image service answers.',
    models: { 'GET /v1/models': json(200, { data: [{ id: 'gpt-image-2' }, { id: 'gpt-5' }] }) },
    route: '/v1/images/generations',
    answer: events([partial, completed({ input_tokens: 9, output_tokens: 272 })]),
    way: 'OpenAI pictures',
    config: 'gpt_image_1',
    made: { engine: 'openai_images', model: 'gpt-image-2', usage: { input: 9, output: 272 } },
    sent: { model: 'gpt-image-2', prompt: 'a lighthouse', n: 1, stream: true, partial_images: 1 },
  },
  {
    kind: 'Gemini pictures',
    base: '/v1beta',
    answers: 'Gemini answers.',
    models: { 'GET /v1beta/models': json(200, { models: [{ name: 'models/gemini-3-pro-image' }] }) },
    route: '/v1beta/models/gemini-3-pro-image:generateContent',
    answer: json(200, {
      candidates: [
        { content: { parts: [{ inlineData: { mimeType: 'image/png', data: PNG } }] }, finishReason: 'STOP' },
      ],
      usageMetadata: { promptTokenCount: 9, candidatesTokenCount: 272 },
    }),
    way: 'Gemini pictures',
    config: 'gemini_3_pro_image',
    made: { engine: 'gemini', model: 'gemini-3-pro-image', usage: { input: 9, output: 272 } },
    sent: { contents: [{ role: 'user', parts: [{ text: 'a lighthouse' }] }] },
  },
];

for (const { kind, base, answers, models, route, answer, way, config, made, sent } of JOURNEYS) {
  test(`${kind}: entered, chosen, made, recorded, and its key is nowhere`, async ({ page, baseURL }) => {
    const fake = await service({ ...models, [`POST ${route}`]: answer });
    const stranger = await service({});
    await page.setViewportSize({ width: 1440, height: 1000 });
    await enter(page, kind, `${fake.url}${base}`);
    await expect(page.getByRole('article')).toBeVisible();
    const key = page.getByLabel('Key', { exact: true });
    if (!(await key.isVisible())) {
      await page.locator('summary', { hasText: 'Key' }).click();
    }
    await key.fill(KEY);
    await page.getByRole('button', { name: 'Look again' }).click();
    await expect(page.getByText(answers)).toBeVisible();
    await page.screenshot({ path: test.info().outputPath(`${config}-engines-1440.png`), fullPage: true });

    await page.getByRole('link', { name: 'Studio' }).click();
    await page.getByLabel('What to make it with').selectOption({ label: way });
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a lighthouse');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
    await page.screenshot({ path: test.info().outputPath(`${config}-studio-1440.png`), fullPage: true });
    await page.setViewportSize({ width: 390, height: 844 });
    await page.screenshot({ path: test.info().outputPath(`${config}-studio-390.png`), fullPage: true });

    const run = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]);
    expect(run?.operation).toMatchObject({ config, parameters: { prompt: 'a lighthouse' } });
    expect(run?.entities.at(-1)).toMatchObject({
      type: 'output_image',
      metadata: { width: 1, height: 1, made_by: { ...made, server: `${fake.url}${base}` } },
    });
    expect(fake.sentTo(route)).toHaveLength(1);
    expect(fake.sentTo(route)[0]).toMatchObject(sent);

    // Only the entered address was contacted, with the key in a header, and the key is stored nowhere.
    expect(stranger.heard).toEqual([]);
    expect(new Set(fake.heard.map(({ headers }) => headers.origin))).toEqual(new Set([baseURL]));
    expect(fake.heard.filter(({ path, body }) => path.includes(KEY) || body.includes(KEY))).toEqual([]);
    const kept = await keptBy(page);
    expect(kept).toContain('a lighthouse');
    expect(kept).not.toContain(KEY);

    await page.getByRole('link', { name: 'Engines' }).first().click();
    await expect(page.getByText(/: 1 request/)).toBeVisible();
    await page.screenshot({ path: test.info().outputPath(`${config}-engines-390.png`), fullPage: true });
    const forget = page.getByRole('button', { name: 'Forget the key' });
    if (!(await forget.isVisible())) {
      await page.locator('summary', { hasText: 'Key (until' }).click();
    }
    await forget.click();
    await page.getByRole('button', { name: 'Look again' }).click();
    await expect
      .poll(() => fake.heard.at(-1)?.headers.authorization ?? fake.heard.at(-1)?.headers['x-goog-api-key'])
      .toBeUndefined();
  });
}

test('OpenRouter: signed in at, chosen, made', async ({ page }) => {
  const fake = await service({
    'GET /auth': (response, { path }) => {
      const back = new URL(new URLSearchParams(path.split('?')[1]).get('callback_url') ?? '');
      back.searchParams.set('code', 'the-code');
      response.writeHead(302, { Location: back.href }).end();
    },
    'POST /api/v1/auth/keys': json(200, { key: KEY }),
    'GET /api/v1/key': (response, heard) =>
      heard.headers.authorization === `Bearer ${KEY}`
        ? json(200, { data: { limit_remaining: 4.5 } })(response, heard)
        : json(401, { error: { code: 401, message: 'No auth' } })(response, heard),
    'GET /api/v1/models': json(200, { data: [{ id: 'black-forest/flux-2' }] }),
    'POST /api/v1/images': events([
      ': OPENROUTER PROCESSING',
      completed({ prompt_tokens: 9, completion_tokens: 1, cost: 0.04 }),
    ]),
  });
  await enter(page, 'OpenRouter pictures', `${fake.url}/api/v1`);
  await expect(page.getByText('wants a key')).toBeVisible();
  await page.getByRole('button', { name: 'Sign in for a key' }).click();
  await expect(page.getByText('OpenRouter answers; $4.50 is left for this key.')).toBeVisible();
  expect(page.url()).not.toContain('the-code');
  const [proof] = fake.sentTo('/api/v1/auth/keys') as { code: string; code_verifier: string }[];
  expect(proof.code).toBe('the-code');
  const asked = new URLSearchParams(fake.heard.find(({ path }) => path.startsWith('/auth?'))?.path.split('?')[1]);
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(proof.code_verifier));
  expect(asked.get('code_challenge')).toBe(Buffer.from(hash).toString('base64url'));
  await expect(page.getByLabel('Model')).toHaveValue('black-forest/flux-2');
  await page.getByRole('link', { name: 'Studio' }).click();
  await page.getByLabel('What to make it with').selectOption({ label: 'OpenRouter pictures' });
  await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a lighthouse');
  await page.getByRole('button', { name: /^Generate/ }).click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
  expect(fake.sentTo('/api/v1/images')).toMatchObject([{ model: 'black-forest/flux-2', prompt: 'a lighthouse' }]);
  expect(await keptBy(page)).not.toContain(KEY);
});

test('a picture and a mask go to OpenAI as it wants them, and what comes under a wrong name is what it is', async ({
  page,
}) => {
  let answer = PNG;
  const fake = await service({
    'GET /v1/models': json(200, { data: [{ id: 'gpt-image-2' }] }),
    'POST /v1/images/edits': (response, heard) => json(200, { data: [{ b64_json: answer }] })(response, heard),
  });
  await enter(page, 'OpenAI pictures', `${fake.url}/v1`);
  await expect(page.getByText('The image service answers.')).toBeVisible();
  const ask = () =>
    page.evaluate(async () => {
      const drawn = async (colours: string[]) => {
        const canvas = new OffscreenCanvas(2, 1);
        const context = canvas.getContext('2d')!;
        colours.forEach((colour, at) => {
          context.fillStyle = colour;
          context.fillRect(at, 0, 1, 1);
        });
        return canvas.convertToBlob();
      };
      const { id } = await globalThis.darkroom!.submit({
        operation: 'image_inpaint',
        config: 'gpt_image_1',
        parameters: {
          prompt: 'a door',
          images: [await drawn(['red', 'blue'])],
          mask_image: await drawn(['white', 'black']),
          output_format: 'webp',
        },
      });
      return globalThis.darkroom!.wait(id);
    });
  const job = await ask();
  expect(job.error).toBeNull();
  // It was asked for WebP and returned a PNG.
  expect(job.entities.at(-1)?.filename).toMatch(/\.png$/);
  const body = fake.heard.at(-1)?.body ?? Buffer.alloc(0);
  const from = body.indexOf('\r\n\r\n', body.indexOf('filename="mask.png"')) + 4;
  const mask = body.subarray(from, body.indexOf('\r\n--', from)).toString('base64');
  const alphas = await page.evaluate(async (base64) => {
    const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${base64}`)).blob());
    const context = new OffscreenCanvas(2, 1).getContext('2d')!;
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, 2, 1);
    return [data[3], data[7]];
  }, mask);
  expect(alphas).toEqual([0, 255]);

  answer = Buffer.from('<svg onload="alert(1)"/>').toString('base64');
  const wrong = await ask();
  expect(wrong.error).toMatchObject({ code: 'result_invalid' });
  expect(wrong.error?.message).toContain('was given a file that is no picture');
});
