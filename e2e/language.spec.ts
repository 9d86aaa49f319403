/**
 * The language engine in the page: transformers' tokens and sounds on both backends, from an opened folder and from the library, without a
 * request to anyone.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import type { TextRequest, TextResult } from '../src/core/text_service.ts';
import {
  LANGUAGE_MODELS,
  VOICE,
  WAVEFORMS,
  languageContents,
  languageGoldens,
  speechGoldens,
} from '../test/language_checkpoints.ts';
import { readTensors } from '../test/onnx_node.ts';
import { openDoor } from './fixtures/door.ts';

/** Tokens per chat: a software GPU is slow. */
const LONGEST = { wasm: 24, webgpu: 10 };

/** Writes a tiny checkpoint to this test's disk and gives it to the page's folder field. */
async function choose(page: Page, name: string, change: (contents: Map<string, Uint8Array>) => void = () => undefined) {
  const folder = join(test.info().outputPath(), name);
  const contents = languageContents(name);
  change(contents);
  for (const [path, bytes] of contents) {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, bytes);
  }
  await page.getByTestId('checkpoint-folder').setInputFiles(folder);
}

async function openLanguageFolder(page: Page, name: string): Promise<string> {
  await choose(page, name);
  return page.evaluate(async () => {
    const input = document.querySelector<HTMLInputElement>('[data-testid="checkpoint-folder"]');
    const files = [...(input?.files ?? [])].map((file) => ({ path: file.webkitRelativePath, file }));
    return (await globalThis.darkroom?.language.openFolder(files))?.ref ?? '';
  });
}

function asked(model: string, more: Partial<TextRequest> = {}): TextRequest {
  const messages = [{ role: 'user' as const, content: 'A red house at the edge of the forest.' }];
  return { model, messages, max_new_tokens: 24, temperature: 0, seed: '0', ...more };
}

function generate(page: Page, requests: TextRequest[]): Promise<{ result: TextResult; streamed: string }[]> {
  return page.evaluate(async (all) => {
    const answers: { result: TextResult; streamed: string }[] = [];
    for (const request of all) {
      let streamed = '';
      const result = await globalThis.darkroom?.language.generate(request, (delta) => (streamed += delta.text));
      answers.push({ result: result as TextResult, streamed });
    }
    return answers;
  }, requests);
}

for (const backend of ['wasm', 'webgpu'] as const) {
  test(`models write the tokens of transformers on ${backend}, and nobody else is asked for anything`, async ({
    page,
  }) => {
    const elsewhere: string[] = [];
    page.on('request', (request) => {
      if (!/^(http:\/\/127\.0\.0\.1:|blob:|data:)/.test(request.url())) {
        elsewhere.push(request.url());
      }
    });
    await openDoor(page, backend);
    for (const name of LANGUAGE_MODELS) {
      const ref = await openLanguageFolder(page, name);
      const { cases } = languageGoldens(name);
      const answers = await generate(
        page,
        cases.map(({ messages }) => asked(ref, { messages, max_new_tokens: LONGEST[backend] })),
      );
      for (const [number, { result, streamed }] of answers.entries()) {
        expect(result.ids, `${name}, chat ${number}`).toEqual(cases[number].ids.slice(0, LONGEST[backend]));
        expect(streamed).toBe(`${result.thinking}${result.text}`);
      }
      const tokens = answers.reduce((sum, { result }) => sum + result.ids.length, 0);
      console.log(`${name} on ${backend}: ${answers.length} chats, ${tokens} tokens, all equal`);
    }
    expect(elsewhere).toEqual([]);
  });

  test(`a voice speaks as in transformers on ${backend}`, async ({ page }) => {
    await openDoor(page, backend);
    const ref = await openLanguageFolder(page, VOICE);
    const expected = readTensors(WAVEFORMS);
    const { cases } = speechGoldens();
    const spoken = await page.evaluate(
      async ([model, texts]) => {
        const all: number[][] = [];
        for (const text of texts) {
          const speech = await globalThis.darkroom?.language.speak({ model, text });
          all.push([...(speech?.channels[0] ?? [])]);
        }
        return all;
      },
      [ref, cases.map(({ text }) => text)] as const,
    );
    const furthest = spoken.map((samples, number) => {
      const golden = expected.get(String(number))?.data as Float32Array;
      expect(samples).toHaveLength(golden.length);
      return Math.max(...samples.map((sample, i) => Math.abs(sample - golden[i])));
    });
    console.log(`${VOICE} on ${backend}: at most ${Math.max(...furthest).toExponential(1)} apart`);
    expect(Math.max(...furthest)).toBeLessThanOrEqual(1e-4);
  });
}

test('cancelling and the end of the worker each end one request, and the next one works', async ({ page }) => {
  await openDoor(page, 'wasm');
  const ref = await openLanguageFolder(page, 'tiny-llama');
  const cancelledAfter = await page.evaluate(
    async (request) => {
      const controller = new AbortController();
      let pieces = 0;
      const error = await globalThis.darkroom?.language
        .generate(request, () => ((pieces += 1), controller.abort()), controller.signal)
        .then(
          () => null,
          (thrown: { code: string }) => thrown.code,
        );
      return { error, pieces };
    },
    asked(ref, { max_new_tokens: 900 }),
  );
  expect(cancelledAfter.error).toBe('cancelled');
  const [before] = await generate(page, [asked(ref)]);
  expect(before.result.ids).toEqual(languageGoldens('tiny-llama').cases[0].ids);

  // The worker is closed during its request.
  const worker = page.workers().find((one) => one.url().includes('language.worker'));
  const failed = page.evaluate(
    async (request) =>
      globalThis.darkroom?.language
        .generate(request, () => undefined)
        .then(
          () => null,
          ({ code, message }: { code: string; message: string }) => ({ code, message }),
        ),
    asked(ref, { max_new_tokens: 900 }),
  );
  await worker?.evaluate(() => self.close());
  expect(await failed).toMatchObject({
    code: 'worker_failed',
    message: expect.stringContaining('try again'),
  });
  // The folder is known to the next worker as well.
  const [after] = await generate(page, [asked(ref)]);
  expect(after.result.ids).toEqual(before.result.ids);
});

test('a GPU that is lost while text is made costs that request only', async ({ page }) => {
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
  const ref = await openLanguageFolder(page, 'tiny-llama');
  const few = asked(ref, { max_new_tokens: 4 });
  const [before] = await generate(page, [few]);
  const failed = page.evaluate(
    async (request) =>
      globalThis.darkroom?.language
        .generate(request, () => undefined)
        .then(
          () => null,
          ({ code, message }: { code: string; message: string }) => ({ code, message }),
        ),
    asked(ref, { max_new_tokens: 900 }),
  );
  const worker = page.workers().find((one) => one.url().includes('language.worker'));
  await worker?.evaluate(() => (globalThis as unknown as { device: GPUDevice }).device.destroy());
  expect(await failed).toMatchObject({ code: 'gpu_lost', message: expect.stringContaining('try again') });
  const [after] = await generate(page, [few]);
  expect(after.result.ids).toEqual(before.result.ids);
});
