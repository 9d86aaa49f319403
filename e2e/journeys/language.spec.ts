/** Language models and voices in the library: inspected, fetched in one precision, used offline, imported from a folder. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from '@playwright/test';
import type { Door } from '../../src/jobs/door.ts';
import { VOICE, languageContents, languageGoldens } from '../../test/language_checkpoints.ts';
import { COMMIT } from '../fixtures/hub.ts';
import { download, HUB, list, test } from '../fixtures/library.ts';

const MODEL = 'someone/tiny-llama';
const REF = `hub:${MODEL}@${COMMIT}`;

test('a language model is inspected, fetched in one precision, listed as what it is, and writes offline', async ({
  context,
  hub,
}) => {
  hub.begin();
  const files = new Map([...languageContents('tiny-llama')].map(([path, bytes]) => [path, Buffer.from(bytes)]));
  files.set('onnx/model_q4f16.onnx', Buffer.alloc(5_000_000));
  files.set('README.md', Buffer.from('# Tiny'));
  hub.repositories.set(MODEL, { files });
  const page = await context.newPage();
  await page.goto('/?backend=wasm#library');

  await page.getByLabel('Name or address', { exact: true }).fill(MODEL);
  await page.getByRole('button', { name: 'Look', exact: true }).click();
  const sheet = page.getByRole('region', { name: MODEL });
  await expect(sheet.getByText('Language model (LlamaForCausalLM)')).toBeVisible();
  await expect(sheet.getByText('1,024 tokens, question and answer together')).toBeVisible();
  await expect(sheet.getByText('apache-2.0')).toBeVisible();
  await expect(sheet.getByRole('radio', { name: /^Full precision/ })).toBeChecked();
  await expect(sheet.getByText('half precision, which the processor cannot')).toBeVisible();
  await sheet.getByRole('button', { name: /^Download/ }).click();

  const card = page.getByRole('listitem').filter({ has: page.getByRole('heading', { name: MODEL }) });
  await expect(card.getByText('Language model')).toBeVisible();
  await expect(card.getByRole('button', { name: 'Verify' })).toBeVisible();
  await expect(card.getByRole('button', { name: 'Use' })).toHaveCount(0);
  expect(hub.heard.map(({ text }) => text).filter((text) => /q4f16|README/.test(text))).toEqual([]);
  await page.getByRole('link', { name: 'Studio' }).first().click();
  await expect(page.getByRole('button', { name: `Use ${MODEL}` })).toHaveCount(0);

  hub.begin();
  const { cases } = languageGoldens('tiny-llama');
  const result = await page.evaluate(
    ([model, messages]) =>
      (globalThis.darkroom as Door).language.generate(
        { model, messages, max_new_tokens: 24, temperature: 0, seed: '0' },
        () => undefined,
      ),
    [REF, cases[0].messages] as const,
  );
  expect(result.ids).toEqual(cases[0].ids);
  expect(hub.heard).toEqual([]);
});

test('a repository in which a network is missing, one that speaks phonemes and one for pictures say what they are', async ({
  door,
  hub,
}) => {
  const repository = (name: string, change: (files: Map<string, Buffer>) => void) => {
    const files = new Map([...languageContents(name)].map(([path, bytes]) => [path, Buffer.from(bytes)]));
    change(files);
    hub.repositories.set(`someone/${name}`, { files });
    return HUB(`someone/${name}`);
  };
  const look = (origin: ReturnType<typeof HUB>) =>
    door.evaluate(async (one) => {
      const { library, language } = globalThis.darkroom as Door;
      const listing = await library.look(one, null);
      return language.look({ kind: 'remote', listing, token: null }).then(
        (summary) => ({ summary, error: null }),
        (error: { code: string; message: string }) => ({
          summary: null,
          error: { code: error.code, message: error.message },
        }),
      );
    }, origin);
  const phonemes = repository(VOICE, (files) => {
    const config = JSON.parse(String(files.get('tokenizer_config.json'))) as Record<string, unknown>;
    files.set('tokenizer_config.json', Buffer.from(JSON.stringify({ ...config, phonemize: true })));
  });
  expect((await look(phonemes)).error).toMatchObject({
    code: 'checkpoint_unsupported',
    message: expect.stringContaining('eSpeak'),
  });
  const classifier = repository('tiny-llama', (files) => {
    files.set('config.json', Buffer.from('{"architectures":["ViTForImageClassification"],"model_type":"vit"}'));
  });
  expect((await look(classifier)).error?.message).toContain('neither writes text nor speaks');
  const torn = repository('tiny-qwen3', (files) => files.delete('onnx/model.onnx_data'));
  const { summary } = await look(torn);
  expect(summary?.kind).toBe('text');
  // Without weights its file list is still complete; it says what is missing when used.
  const { stored } = await download(door, torn);
  expect(stored).toMatchObject({ kind: 'text', state: 'complete' });
  const refused = await door.evaluate(
    (model) =>
      (globalThis.darkroom as Door).language
        .generate(
          { model, messages: [{ role: 'user', content: 'Hello' }], max_new_tokens: 4, temperature: 0, seed: '0' },
          () => undefined,
        )
        .then(
          () => null,
          ({ code, message }: { code: string; message: string }) => ({ code, message }),
        ),
    stored?.ref ?? '',
  );
  expect(refused).toMatchObject({
    code: 'checkpoint_incomplete',
    message: expect.stringContaining('onnx/model.onnx_data'),
  });
});

test('a voice is read in from a folder below the chosen one, and speaks', async ({ page }) => {
  const root = join(test.info().outputPath(), 'stick');
  for (const [path, bytes] of languageContents(VOICE)) {
    const file = join(root, 'voices of the class', VOICE, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, bytes);
  }
  await page.goto('/?backend=wasm#library');
  await page.getByTestId('import-folder').setInputFiles(root);
  const card = page.getByRole('listitem').filter({ has: page.getByRole('heading', { name: VOICE }) });
  await expect(card.getByText(/Voice · here since today/)).toBeVisible();
  expect((await list(page)).map(({ ref, kind }) => ({ ref, kind }))).toEqual([
    { ref: `import:${VOICE}`, kind: 'speech' },
  ]);
  const speech = await page.evaluate(async (model) => {
    const { rate, channels, unspoken } = await (globalThis.darkroom as Door).language.speak({
      model,
      text: 'A red house.',
    });
    return { rate, samples: channels[0].length, unspoken };
  }, `import:${VOICE}`);
  expect(speech).toMatchObject({ rate: 16_000, unspoken: '.' });
  expect(speech.samples).toBeGreaterThan(500);
});
