/** What people get wrong: every time one clear sentence with a code, and a page that keeps working. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { CHECKPOINTS, openDoor, openFolder, runOperation } from '../fixtures/door.ts';

const GOOD = join(CHECKPOINTS, 'tiny-turbo');
const UNET = join('unet', 'diffusion_pytorch_model.safetensors');

const generation = (parameters: Record<string, unknown>) => ({
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a cat', width: 64, height: 64, steps: 1, guidance_scale: 0, seed: '1', ...parameters },
});

function editJson(path: string, change: (value: Record<string, unknown>) => void): void {
  const value = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  change(value);
  writeFileSync(path, JSON.stringify(value));
}

/** Replaces the header of a safetensors file, leaving the tensors' bytes as they are. */
function editHeader(
  path: string,
  change: (header: Record<string, { data_offsets: number[]; shape: number[] }>) => void,
): void {
  const bytes = readFileSync(path);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Parameters<typeof change>[0];
  change(header);
  const text = Buffer.from(JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([start, text, bytes.subarray(8 + length)]));
}

const FOLDERS: [string, (folder: string) => void, string, RegExp][] = [
  [
    'no model_index.json',
    (folder) => rmSync(join(folder, 'model_index.json')),
    'checkpoint_incomplete',
    /has no model_index\.json/,
  ],
  [
    'a missing weight file',
    (folder) => rmSync(join(folder, UNET)),
    'checkpoint_incomplete',
    /no \.safetensors weights in unet/,
  ],
  [
    'a missing tokenizer',
    (folder) => rmSync(join(folder, 'tokenizer'), { recursive: true }),
    'checkpoint_incomplete',
    /./,
  ],
  [
    'only a pickle',
    (folder) => renameSync(join(folder, UNET), join(folder, 'unet', 'diffusion_pytorch_model.bin')),
    'checkpoint_incomplete',
    /pickle/,
  ],
  ['a truncated weight file', (folder) => truncateSync(join(folder, UNET), 100_000), 'checkpoint_damaged', /./],
  [
    'a weight file that is a web page',
    (folder) => writeFileSync(join(folder, UNET), '<!doctype html><title>Not found</title>'),
    'checkpoint_damaged',
    /./,
  ],
  [
    'a header that lies about its offsets',
    (folder) =>
      editHeader(join(folder, UNET), (header) => {
        const first = Object.keys(header).filter((name) => name !== '__metadata__')[0];
        header[first].data_offsets = [0, 2 ** 40];
      }),
    'checkpoint_damaged',
    /./,
  ],
  [
    'a header whose shape overflows',
    (folder) =>
      editHeader(join(folder, UNET), (header) => {
        const first = Object.keys(header).filter((name) => name !== '__metadata__')[0];
        header[first].shape = [2 ** 31, 2 ** 31, 4];
      }),
    'checkpoint_damaged',
    /./,
  ],
  [
    'an unknown pipeline',
    (folder) => editJson(join(folder, 'model_index.json'), (index) => (index._class_name = 'AuraFlowPipeline')),
    'checkpoint_unsupported',
    /AuraFlowPipeline/,
  ],
  [
    'an unknown network',
    (folder) => editJson(join(folder, 'model_index.json'), (index) => (index.vae = ['diffusers', 'AutoencoderDC'])),
    'checkpoint_unsupported',
    /AutoencoderDC/,
  ],
  [
    'an option that is not implemented',
    (folder) => editJson(join(folder, 'unet', 'config.json'), (config) => (config.addition_embed_type = 'image')),
    'checkpoint_unsupported',
    /addition_embed_type/,
  ],
];

async function refusal(page: Page, folder: string): Promise<{ code: string; message: string } | null> {
  await page.getByTestId('checkpoint-folder').setInputFiles(folder);
  return page.evaluate(async () => {
    const input = document.querySelector<HTMLInputElement>('[data-testid="checkpoint-folder"]');
    try {
      await globalThis.darkroom?.openFolder(input?.files ?? []);
      return null;
    } catch (thrown) {
      const { code, message } = thrown as { code: string; message: string };
      return { code, message };
    }
  });
}

/** One sentence, which may begin with the name of a parameter. */
const SENTENCE = /^["A-Za-z].*\.$/s;

test('broken checkpoint folders are refused in one sentence each, and the next good one works', async ({ page }) => {
  await openDoor(page, 'wasm');
  for (const [name, breakIt, code, sentence] of FOLDERS) {
    await test.step(name, async () => {
      const folder = join(mkdtempSync(join(tmpdir(), 'darkroom-bad-')), 'checkpoint');
      try {
        cpSync(GOOD, folder, { recursive: true });
        breakIt(folder);
        const error = await refusal(page, folder);
        expect(error).toMatchObject({ code });
        expect(error?.message).toMatch(sentence);
        expect(error?.message).toMatch(SENTENCE);
      } finally {
        rmSync(join(folder, '..'), { recursive: true, force: true });
      }
    });
  }
  await openFolder(page, GOOD);
  expect((await runOperation(page, generation({}))).job.error).toBeNull();
});

test('folders of links, of which a browser shows nothing, are refused with the reason and what to take', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  const cache = mkdtempSync(join(tmpdir(), 'darkroom-cache-'));
  try {
    const repository = join(cache, 'models--org--turbo');
    const [snapshot, blobs] = [join(repository, 'snapshots', 'abc'), join(repository, 'blobs')];
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(blobs);
    cpSync(join(GOOD, 'model_index.json'), join(blobs, 'a'.repeat(40)));
    symlinkSync(join(blobs, 'a'.repeat(40)), join(snapshot, 'model_index.json'));
    for (const [folder, sentence] of [
      [
        snapshot,
        /^This folder is empty, or all of its files are links, as in the Hugging Face cache, .*; choose a folder/,
      ],
      [
        repository,
        /^"models--org--turbo" is a folder of the Hugging Face cache: .* or get org\/turbo in the library\.$/,
      ],
      [blobs, /^"blobs" is a folder of the Hugging Face cache: .* or get the checkpoint in the library by its name\.$/],
    ] as const) {
      const error = await refusal(page, folder);
      expect(error).toMatchObject({ code: 'checkpoint_incomplete' });
      expect(error?.message).toMatch(sentence);
    }
  } finally {
    rmSync(cache, { recursive: true, force: true });
  }
});

test('wrong parameters are refused in one sentence each, and nothing is recorded for them', async ({ page }) => {
  await openDoor(page, 'wasm');
  await openFolder(page, GOOD);
  for (const [parameters, sentence] of [
    [{ width: 100 }, /width must be a multiple of 8/],
    [{ steps: 0 }, /steps must be a whole number from 1 to 150/],
    [{ seed: 'abc' }, /seed must be a whole number/],
    [{ seed: '-1' }, /seed must be a whole number/],
    [{ sampler: 'magic' }, /no sampler "magic"; the samplers here are: /],
    [{ schedule: 'magic' }, /no schedule "magic"; the schedules here are: /],
    [{ prediction_type: 'v' }, /prediction_type must be epsilon or v_prediction/],
    [{ strenght: 0.5 }, /unknown field "strenght"/],
  ] as const) {
    const { job } = await runOperation(page, generation(parameters));
    expect(job).toMatchObject({ state: 'failed', error: { code: 'invalid_operation', retry: 'never' } });
    expect(job.error?.message).toMatch(sentence);
    expect(job.error?.message).toMatch(SENTENCE);
  }
  const broken = await runOperation(page, {
    ...generation({ image: 'data:image/png;base64,AAAA', strength: 0.5 }),
    operation: 'image_transform',
  });
  expect(broken.job.error).toMatchObject({ code: 'image_unreadable' });
  expect((await runOperation(page, generation({ prompt: '' }))).job.error).toBeNull();
});

test('without WebGPU it runs on the processor and says so, and a forced GPU is refused in one sentence', async ({
  page,
}) => {
  await page.addInitScript(() => Object.defineProperty(Navigator.prototype, 'gpu', { value: undefined }));
  await page.route(/generation\.worker.*\.js$/, async (route) => {
    const response = await route.fetch();
    await route.fulfill({
      response,
      body: `Object.defineProperty(WorkerNavigator.prototype, 'gpu', { value: undefined });\n${await response.text()}`,
    });
  });
  await openDoor(page, 'auto');
  const device = await page.evaluate(() => globalThis.darkroom?.device());
  expect(device).toMatchObject({ backend: 'wasm' });
  expect(device?.note).toMatch(/offers no WebGPU adapter/);
  await openFolder(page, GOOD);
  expect((await runOperation(page, generation({}))).job.error).toBeNull();

  await page.goto('/?door=cli&backend=webgpu');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  const error = await page.evaluate(() =>
    globalThis.darkroom?.device().then(
      () => null,
      (thrown: { code: string; message: string }) => ({ code: thrown.code, message: thrown.message }),
    ),
  );
  expect(error).toMatchObject({ code: 'no_webgpu' });
  expect(error?.message).toMatch(SENTENCE);
});
