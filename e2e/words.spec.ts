/** Language model steps within jobs: words, code and voice, alone and before a picture; what they stream meanwhile, and what goes wrong. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import type { Delta, Job } from '../src/core/job.ts';
import { VOICE, languageContents } from '../test/language_checkpoints.ts';
import { openDoor } from './fixtures/door.ts';

const RULE = { en: 'Describe it as seen from above.', de: 'Beschreibe es von oben.' };

/** Opens a tiny checkpoint as a person opens a folder. @param change edits to its files, by path */
async function open(page: Page, name: string, change: (files: Map<string, Uint8Array>) => void = () => undefined) {
  const contents = languageContents(name);
  change(contents);
  const folder = join(test.info().outputPath(), name);
  for (const [path, bytes] of contents) {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, bytes);
  }
  await page.getByTestId('checkpoint-folder').setInputFiles(folder);
  return page.evaluate(async () => {
    const input = document.querySelector<HTMLInputElement>('[data-testid="checkpoint-folder"]');
    const files = [...(input?.files ?? [])].map((file) => ({ path: file.webkitRelativePath, file }));
    return (await globalThis.darkroom?.language.openFolder(files))?.ref ?? '';
  });
}

interface Made {
  job: Job;
  /** Words of text entities, by type. */
  files: Record<string, string>;
  deltas: Delta[];
}

function make(page: Page, operation: object): Promise<Made> {
  return page.evaluate(async (asked) => {
    const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
    const id = crypto.randomUUID();
    const deltas: Delta[] = [];
    const stop = door.deltas(id, (delta) => deltas.push(delta));
    await door.submit(asked, id);
    const job = await door.wait(id);
    stop();
    const files: Record<string, string> = {};
    for (const { type, filename } of job.entities) {
      const blob = await door.entity(job.run ?? '', filename);
      if (/^(text|application\/json)/.test(blob.type)) {
        files[type] = await blob.text();
      }
    }
    return { job, files, deltas };
  }, operation);
}

const said = (deltas: Delta[], step: string) =>
  deltas
    .filter((delta) => delta.step === step && !delta.thinking)
    .map(({ text }) => text)
    .join('')
    .trim();

const text = (model: string, parameters: object = {}) => ({
  operation: 'text_transformation',
  config: 'text_transformation',
  parameters: { prompt: 'A red house.', instruction: RULE, temperature: 0, max_new_tokens: 8, ...parameters },
  checkpoints: { output: model },
});

const PICTURE = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a', steps: 1, width: 64, height: 64 },
};

const painted = (model: string, parameters: object = {}) => ({
  operation: 'image_generation',
  config: 'interception_own',
  parameters: {
    prompt: 'A red house.',
    instruction: RULE,
    max_new_tokens: 8,
    width: 64,
    height: 64,
    steps: 1,
    seed: '7',
    ...parameters,
  },
  checkpoints: { interception: model },
});

test('words are made of words by a rule in the language that was chosen, and told as they come', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const { job, files, deltas } = await make(page, text(model, { language: 'de' }));
  expect(job.error).toBeNull();
  expect(job.entities.map(({ type, filename }) => [type, filename])).toEqual([
    ['input', '01_input.json'],
    ['config', '02_config.json'],
    ['sent_messages', '03_sent_messages.json'],
    ['output_text', '04_output_text.txt'],
  ]);
  expect(JSON.parse(files.sent_messages)).toEqual({
    messages: [
      { role: 'system', content: RULE.de },
      { role: 'user', content: 'A red house.' },
    ],
  });
  expect(files.output_text).not.toBe('');
  expect(said(deltas, 'output')).toBe(files.output_text);
  expect(job.entities.at(-1)?.metadata).toMatchObject({ language_model: model, step: 'output' });
  expect(job.notices).toEqual([
    'The answer was cut off after 8 tokens: max_new_tokens is 8; raise it for a longer one.',
  ]);
  const again = await make(page, text(model, { language: 'de' }));
  expect(again.files.output_text).toBe(files.output_text);
});

test('a rule rewrites the words before they are painted; it can be looked at, edited and gone on from', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const whole = await make(page, painted(model));
  expect(whole.job.error).toBeNull();
  const types = whole.job.entities.map(({ type }) => type);
  expect(types.slice(0, 4)).toEqual(['input', 'config', 'sent_messages', 'interception']);
  expect(types.at(-1)).toBe('output_image');
  expect(whole.job.entities.at(-1)?.metadata.parameters).toMatchObject({ prompt: whole.files.interception });

  const looked = await make(page, { ...painted(model), until: 'interception' });
  expect(looked.job.entities.at(-1)?.type).toBe('interception');
  expect(looked.files.interception).toBe(whole.files.interception);

  const edited = await make(page, {
    ...painted(model),
    checkpoints: {},
    given: { interception: { text: 'a roof' } },
  });
  expect(edited.job.error).toBeNull();
  expect(edited.job.entities.at(-1)?.metadata.parameters).toMatchObject({ prompt: 'a roof' });
});

test('a voice speaks, and says what it cannot say', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, VOICE);
  const { job } = await make(page, {
    operation: 'audio_generation',
    config: 'text_to_speech',
    parameters: { prompt: 'A red house.' },
    checkpoints: { output: model },
  });
  expect(job.error).toBeNull();
  expect(job.entities.at(-1)).toMatchObject({ type: 'output_audio', metadata: { rate: 16_000, channels: 1 } });
  expect(job.notices).toEqual(['This voice has no sound for ., which it left out.']);
});

test('a disk that is full when a voice has spoken is told in one sentence, and nothing else is lost', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  const model = await open(page, VOICE);
  const speech = (prompt: string) => ({
    operation: 'audio_generation',
    config: 'text_to_speech',
    parameters: { prompt },
    checkpoints: { output: model },
  });
  const before = await make(page, speech('a red house'));
  expect(before.job.error).toBeNull();
  const hash = () =>
    page.evaluate(
      async ([run, filename]) => {
        const bytes = await (await globalThis.darkroom?.entity(run, filename))?.arrayBuffer();
        return [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as ArrayBuffer))]
          .map((byte) => byte.toString(16).padStart(2, '0'))
          .join('');
      },
      [before.job.run ?? '', before.job.entities.at(-1)?.filename ?? ''] as const,
    );

  // Space for what a run starts with, but not for so long a recording.
  const long = speech('smoke rises from the chimney '.repeat(60));
  const devtools = await page.context().newCDPSession(page);
  const origin = new URL(page.url()).origin;
  const { usage } = await devtools.send('Storage.getUsageAndQuota', { origin });
  await devtools.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: Math.ceil(usage) + 60_000 });
  const { job } = await make(page, long);
  expect(job).toMatchObject({ state: 'failed', error: { code: 'storage_full', retry: 'same' } });
  expect(job.error?.message).toContain('What is recorded so far is kept.');
  expect(job.entities.map(({ type }) => type)).toEqual(['input', 'config']);
  expect(await hash()).toBe(before.job.entities.at(-1)?.sha256);

  await devtools.send('Storage.overrideQuotaForOrigin', { origin });
  const again = await make(page, long);
  expect(again.job.error).toBeNull();
  expect(again.job.entities.at(-1)).toMatchObject({ type: 'output_audio' });
});

test('a reply without code is refused, and what was said is kept', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const { job, files, deltas } = await make(page, {
    operation: 'code_generation',
    config: 'p5js_code',
    parameters: { prompt: 'dots', sketch: 'point(1', error: { message: 'Unexpected end' }, max_new_tokens: 8 },
    checkpoints: { output: model },
  });
  expect(job.error).toMatchObject({ code: 'result_invalid', message: expect.stringContaining('There is no code') });
  expect(files.reply).not.toBe('');
  expect(files.reply.trimEnd()).toBe(said(deltas, 'output').trimEnd());
  expect(files.sent_messages).toContain('Unexpected end');
});

test('what is missing or wrong is said before anything runs', async ({ page }) => {
  await openDoor(page, 'wasm');
  const none = await make(page, { ...text(''), checkpoints: {} });
  expect(none.job.error?.message).toBe('No language model is chosen for the step "output"; pick one first.');
  const absent = await make(page, text('hub:nobody/nothing@0123456789012345678901234567890123456789'));
  expect(absent.job.error).toMatchObject({
    code: 'checkpoint_incomplete',
    message: expect.stringContaining('is not in the library; download it first.'),
  });
  const voice = await open(page, VOICE);
  const mute = await make(page, text(voice));
  expect(mute.job.error?.message).toBe(
    `"${VOICE}" speaks and does not write, and the step "output" needs a language model; choose another one.`,
  );
  const torn = await open(page, 'tiny-qwen3', (files) => files.delete('onnx/model.onnx_data'));
  const lacking = await make(page, text(torn));
  expect(lacking.job.error).toMatchObject({
    code: 'checkpoint_incomplete',
    message: expect.stringContaining('onnx/model.onnx_data'),
  });
  const model = await open(page, 'tiny-llama', (files) => {
    const path = 'tokenizer_config.json';
    const config = JSON.parse(new TextDecoder().decode(files.get(path))) as object;
    const template = "{{ raise_exception('Not with me') }}";
    files.set(path, new TextEncoder().encode(JSON.stringify({ ...config, chat_template: template })));
  });
  const refused = await make(page, text(model));
  expect(refused.job.error).toMatchObject({
    code: 'checkpoint_unsupported',
    message: expect.stringContaining('Not with me'),
  });
});

test('a text that is too long, and one without end, meet the limit of the model', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama', (files) => {
    for (const path of ['config.json', 'generation_config.json'].filter((one) => files.has(one))) {
      const config = JSON.parse(new TextDecoder().decode(files.get(path))) as object;
      files.set(path, new TextEncoder().encode(JSON.stringify({ ...config, eos_token_id: 100_000 })));
    }
  });
  const long = await make(page, text(model, { prompt: 'house '.repeat(2000) }));
  expect(long.job.error).toMatchObject({ code: 'context_too_long', message: expect.stringContaining('shorten it') });
  const endless = await make(page, text(model, { max_new_tokens: 8192 }));
  expect(endless.job.error).toBeNull();
  expect(endless.job.notices.join()).toContain('the model takes 1,024 tokens, question and answer together');
});

test('cancelling ends within one token, and the next job runs', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const { state, after } = await page.evaluate(
    async (operation) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const id = crypto.randomUUID();
      let after = 0;
      let isCancelled = false;
      door.deltas(id, () => {
        after += isCancelled ? 1 : 0;
        if (!isCancelled) {
          void door.cancel(id).then(() => (isCancelled = true));
        }
      });
      await door.submit(operation, id);
      return { state: (await door.wait(id)).state, after };
    },
    text(model, { max_new_tokens: 900 }),
  );
  expect(state).toBe('cancelled');
  expect(after).toBeLessThan(100);
  expect((await make(page, text(model))).job.error).toBeNull();
});

test('an engine that ends while it writes costs a restart of that step; a picture that waits is painted', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const before = await make(page, text(model, { max_new_tokens: 40 }));
  const ids = await page.evaluate(
    async (operations) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const jobs: Job[] = [];
      for (const operation of operations) {
        jobs.push(await door.submit(operation));
      }
      const [{ id }] = jobs;
      await new Promise<void>((speaks) => door.deltas(id, () => speaks()));
      return jobs.map((job) => job.id);
    },
    [text(model, { max_new_tokens: 600 }), PICTURE],
  );
  await page
    .workers()
    .find((one) => one.url().includes('language.worker'))
    ?.evaluate(() => self.close());
  const [words, picture] = await page.evaluate(
    (all) => Promise.all(all.map((id) => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).wait(id))),
    ids,
  );
  expect(words).toMatchObject({ state: 'completed', error: null, attempts: 2 });
  expect(words.notices[0]).toContain('The language engine stopped unexpectedly');
  expect(picture).toMatchObject({ state: 'completed', error: null, attempts: 1 });
  // The folder is known to the next engine.
  expect((await make(page, text(model, { max_new_tokens: 40 }))).files.output_text).toBe(before.files.output_text);
});

test('a GPU that is lost while words are made costs a restart; the picture that waits for it is painted', async ({
  page,
}) => {
  await page.route('**/assets/language.worker-*.js', async (route) => {
    const response = await route.fetch();
    const keepDevice = `
      const { requestDevice } = GPUAdapter.prototype;
      GPUAdapter.prototype.requestDevice = async function (...given) {
        return (self.device = await requestDevice.apply(this, given));
      };\n`;
    await route.fulfill({ response, body: keepDevice + (await response.text()) });
  });
  await openDoor(page, 'webgpu');
  const model = await open(page, 'tiny-llama');
  const ids = await page.evaluate(
    async (operations) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const jobs: Job[] = [];
      for (const operation of operations) {
        jobs.push(await door.submit(operation));
      }
      await new Promise<void>((speaks) => door.deltas(jobs[0].id, () => speaks()));
      return jobs.map((job) => job.id);
    },
    [text(model, { max_new_tokens: 40 }), PICTURE],
  );
  const engine = page.workers().find((one) => one.url().includes('language.worker'));
  await engine?.evaluate(() => (globalThis as unknown as { device: GPUDevice }).device.destroy());
  const [words, picture] = await page.evaluate(
    (all) => Promise.all(all.map((id) => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).wait(id))),
    ids,
  );
  expect(words).toMatchObject({ state: 'completed', error: null, attempts: 2 });
  expect(words.notices[0]).toBe('The GPU was lost; the job goes on from the beginning (restart 1 of 3).');
  expect(picture).toMatchObject({ state: 'completed', error: null, attempts: 1 });
});

test('a step that fails leaves what was made before it, and the job goes on from there', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const failed = await make(page, painted(model, { vae: 'vae:import:nowhere' }));
  expect(failed.job.error?.message).toContain('nowhere');
  expect(failed.job.entities.at(-1)?.type).toBe('interception');
  const operation = await page.evaluate(
    (id) => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).resumed(id),
    failed.job.id,
  );
  expect(operation.given).toEqual({ interception: { text: failed.files.interception } });
  const parameters: Record<string, unknown> = { ...operation.parameters };
  delete parameters.vae;
  const { job, deltas } = await make(page, { ...operation, parameters });
  expect(job.error).toBeNull();
  expect(deltas).toEqual([]);
  expect(job.entities.at(-1)?.metadata.parameters).toMatchObject({ prompt: failed.files.interception });
});

test('a page that is loaded anew between two steps goes on in the second with what the first one recorded', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  await open(page, 'tiny-llama');
  const ref = await page.evaluate(async () => {
    const input = document.querySelector<HTMLInputElement>('[data-testid="checkpoint-folder"]');
    const files = [...(input?.files ?? [])].map((file) => ({
      path: file.webkitRelativePath.slice(file.webkitRelativePath.indexOf('/') + 1),
      file,
    }));
    return (await globalThis.darkroom?.library.importFolder('tiny', files, () => undefined))?.ref ?? '';
  });
  const id = await page.evaluate(
    async (operation) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const { id: job } = await door.submit(operation);
      await new Promise<void>((made) =>
        door.follow(job, ({ progress }) => {
          if (progress?.of === 'output') {
            made();
          }
        }),
      );
      return job;
    },
    painted(ref, { steps: 40 }),
  );
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const job = await page.evaluate(
    (one) => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).wait(one),
    id,
  );
  expect(job).toMatchObject({ state: 'completed', error: null, attempts: 2 });
  const types = job.entities.map(({ type }) => type);
  expect(types.filter((type) => type === 'sent_messages' || type === 'interception')).toEqual([
    'sent_messages',
    'interception',
  ]);
  expect(types.at(-1)).toBe('output_image');
});

test('words are translated before they are painted: after the rule, and alone', async ({ page }) => {
  await openDoor(page, 'wasm');
  const model = await open(page, 'tiny-llama');
  const both = await make(page, {
    ...painted(model),
    config: 'interception_translated',
    parameters: { ...painted(model).parameters, instruction: undefined, interception: { instruction: RULE.de } },
    checkpoints: { interception: model, translation: model },
    until: 'translation',
  });
  expect(both.job.error).toBeNull();
  expect(both.job.entities.map(({ type }) => type)).toEqual([
    'input',
    'config',
    'sent_messages',
    'interception',
    'sent_messages',
    'translation',
  ]);
  expect(JSON.parse(both.files.sent_messages)).toMatchObject({
    messages: [
      { role: 'system', content: expect.stringContaining('Translate the text into English.') },
      { role: 'user', content: both.files.interception },
    ],
  });
  const { instruction, ...parameters } = painted(model).parameters;
  expect(instruction).toBe(RULE);
  const alone = await make(page, {
    ...painted(model),
    config: 'translated_prompt',
    parameters,
    checkpoints: { translation: model },
  });
  expect(alone.job.error).toBeNull();
  expect(alone.job.entities.at(-1)?.metadata.parameters).toMatchObject({ prompt: alone.files.translation });
});

test.describe('over HTTP', () => {
  test.use({ serviceWorkers: 'allow' });

  test('steps are asked for, and their words stream', async ({ page }) => {
    await openDoor(page, 'wasm');
    const model = await open(page, 'tiny-llama');
    const { status, words, job } = await page.evaluate(
      async (operation) => {
        const { serviceWorker } = navigator;
        await serviceWorker.register('/service.worker.js');
        if (!serviceWorker.controller) {
          await new Promise((taken) => serviceWorker.addEventListener('controllerchange', taken, { once: true }));
        }
        const response = await fetch('/v1/jobs', {
          method: 'POST',
          headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify(operation),
        });
        const { job_id: id } = (await response.json()) as { job_id: string };
        const events = new EventSource(`/v1/jobs/${id}/stream`);
        let words = '';
        events.addEventListener('delta', ({ data }: MessageEvent<string>) => {
          const delta = JSON.parse(data) as Delta;
          words += delta.thinking ? '' : delta.text;
        });
        const job = await new Promise<Job>((ended) =>
          events.addEventListener('end', ({ data }: MessageEvent<string>) => ended(JSON.parse(data) as Job)),
        );
        events.close();
        return { status: response.status, words, job };
      },
      { ...painted(model, { max_new_tokens: 30 }), until: 'interception' },
    );
    expect(status).toBe(202);
    expect(job).toMatchObject({ state: 'completed', error: null });
    const made = await page.evaluate(
      async ([run, filename]) => (await globalThis.darkroom?.entity(run, filename))?.text(),
      [job.run ?? '', job.entities.at(-1)?.filename ?? ''] as const,
    );
    expect(words.trim()).toBe(made);
  });
});
