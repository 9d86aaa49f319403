/** A server on another origin: entered, used, explained when it does not answer, and removed again. It replays a recorded conversation. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { extname, join } from 'node:path';
import { expect, test } from '@playwright/test';
import { headers } from '../../cli/headers.js';
import { FakeComfyUi, recording } from '../../test/fake_comfyui.ts';
import { WorkingComfyUi } from '../../test/working_comfyui.ts';

const MODEL = 'v1-5-pruned-emaonly-fp16.safetensors';
const KEY = 'a-key-that-nobody-may-find';
const DIST = join(import.meta.dirname, '..', '..', 'dist');

test.describe('a ComfyUI server', () => {
  let fake: FakeComfyUi;
  let stranger: FakeComfyUi;
  test.beforeEach(async () => {
    [fake, stranger] = await Promise.all([FakeComfyUi.start('sd_txt2img'), FakeComfyUi.start('sd_txt2img')]);
    fake.models = [MODEL];
  });
  test.afterEach(() => Promise.all([fake.stop(), stranger.stop()]));

  test('is entered, makes a picture, and is reached by nothing but its own worker', async ({ page, baseURL }) => {
    const asked = new Set<string>();
    page.on('request', (request) => asked.add(new URL(request.url()).origin));
    await page.goto('/?backend=wasm#engines');
    await expect(page.getByRole('button', { name: 'Enter', exact: true })).toBeEnabled();
    expect([...asked].filter((origin) => origin.startsWith('http') && origin !== baseURL)).toEqual([]);

    await page.getByRole('textbox', { name: 'Address' }).fill(fake.url.replace('http://', ''));
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();

    await page.getByRole('link', { name: 'Studio' }).click();
    await expect(page.getByText('leaves this device unless you choose a server')).toBeVisible();
    await page.getByLabel('What to make it with').selectOption({ label: 'Stable Diffusion 1.5 on ComfyUI' });
    await expect(page.getByText('leaves this device')).toHaveCount(0);
    await expect(page.getByText('your words, settings and pictures are sent to it')).toBeVisible();
    await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a lighthouse');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
    expect(fake.accepted?.['2'].inputs.text).toBe('a lighthouse');
    expect(fake.accepted?.['5'].inputs.seed).toMatch(/^[0-9]+$/);

    const made = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]);
    expect(made?.operation).toMatchObject({ config: 'comfyui_sd15', parameters: { prompt: 'a lighthouse' } });
    expect(made?.entities.map(({ type }) => type)).toEqual(['input', 'config', 'output_image']);
    expect(made?.entities.at(-1)?.metadata).toMatchObject({
      width: 32,
      height: 16,
      made_by: { engine: 'comfyui', server: fake.url, node: '7', file: { filename: 'sd_00001_.png' } },
    });

    // The page itself may not contact it, and no other host was contacted.
    const refused = await page.evaluate(
      (url) =>
        fetch(url).then(
          () => false,
          () => true,
        ),
      `${fake.url}/queue`,
    );
    expect(refused).toBe(true);
    expect(stranger.heard).toEqual([]);
    expect(new Set(fake.heard.map(({ headers }) => headers.origin))).toEqual(new Set([baseURL]));
  });

  test('says which flag it lacks, where it is gone, and which model is missing', async ({ page, baseURL }) => {
    fake.faults = { cors: false };
    await page.goto('/?backend=wasm#engines');
    await page.getByRole('textbox', { name: 'Address' }).fill(fake.url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByText(`ComfyUI runs at ${fake.url}, but does not let this page ask it`)).toBeVisible();
    await expect(page.getByText(`--enable-cors-header ${baseURL}`)).toBeVisible();
    fake.faults = {};
    fake.models = ['another.safetensors'];
    await page.getByRole('button', { name: 'Look again' }).click();
    await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();

    const job = await page.evaluate(async () => {
      const { id } = await globalThis.darkroom!.submit({
        operation: 'image_generation',
        config: 'comfyui_sd15',
        parameters: { prompt: 'x' },
      });
      return globalThis.darkroom!.wait(id);
    });
    expect(job.error?.message).toBe(
      `ComfyUI at ${fake.url} lacks the model "${MODEL}" (it has "tiny_sd.safetensors", "another.safetensors").`,
    );
    await page.getByRole('textbox', { name: 'Address' }).fill('http://[::1]:8188');
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByRole('alert').filter({ hasText: 'is not an address' })).toBeVisible();
    await page.getByRole('button', { name: 'Take off the list' }).click();
    await expect(page.getByRole('article')).toHaveCount(0);
    const heard = fake.heard.length;
    const again = await page.evaluate(async () => {
      const { id } = await globalThis.darkroom!.submit({
        operation: 'image_generation',
        config: 'comfyui_sd15',
        parameters: { prompt: 'x' },
      });
      return globalThis.darkroom!.wait(id);
    });
    expect(again.error?.message).toContain('No ComfyUI server is entered');
    expect(fake.heard).toHaveLength(heard);
  });

  test('gets its key in a header, and the key is nowhere else, and gone when it is forgotten', async ({ page }) => {
    await page.goto('/?backend=wasm#engines');
    await page.getByRole('textbox', { name: 'Address' }).fill(fake.url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();
    await page.locator('summary', { hasText: 'Key' }).click();
    await page.getByLabel('Key', { exact: true }).fill(KEY);
    await page.getByRole('button', { name: 'Look again' }).click();
    await expect.poll(() => fake.heard.at(-1)?.headers.authorization).toBe(`Bearer ${KEY}`);
    const job = await page.evaluate(async () => {
      const { id } = await globalThis.darkroom!.submit({
        operation: 'image_generation',
        config: 'comfyui_sd15',
        parameters: { prompt: 'x' },
      });
      return globalThis.darkroom!.wait(id);
    });
    expect(job.error).toBeNull();
    // With a key the queue is polled, as browsers send no headers with a socket.
    expect(fake.heard.filter(({ method }) => method === 'WS')).toEqual([]);
    expect(fake.heard.filter(({ path }) => path.includes(KEY))).toEqual([]);
    expect(JSON.stringify(job)).not.toContain(KEY);
    const kept = await page.evaluate(async () => {
      const texts = [JSON.stringify({ ...localStorage }), document.documentElement.outerHTML, location.href];
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
      return texts.join();
    });
    expect(kept).toContain('darkroom.making');
    expect(kept).not.toContain(KEY);
    await page.getByRole('button', { name: 'Forget the key' }).click();
    await page.getByRole('button', { name: 'Look again' }).click();
    await expect.poll(() => fake.heard.at(-1)?.headers.authorization).toBeUndefined();
  });

  test("makes somebody's own workflow: the server, the file, Generate", async ({ page }) => {
    const graph = recording('sd_txt2img').http[0].request.json as { prompt: object };
    fake.models = ['tiny_sd.safetensors'];
    await page.goto('/?backend=wasm#engines');
    await page.getByRole('textbox', { name: 'Address' }).fill(fake.url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();
    await page.getByRole('link', { name: 'Studio' }).click();
    await page.getByLabel('What to make it with').selectOption({ label: 'Your own workflow on ComfyUI' });
    const file = page.getByLabel('Workflow', { exact: true });
    await file.setInputFiles({ name: 'x.json', mimeType: 'application/json', buffer: Buffer.from('{"a":1}') });
    await expect(page.getByRole('alert').filter({ hasText: 'holds no ComfyUI workflow' })).toBeVisible();
    const buffer = Buffer.from(JSON.stringify(graph.prompt));
    await file.setInputFiles({ name: 'x.json', mimeType: 'application/json', buffer });
    await page.getByLabel('CLIPTextEncode: text').first().fill('a ship');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
    expect(fake.accepted?.['2'].inputs.text).toBe('a ship');
    expect(fake.accepted?.['5'].inputs).toMatchObject({ steps: 4, cfg: 7, sampler_name: 'euler' });
  });

  test('takes a dropped workflow in three actions, says what it lacks, and keeps it under a name', async ({ page }) => {
    const { cases } = JSON.parse(
      readFileSync(join(import.meta.dirname, '..', '..', 'test', 'goldens', 'comfyui', 'ui_to_api.json'), 'utf8'),
    ) as { cases: { ui: object; api: Record<string, object> }[] };
    await page.goto('/?backend=wasm#engines');
    await page.getByRole('textbox', { name: 'Address' }).fill(fake.url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();

    // As saved by the editor, dropped anywhere on the page, with a model that the server lacks.
    const ui = JSON.parse(JSON.stringify(cases[0].ui).replaceAll('tiny_sd', 'absent')) as object;
    const dropped = async (content: object) => {
      const transfer = await page.evaluateHandle((text) => {
        const files = new DataTransfer();
        files.items.add(new File([text], 'workflow.json', { type: 'application/json' }));
        return files;
      }, JSON.stringify(content));
      await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
    };
    await dropped(ui);
    await expect(page.getByRole('status').filter({ hasText: 'lacks the model' })).toBeVisible();
    await expect(page.getByText(`${Object.keys(cases[0].api).length} nodes`)).toBeVisible();
    expect(fake.heard.filter(({ method }) => method === 'POST')).toEqual([]);

    const graph = recording('sd_txt2img').http[0].request.json as { prompt: object };
    await dropped(graph.prompt);
    await expect(page.getByText(`${fake.url} has all that it needs.`)).toBeVisible();
    await page.getByLabel('CLIPTextEncode: text').first().fill('a harbour');
    await page.getByLabel('Name of the workflow').fill('Lighthouses');
    await page.getByRole('button', { name: 'Save it' }).click();
    await expect(page.getByLabel('Saved workflows')).toHaveValue('Lighthouses');

    await page.reload();
    await page.getByLabel('Workflow', { exact: true }).waitFor();
    await dropped(ui);
    await expect(page.getByRole('status').filter({ hasText: 'lacks the model' })).toBeVisible();
    await page.getByLabel('Saved workflows').selectOption('Lighthouses');
    await expect(page.getByLabel('CLIPTextEncode: text').first()).toHaveValue('a harbour');
    await page.getByRole('button', { name: /^Generate/ }).click();
    await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible();
    expect(fake.accepted?.['2'].inputs.text).toBe('a harbour');
    await page.getByRole('button', { name: 'Remove it' }).click();
    await expect(page.getByLabel('Saved workflows')).toHaveCount(0);
  });

  test('makes what this device can make, too, or cannot: one entry with a choice of where, and an offer', async ({
    page,
  }) => {
    await page.goto('/?backend=wasm#engines');
    await page.getByRole('textbox', { name: 'Address' }).fill(fake.url);
    await page.getByRole('button', { name: 'Enter', exact: true }).click();
    await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();
    await page.getByRole('link', { name: 'Studio' }).click();
    await expect(page.getByLabel('Where', { exact: true })).toHaveCount(0);
    await page.getByRole('radio', { name: 'Sound' }).check();
    const entries = page.getByLabel('What to make it with');
    await entries.selectOption({ label: 'Stable Audio Open 1.0' });
    await expect(entries.getByRole('option', { name: 'Stable Audio Open on ComfyUI' })).toHaveCount(0);
    const where = page.getByLabel('Where', { exact: true });
    await expect(where.getByRole('option')).toHaveText(['On this device', 'Stable Audio Open on ComfyUI']);
    await where.selectOption({ label: 'Stable Audio Open on ComfyUI' });
    await expect(page.getByText('your words, settings and pictures are sent to it')).toBeVisible();
    await expect(entries).toHaveValue('stable_audio_open');
    await page.reload();
    await expect(where).toHaveValue('stableaudio_open');
    await where.selectOption({ label: 'On this device' });
    await expect(page.getByText('leaves this device unless you choose a server')).toBeVisible();

    const [refused, made] = await page.evaluate(async () => {
      const door = globalThis.darkroom!;
      await door.planWith(2 ** 20);
      const { id } = await door.submit({
        operation: 'image_generation',
        config: 'stable_diffusion_1_5',
        checkpoint: 'builtin:scenes',
        parameters: { prompt: 'a lighthouse', seed: '7', sampler: 'euler', weights: 'full' },
      });
      const failed = await door.wait(id);
      const offered = failed.offer && (await door.submit(failed.offer.operation));
      return [failed, offered && (await door.wait(offered.id))];
    });
    expect(refused?.error?.code).toBe('does_not_fit');
    expect(refused?.offer).toEqual({
      label: 'Make it with Stable Diffusion 1.5 on ComfyUI, without sampler',
      operation: expect.objectContaining({
        config: 'comfyui_sd15',
        parameters: { prompt: 'a lighthouse', seed: '7' },
        checkpoint: null,
      }) as unknown,
    });
    expect(made?.error).toBeNull();
    // The recipe says which of them made it.
    expect(made?.operation.config).toBe('comfyui_sd15');
    expect(fake.accepted?.['5'].inputs.seed).toBe('7');
  });

  test('shares its jobs with others, and the queue shows who makes what', async ({ page }) => {
    const servers = await Promise.all([WorkingComfyUi.start(60_000), WorkingComfyUi.start(60_000)]);
    try {
      await page.goto('/?backend=wasm#engines');
      for (const { url } of servers) {
        await page.getByRole('textbox', { name: 'Address' }).fill(url);
        await page.getByRole('button', { name: 'Enter', exact: true }).click();
        await expect(page.getByRole('article').filter({ hasText: url }).getByText('answers')).toBeVisible();
      }
      const ids = await page.evaluate(() =>
        Promise.all(
          ['a ship', 'a boat'].map(async (prompt) => {
            const job = await globalThis.darkroom!.submit({
              operation: 'image_generation',
              config: 'comfyui_sd15',
              parameters: { prompt },
            });
            return job.id;
          }),
        ),
      );
      await page.getByRole('link', { name: 'Studio' }).click();
      const queue = page.getByRole('region', { name: /^Queue: 2 running/ });
      for (const { url } of servers) {
        await expect(queue.getByText(`on ${new URL(url).host}`)).toBeVisible();
      }
      // The job of a server that dies goes to the other, busy one; cancelling one job cancels no other.
      await queue.getByRole('button', { name: 'Stop: a ship' }).click();
      const stopped = await page.evaluate((id) => globalThis.darkroom!.wait(id), ids[0]);
      expect(stopped.state).toBe('cancelled');
      const accepted = servers.flatMap((server) => [...server.accepted.values()]);
      await expect.poll(() => accepted.filter(({ isCancelled }) => isCancelled)).toHaveLength(1);
      const [ship, boat] = [0, 1].map((at) =>
        servers.find((server) => [...server.accepted.values()].some(({ isCancelled }) => isCancelled === (at === 0))),
      );
      ship!.msPerJob = 20;
      await boat!.kill();
      const done = await page.evaluate((id) => globalThis.darkroom!.wait(id), ids[1]);
      expect(done.state).toBe('completed');
      expect(done.notices.join()).toContain('Another server goes on with it: ComfyUI');
      const outputs = done.entities.filter(({ type }) => type === 'output_image');
      expect(outputs.map(({ metadata }) => metadata.made_by)).toMatchObject([{ server: ship!.url }]);
    } finally {
      await Promise.all(servers.map((server) => server.kill()));
    }
  });

  test('is named in the policy of its worker, and nothing that means more than one host can be', async ({
    request,
  }) => {
    const script = readdirSync(join(DIST, 'assets')).find((name) => name.startsWith('remote.worker'));
    const policyOf = async (query: string) =>
      (await request.get(`/assets/${script}?${query}`)).headers()['content-security-policy'];
    expect(await policyOf('connect=http://127.0.0.1:8188')).toBe(
      "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src blob: data: http://127.0.0.1:8188 ws://127.0.0.1:8188; worker-src 'none'",
    );
    for (const query of [
      'connect=*',
      'connect=https://*.example.org',
      'connect=https:',
      'connect=http://a;script-src',
      'x=1',
    ]) {
      expect(await policyOf(query)).toContain('connect-src blob: data: ;');
    }
  });
});

test.describe('on a host that sends the same headers with every file', () => {
  test.use({ serviceWorkers: 'allow' });

  test('the service worker gives the way to a server, which is asked for after a reload', async ({ page }) => {
    const fake = await FakeComfyUi.start('sd_txt2img');
    const types: Record<string, string> = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };
    const host = createServer((request, response) => {
      const { pathname } = new URL(request.url ?? '/', 'http://host');
      const file = join(DIST, pathname.endsWith('/') ? `${pathname}index.html` : pathname);
      const type = types[extname(file)] ?? 'application/octet-stream';
      if (existsSync(file)) {
        response.writeHead(200, { ...headers({ development: false }), 'Content-Type': type }).end(readFileSync(file));
      } else {
        response.writeHead(404).end();
      }
    });
    await new Promise<void>((listening) => host.listen(0, '127.0.0.1', listening));
    const url = `http://127.0.0.1:${(host.address() as AddressInfo).port}`;
    try {
      await page.goto(`${url}/?backend=wasm`);
      await page.waitForFunction(() => navigator.serviceWorker.controller !== null);
      await page.goto(`${url}/?backend=wasm#engines`);
      await page.reload();
      await page.getByRole('textbox', { name: 'Address' }).fill(fake.url);
      await page.getByRole('button', { name: 'Enter', exact: true }).click();
      await expect(page.getByText('ComfyUI 0.33.0 (cpu) answers')).toBeVisible();
    } finally {
      await fake.stop();
      host.closeAllConnections();
      host.close();
    }
  });
});
