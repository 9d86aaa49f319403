/**
 * Given pictures with every kind of transparency and camera rotation: what is made from them starts from what Pillow shows
 * (reference/make_background_goldens.py), through the page, the door and the command line alike.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { extname, join, resolve } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { CHECKPOINTS, openDoor, openFolder, runOperation } from '../fixtures/door.ts';

const GOLDENS = resolve('test/goldens/backgrounds');
const CHECKPOINT = join(CHECKPOINTS, 'tiny-sd15');
const PARAMETERS = { prompt: 'a kettle', steps: 1, guidance_scale: 1, strength: 1, seed: '7', width: 32, height: 24 };
const BLUE = '#204060';

const pictures = readdirSync(GOLDENS).filter((name) => /^\w+\.\w+$/.test(name) && !name.endsWith('.json'));

interface Pixels {
  width: number;
  height: number;
  rgba: number[];
}

function dataUrl(name: string): string {
  const type = extname(name).slice(1).replace('jpg', 'jpeg');
  return `data:image/${type};base64,${readFileSync(join(GOLDENS, name)).toString('base64')}`;
}

function pixelsOf(page: Page, url: string): Promise<Pixels> {
  return page.evaluate(async (given) => {
    const image = new Image();
    image.src = given;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image;
    const context = new OffscreenCanvas(width, height).getContext('2d') as OffscreenCanvasRenderingContext2D;
    context.drawImage(image, 0, 0);
    return { width, height, rgba: [...context.getImageData(0, 0, width, height).data] };
  }, url);
}

/** The last job's recorded `input_image`, as a data URL, with its notices and what else was recorded beside its picture. */
function lastJob(page: Page) {
  return page.evaluate(async () => {
    const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
    const { id = '' } = (await door.list()).at(-1) ?? {};
    const { run, entities, notices, error } = await door.wait(id);
    const named = (type: string) => entities.find((entity) => entity.type === type);
    const blob = await door.entity(run ?? '', named('input_image')?.filename ?? '');
    const input = await new Promise<string>((done) => {
      const reader = new FileReader();
      reader.onload = () => {
        done(reader.result as string);
      };
      reader.readAsDataURL(blob);
    });
    const operation = JSON.parse(await (await door.entity(run ?? '', named('input')?.filename ?? '')).text()) as {
      parameters: Record<string, unknown>;
    };
    const { parameters } = named('output_image')?.metadata as { parameters: Record<string, unknown> };
    return { input, notices, error: error?.message ?? null, operation, parameters };
  });
}

async function given(page: Page, operation: string, parameters: Record<string, unknown>) {
  await page.evaluate(
    async (asked) => {
      await globalThis.darkroom?.submit(asked);
    },
    { operation, config: 'stable_diffusion', parameters: { ...PARAMETERS, ...parameters } },
  );
  return lastJob(page);
}

/** Largest difference between two pictures of one size, out of 255. */
function difference(a: Pixels, b: Pixels): number {
  expect([a.width, a.height]).toEqual([b.width, b.height]);
  return a.rgba.reduce((most, value, i) => Math.max(most, Math.abs(value - b.rgba[i])), 0);
}

test.describe('what is made starts at what Pillow shows, within 1 of 255:', () => {
  let page: Page;

  test.beforeAll(async ({ browser }) => {
    page = await (await browser.newContext()).newPage();
    await openDoor(page, 'wasm');
    await openFolder(page, CHECKPOINT);
  });

  test.afterAll(async () => {
    await page.close();
  });

  for (const name of pictures) {
    test(name, async () => {
      for (const [colour, background] of [
        ['white', undefined],
        ['white', '#FFFFFF'],
        ['blue', BLUE],
      ] as const) {
        const { input, notices, error, operation, parameters } = await given(page, 'image_transform', {
          image: dataUrl(name),
          ...(background ? { background } : {}),
        });
        expect(error).toBeNull();
        const shown = await pixelsOf(page, dataUrl(`${name}.${colour}.png`));
        const apart = difference(await pixelsOf(page, input), shown);
        expect(apart, `${name} over ${colour}`).toBeLessThanOrEqual(1);
        expect([operation.parameters.background, parameters.background]).toEqual([background, background]);
        // Nobody chose white, so the page says so, unless nothing shows through.
        const isOpaque = /^opaque|\.jpg$/.test(name);
        expect(notices.some((notice) => notice.includes('filled with white'))).toBe(!isOpaque && !background);
      }
    });
  }

  test('a mask means what it did: transparent keeps, a colour counts however much shows through it', async () => {
    const mask = await page.evaluate(() => {
      const canvas = document.createElement('canvas');
      [canvas.width, canvas.height] = [32, 24];
      const context = canvas.getContext('2d') as CanvasRenderingContext2D;
      context.fillStyle = 'rgb(255 255 255 / 50%)';
      context.fillRect(0, 0, 16, 24);
      return canvas.toDataURL();
    });
    const picture = dataUrl('opaque.png');
    await given(page, 'image_inpaint', { image: picture, mask_image: mask, background: BLUE });
    const result = await page.evaluate(async () => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const { run, entities } = (await door.list()).at(-1) ?? { run: '', entities: [] };
      const { filename = '' } = entities.find(({ type }) => type === 'output_image') ?? {};
      return URL.createObjectURL(await door.entity(run ?? '', filename));
    });
    const [before, after] = [await pixelsOf(page, picture), await pixelsOf(page, result)];
    const changed = (from: number, to: number) =>
      before.rgba.some((value, i) => {
        const x = (i >> 2) % 32;
        return x >= from && x < to && value !== after.rgba[i];
      });
    expect([changed(0, 16), changed(16, 32)]).toEqual([true, false]);
  });

  test('a background that is no colour, or lies behind no picture, is refused in one sentence', async () => {
    const refusal = async (operation: string, parameters: Record<string, unknown>) => {
      const { job } = await runOperation(page, { operation, config: 'stable_diffusion', parameters });
      return job.error?.message;
    };
    for (const background of ['white', '#fff', '#12345g', 255]) {
      expect(await refusal('image_transform', { ...PARAMETERS, image: dataUrl('opaque.png'), background })).toMatch(
        /^background must be a colour written as "#rrggbb"/,
      );
    }
    expect(await refusal('image_generation', { prompt: 'a kettle', background: BLUE })).toMatch(
      /counts only where an image is/,
    );
  });
});

test('the page shows the colour below a transparent picture, and it, the door and the command line start alike', async ({
  page,
}, info) => {
  const name = 'soft_over_magenta.png';
  await page.goto('/?backend=wasm');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  const field = page.getByLabel('Background', { exact: true });
  const chooser = page.getByLabel('Choose a picture');
  await chooser.setInputFiles(join(GOLDENS, 'opaque.png'));
  await expect(page.getByText('32 × 24')).toBeVisible();
  await expect(field).toHaveCount(0);
  await page.getByRole('button', { name: 'Remove the starting picture' }).click();
  await chooser.setInputFiles(join(GOLDENS, name));
  await expect(field).toHaveValue('#ffffff');
  await field.fill(BLUE);
  const shown = page.getByAltText(`The starting picture, ${name}`);
  await expect(shown).toHaveCSS('background-color', 'rgb(32, 64, 96)');
  await page.reload();
  await expect(generate).toBeEnabled();
  await expect(field).toHaveValue(BLUE);
  await expect(page.getByRole('button', { name: 'back to white for background' })).toBeVisible();
  await page.getByRole('button', { name: 'Paint a mask' }).click();
  await expect(page.getByRole('dialog').locator('img')).toHaveCSS('background-color', 'rgb(32, 64, 96)');
  await page.getByRole('button', { name: 'Done' }).click();

  await page.getByTestId('checkpoint-folder').setInputFiles(CHECKPOINT);
  await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
  await page.getByText('More settings').click();
  await page.getByLabel('Width', { exact: true }).fill('32');
  await page.getByLabel('Height', { exact: true }).fill('24');
  await page.getByLabel('Steps', { exact: true }).fill('2');
  await generate.click();
  await expect(page.getByRole('link', { name: 'Save as PNG' })).toBeVisible({ timeout: 180_000 });
  const byPage = await lastJob(page);
  expect(byPage.operation.parameters.background).toBe(BLUE);
  expect(byPage.notices.filter((notice) => notice.includes('white'))).toEqual([]);
  const wanted = await pixelsOf(page, dataUrl(`${name}.blue.png`));
  expect(difference(await pixelsOf(page, byPage.input), wanted)).toBeLessThanOrEqual(1);

  // Another shape: the middle is cropped first, transparency included.
  await page.getByLabel('Width', { exact: true }).fill('24');
  await generate.click();
  await expect.poll(async () => (await lastJob(page)).parameters.width, { timeout: 180_000 }).toBe(24);
  const middle = await pixelsOf(page, (await lastJob(page)).input);
  const part = wanted.rgba.filter((_, i) => (i >> 2) % 32 >= 4 && (i >> 2) % 32 < 28);
  expect(difference(middle, { width: 24, height: 24, rgba: part })).toBeLessThanOrEqual(1);

  const byDoor = await given(page, 'image_transform', { image: dataUrl(name), background: BLUE });
  expect(byDoor.input).toBe(byPage.input);

  const folder = info.outputPath('line');
  await mkdir(folder, { recursive: true });
  await copyFile(join(GOLDENS, name), join(folder, name));
  const parameters = { ...PARAMETERS, image: name, background: BLUE };
  const operation = { operation: 'image_transform', config: 'stable_diffusion', parameters };
  await writeFile(join(folder, 'operation.json'), JSON.stringify(operation));
  const words = ['operation.json', '--out', 'out', '--backend', 'wasm', '--checkpoint', CHECKPOINT];
  const { stdout, stderr } = spawnSync(process.execPath, [resolve('cli/generate.js'), ...words], {
    env: { ...process.env, INIT_CWD: folder },
    encoding: 'utf8',
  });
  expect(stdout, stderr).toContain('input_image');
  const { file } = JSON.parse(stdout.split('\n')[0]) as { file: string };
  expect(`data:image/png;base64,${readFileSync(file).toString('base64')}`).toBe(byPage.input);
});
