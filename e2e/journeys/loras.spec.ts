/** LoRAs and checkpoints of one file, from the disk to the picture: the numbers of diffusers through the door, and what a person sees. */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { BUILTIN_CHECKPOINTS } from '../../src/core/builtin_checkpoints.ts';
import { readMetadata } from '../../src/formats/container.ts';
import { pngOf } from '../../test/picture_files.ts';
import {
  CHECKPOINTS,
  openDoor,
  openFile,
  openFolder,
  readGolden,
  runOperation,
  storeAddition,
  type Golden,
} from '../fixtures/door.ts';
import { writeWeightless } from '../fixtures/weightless.ts';

const TEST = join(import.meta.dirname, '..', '..', 'test');
const LORA = join(TEST, 'goldens', 'lora', 'kohya.safetensors');
const FLUX_LORA = join(TEST, 'goldens', 'flow_loras', 'flux1-kohya.safetensors');
const TRANSFORMERS = join(TEST, 'goldens', 'transformers');
const TINY = join(CHECKPOINTS, 'tiny-sd15');
const single = (name: string) => join(TEST, 'single_files', `${name}.safetensors`);

const made = mkdtempSync(join(tmpdir(), 'darkroom-loras-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

/** Largest differences from a golden: of latents, and of pixels out of 255. */
async function compare(page: Page, golden: Golden, operation: unknown) {
  const { job, latents, pictures } = await runOperation(page, operation);
  expect(job.error).toBeNull();
  const worst = golden.latents.reduce((most, value, i) => Math.max(most, Math.abs(value - (latents?.[i] ?? NaN))), 0);
  const rgb = pictures.flatMap(({ rgba }) => [...rgba.filter((_, i) => i % 4 !== 3)]);
  expect(rgb.length).toBe(golden.pixels.length);
  const pixels = rgb.reduce((most, value, i) => Math.max(most, Math.abs(value - golden.pixels[i])), 0);
  return { job, latents: worst, pixels };
}

test('a LoRA of a flow transformer, in kohya’s layout, changes its picture and is recorded', async ({ page }) => {
  await openDoor(page, 'wasm');
  await openFolder(page, writeWeightless(made, 'tiny-flux1-dev'));
  await page.getByTestId('checkpoint-file').setInputFiles(FLUX_LORA);
  const stored = await page.evaluate(async () => {
    const [file] = document.querySelector<HTMLInputElement>('[data-testid="checkpoint-file"]')?.files ?? [];
    return globalThis.darkroom?.library.importAddition(file, () => undefined);
  });
  const golden = readGolden('flux1-dev', TRANSFORMERS);
  const asked = (prompt: string) => ({
    ...golden.operation,
    parameters: { ...golden.operation.parameters, prompt, steps: 1 },
  });
  const words = String(golden.operation.parameters.prompt);
  const plain = await runOperation(page, asked(words));
  const changed = await runOperation(page, asked(`${words}<lora:flux1-kohya:0.5>`));
  expect(changed.job.error).toBeNull();
  const difference = changed.latents?.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - (plain.latents?.[i] ?? NaN))),
    0,
  );
  expect(difference).toBeGreaterThan(0.01);
  const recorded = changed.job.entities.find(({ type }) => type === 'output_image')?.metadata;
  expect(recorded?.loras).toMatchObject([{ lora: 'lora:import:flux1-kohya', sha256: stored?.sha256, weight: 0.5 }]);
});

async function importLora(page: Page) {
  await page.getByTestId('checkpoint-file').setInputFiles(LORA);
  return page.evaluate(async () => {
    const [file] = document.querySelector<HTMLInputElement>('[data-testid="checkpoint-file"]')?.files ?? [];
    return globalThis.darkroom?.library.importAddition(file, () => undefined);
  });
}

test('on WebGPU a LoRA gives what diffusers gives', async ({ page }) => {
  await openDoor(page, 'webgpu');
  await openFolder(page, TINY);
  const stored = await importLora(page);
  expect(stored).toMatchObject({ ref: 'lora:import:kohya', name: 'kohya', state: 'complete' });

  const golden = readGolden('../lora/picture');
  const asked = golden.operation.parameters;
  // Once in the list and once in the prompt: together they add up to the golden's weight.
  const loras = [{ lora: 'lora:import:kohya', weight: 0.5 }];
  const prompt = `${String(asked.prompt)}<lora:kohya:0.3>`;
  const { job, latents, pixels } = await compare(page, golden, {
    ...golden.operation,
    parameters: { ...asked, prompt, loras },
  });
  console.log(`LoRA: latents ${latents.toExponential(1)}, pixels ${pixels}`);
  expect(latents).toBeLessThanOrEqual(1e-3);
  expect(pixels).toBeLessThanOrEqual(2);
  const made = job.entities.find(({ type }) => type === 'output_image')?.metadata;
  const used = { lora: 'lora:import:kohya', name: 'kohya', sha256: stored?.sha256 };
  expect(made?.loras).toMatchObject([
    { ...used, weight: 0.5 },
    { ...used, weight: 0.3 },
  ]);

  const unknown = { ...asked, prompt: 'a <lora:no such thing:1>' };
  const refused = await runOperation(page, { ...golden.operation, parameters: unknown });
  expect(refused.job).toMatchObject({
    run: null,
    error: {
      code: 'invalid_operation',
      message: 'There is no LoRA "no such thing" here; add its file in the library first, or take it out.',
    },
  });

  // One of another family is refused by the plan: nothing is recorded, as nothing was begun.
  const flux = new Uint8Array(readFileSync(FLUX_LORA));
  const inList = { ...asked, loras: [{ lora: await storeAddition(page, 'flux', flux), weight: 1 }] };
  for (const parameters of [inList, { ...asked, prompt: 'a <lora:flux:1>' }]) {
    const stranger = await runOperation(page, { ...golden.operation, parameters });
    expect(stranger.job).toMatchObject({
      run: null,
      error: {
        code: 'checkpoint_unsupported',
        message:
          'The LoRA flux looks like one for FLUX.1, and this checkpoint is Stable Diffusion; choose a LoRA for Stable Diffusion, or a checkpoint of FLUX.1.',
      },
    });
  }
});

test('a checkpoint of one file gives what diffusers gives, and takes of a LoRA what fits', async ({ page }) => {
  await openDoor(page, 'wasm');
  await importLora(page);
  await openFile(page, single('sd2'));
  const velocity = readGolden('../single_files/sd2');
  const alone = await compare(page, velocity, velocity.operation);
  console.log(`one file: latents ${alone.latents.toExponential(1)}, pixels ${alone.pixels}`);
  expect(alone.latents).toBeLessThanOrEqual(1e-3);
  expect(alone.pixels).toBeLessThanOrEqual(2);
  // This checkpoint happens to have a few of the LoRA's layers: they are used, the rest is reported.
  const golden = readGolden('../lora/picture');
  const loras = [{ lora: 'lora:import:kohya', weight: 0.5 }];
  const misfit = await runOperation(page, {
    ...golden.operation,
    parameters: { ...golden.operation.parameters, loras },
  });
  expect(misfit.job.error).toBeNull();
  expect(misfit.job.notices).toContainEqual(
    expect.stringMatching(/^The LoRA kohya is used without .* it was probably made for another kind of model\.$/),
  );
  const { loras: merged } = misfit.job.entities.find(({ type }) => type === 'output_image')?.metadata ?? {};
  expect(merged).toMatchObject([
    { name: 'kohya', left_out: expect.arrayContaining([expect.stringMatching(/to_q$/)]) as unknown },
  ]);
});

/** Drops a file on the page. */
async function drop(page: Page, name: string, bytes: Uint8Array): Promise<void> {
  const transfer = await page.evaluateHandle(
    ({ base64, file }) => {
      const data = new DataTransfer();
      const content = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      data.items.add(new File([content], file, { type: file.endsWith('.png') ? 'image/png' : '' }));
      return data;
    },
    { base64: Buffer.from(bytes).toString('base64'), file: name },
  );
  await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
}

for (const [device, viewport, colorScheme] of [
  ['phone', { width: 390, height: 844 }, 'dark'],
  ['desktop', { width: 1280, height: 900 }, 'light'],
] as const) {
  test.describe(device, () => {
    test.use({ viewport, colorScheme });

    test('a LoRA is added, used, written into the picture, brought back and deleted', async ({ page }, info) => {
      const troubles: string[] = [];
      page.on('pageerror', (error) => troubles.push(error.message));
      await page.goto('/?backend=wasm');
      const generate = page.getByRole('button', { name: /^Generate/ });
      await expect(generate).toBeEnabled();
      await page.getByTestId('checkpoint-folder').setInputFiles(TINY);
      await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
      await page.getByText('LoRAs', { exact: true }).click();
      await expect(page.getByText('None is stored here yet.')).toBeVisible();

      await page.getByTestId('lora-file').setInputFiles(LORA);
      const lora = page.getByRole('group', { name: 'kohya', exact: true });
      await expect(lora.getByRole('checkbox', { name: 'kohya' })).toBeChecked();
      await expect(page.getByText('1 in use')).toBeVisible();
      const weight = lora.getByRole('textbox', { name: 'Weight' });
      await weight.fill('7');
      await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('a boat');
      await generate.click();
      await expect(lora.getByText('Weight must be a number from -4 to 4.')).toBeVisible();
      await weight.fill('0.8');
      for (const [field, value] of Object.entries({ Width: '64', Height: '64', Steps: '2' })) {
        await page.getByRole('textbox', { name: field, exact: true }).fill(value);
      }
      await page.screenshot({ path: info.outputPath(`field-${device}.png`), fullPage: true });
      await generate.click();
      const shown = page.getByRole('figure').getByRole('img').first();
      await expect(shown).toHaveAttribute('alt', 'a boat', { timeout: 120_000 });

      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('link', { name: 'Save as PNG' }).click(),
      ]);
      const picture = new Uint8Array(readFileSync(await download.path()));
      const infotext = (await readMetadata(picture))?.texts.get('parameters') ?? '';
      expect(infotext).toMatch(/^a boat <lora:kohya:0\.8>\n/);
      expect(infotext).toMatch(/Lora hashes: "kohya: [0-9a-f]{12}"/);

      // Restored from the picture while it is stored here.
      await lora.getByRole('checkbox').uncheck();
      await expect(page.getByText('1 in use')).toBeHidden();
      await drop(page, 'boat.png', picture);
      const use = page.getByText('Made with').getByRole('button', { name: 'Use its settings' });
      await use.click();
      await expect(
        page.getByRole('main').getByText('Its settings are in the form now.', { exact: true }),
      ).toBeVisible();
      await expect(lora.getByRole('checkbox')).toBeChecked();
      await expect(weight).toHaveValue('0.8');

      // First another file of that name made the picture, then this very one.
      const digits = createHash('sha256').update(readFileSync(LORA)).digest('hex').slice(0, 10);
      for (const [name, hash, told] of [
        ['kohya', '0123456789', 'the exact LoRA kohya (another file of that name is used)'],
        ['renamed', digits, null],
      ] as const) {
        const line = `Steps: 2, Sampler: Euler, Schedule type: Normal, CFG scale: 4, Seed: 1, Size: 64x64, Lora hashes: "${name}: ${hash}"`;
        const parameters = `a boat <lora:${name}:0.5>\nNegative prompt: fog\n${line}`;
        await drop(page, `${name}.png`, pngOf({ parameters }));
        await use.click();
        await expect(weight).toHaveValue('0.5');
        await expect(page.getByRole('main').getByText('the exact LoRA')).toHaveCount(told === null ? 0 : 1);
        await expect(page.getByRole('main').getByText(told ?? 'Its settings are in the form now')).toBeVisible();
      }
      await weight.fill('0.8');

      // One of another kind is listed with the reason why it is not used.
      await page.getByRole('button', { name: `Use ${BUILTIN_CHECKPOINTS[0].name} Built in`, exact: true }).click();
      await expect(
        lora.getByText(/^Left out: The LoRA kohya changes .*; choose a LoRA that was made for/),
      ).toBeVisible();
      await page.reload();
      await expect(lora.getByText(/^Left out: /)).toBeVisible();

      // A single-file checkpoint is dropped, a pickle is refused, and the LoRA does not fit there either.
      await drop(page, 'old.ckpt', new Uint8Array(8));
      await expect(
        page.getByText(/^old\.ckpt is a pickle, which can run code; get the \.safetensors version/),
      ).toBeVisible();
      await drop(page, 'sd1.safetensors', new Uint8Array(readFileSync(single('sd1'))));
      await expect(page.getByText('sd1', { exact: true })).toBeVisible();
      await expect(page.getByText(/From your disk/)).toBeVisible();

      await page.getByRole('link', { name: 'Library' }).first().click();
      const shelf = page.getByRole('region', { name: 'LoRAs' });
      await shelf.scrollIntoViewIfNeeded();
      await page.screenshot({ path: info.outputPath(`library-${device}.png`), fullPage: true });
      const card = shelf.getByRole('listitem', { name: 'kohya', exact: true });
      await expect(card).toContainText('Read in from a file');
      await expect(
        page.getByRole('region', { name: 'Stored here' }).getByRole('listitem', { name: 'kohya' }),
      ).toHaveCount(0);
      await shelf.getByTestId('library-lora-file').setInputFiles(join(TINY, 'text_encoder', 'model.safetensors'));
      await expect(page.getByText(/^model\.safetensors is not a LoRA; /)).toBeVisible();
      await card.getByRole('button', { name: 'Delete … kohya' }).click();
      await card.getByRole('button', { name: 'Delete', exact: true }).click();
      await expect(card).toBeHidden();

      // Without it, the picture's settings list it as missing.
      await page.getByRole('link', { name: 'Studio' }).first().click();
      await drop(page, 'boat.png', picture);
      await use.click();
      await expect(
        page.getByRole('main').getByText(/^Its settings are in the form now, except for .*the LoRA kohya at 0\.8\.$/),
      ).toBeVisible();
      expect(troubles).toEqual([]);
    });
  });
}
