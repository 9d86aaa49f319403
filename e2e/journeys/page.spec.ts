/** What people do on the page, with the real engine. Small sizes and few steps: CI's GPU is a processor. */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { expect, test as base, type Locator, type Page } from '@playwright/test';
import { BUILTIN_CHECKPOINTS } from '../../src/core/builtin_checkpoints.ts';

const TINY = resolve('test/checkpoints/tiny-sd15');
const PHONE = { width: 390, height: 844 };
const DESKTOP = { width: 1440, height: 900 };

/** A red square as a PNG of 48 × 32 pixels, painted by the browser. */
async function redPicture(page: Page): Promise<Buffer> {
  const bytes = await page.evaluate(async () => {
    const canvas = new OffscreenCanvas(48, 32);
    const context = canvas.getContext('2d') as OffscreenCanvasRenderingContext2D;
    context.fillStyle = '#d02020';
    context.fillRect(0, 0, 48, 32);
    return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
  });
  return Buffer.from(bytes);
}

/** Number of pixels in a picture with exactly that red. */
function redPixels(picture: Locator): Promise<number> {
  return picture.evaluate((image: HTMLImageElement) => {
    const { naturalWidth, naturalHeight } = image;
    const context = new OffscreenCanvas(naturalWidth, naturalHeight).getContext(
      '2d',
    ) as OffscreenCanvasRenderingContext2D;
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, naturalWidth, naturalHeight);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      count += data[i] === 0xd0 && data[i + 1] === 0x20 && data[i + 2] === 0x20 ? 1 : 0;
    }
    return count;
  });
}

/** Every journey ends with a silent console and without a request to another origin. */
const test = base.extend({
  page: async ({ page, baseURL }, use) => {
    const troubles: string[] = [];
    page.on('console', (message) => {
      if (message.type() === 'error') {
        troubles.push(`console: ${message.text()}`);
      }
    });
    page.on('pageerror', (error) => troubles.push(`page: ${error.message}`));
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url());
      if (origin !== baseURL && protocol !== 'blob:' && protocol !== 'data:') {
        troubles.push(`request: ${request.url()}`);
      }
    });
    await use(page);
    expect(troubles).toEqual([]);
  },
});

class Studio {
  readonly prompt: Locator;
  readonly generate: Locator;
  readonly alert: Locator;
  readonly result: Locator;
  readonly runs: Locator;

  constructor(readonly page: Page) {
    this.prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    this.generate = page.getByRole('button', { name: /^Generate/ });
    this.alert = page.getByRole('alert');
    this.result = page.getByRole('figure').getByRole('img').first();
    this.runs = page.getByRole('region', { name: 'Made so far' }).getByRole('button', { name: /^Show:/ });
  }

  async open(query = ''): Promise<void> {
    await this.page.goto(`/${query}`);
    await expect(this.generate).toBeEnabled();
    await expect(this.page.getByText('leaves this device')).toBeVisible();
  }

  /** The tiny checkpoint makes noise, quickly. */
  async openTiny(): Promise<void> {
    await this.page.getByTestId('checkpoint-folder').setInputFiles(TINY);
    await expect(this.page.getByText('tiny-sd15', { exact: true })).toBeVisible();
  }

  field(name: string): Locator {
    return this.page.getByRole('textbox', { name, exact: true });
  }

  async settings(values: Record<string, string>): Promise<void> {
    if (!(await this.field('Steps').isVisible())) {
      await this.page.getByText('More settings').click();
    }
    for (const [name, value] of Object.entries(values)) {
      await this.field(name).fill(value);
    }
  }

  async quick(): Promise<void> {
    await this.settings({ Width: '64', Height: '64', Steps: '2' });
  }
}

for (const [device, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
  test.describe(device, () => {
    test.use({ viewport });

    test('a newcomer presses Generate and gets the picture', async ({ page }) => {
      const studio = new Studio(page);
      await studio.open();
      await expect(studio.prompt).not.toHaveValue('');
      const words = await studio.prompt.inputValue();

      await studio.generate.click();
      await expect(page.getByRole('progressbar')).toBeVisible();
      await expect(page.getByText(/step \d+ of \d+/)).toBeVisible({ timeout: 120_000 });
      await expect(studio.result).toHaveAttribute('alt', words, { timeout: 150_000 });
      await expect(studio.result).toBeInViewport();
      await expect(page.getByRole('status')).toContainText('The picture is ready');

      const download = page.waitForEvent('download');
      await page.getByRole('link', { name: 'Save as PNG' }).click();
      expect((await download).suggestedFilename()).toMatch(/^darkroom-\d+\.png$/);
    });

    test('nothing is wider than the screen', async ({ page }) => {
      const studio = new Studio(page);
      await studio.open();
      await studio.settings({ Width: '65' });
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      expect(overflow).toBeLessThanOrEqual(0);
    });
  });
}

test('a newcomer is told what paints, what it knows, and where larger ones are', async ({ page }) => {
  const studio = new Studio(page);
  const [{ name, about, knows }] = BUILTIN_CHECKPOINTS;
  await studio.open();
  const stage = page.getByRole('region', { name: 'Picture', exact: true });
  await expect(stage).toContainText(`${name} comes with the page. ${about}`);
  const checkpoint = page.getByRole('region', { name: 'Checkpoint' });
  await checkpoint.getByText('The words it knows').click();
  await expect(checkpoint.getByText(knows)).toBeVisible();
  await stage.getByRole('link', { name: 'Get a larger one' }).click();
  await expect(page.getByRole('heading', { name: 'Stored here' })).toBeVisible();
});

test('the one of four steps is a tap away, stays chosen, and paints an example in four steps', async ({ page }) => {
  const studio = new Studio(page);
  const [, { name, about }] = BUILTIN_CHECKPOINTS;
  await studio.open();
  const stage = page.getByRole('region', { name: 'Picture', exact: true });
  await page.getByRole('button', { name: `Use ${name}` }).click();
  await expect(stage).toContainText(`${name} comes with the page. ${about}`);
  await page.reload();
  await expect(stage).toContainText(`${name} comes with the page. ${about}`);
  const [example] = await page.getByRole('list', { name: 'Example prompts' }).getByRole('button').all();
  await example.click();
  const words = await studio.prompt.inputValue();
  await studio.generate.click();
  await expect(studio.result).toHaveAttribute('alt', words, { timeout: 150_000 });
  await expect(page.getByRole('region', { name: 'Made so far' })).toBeVisible();
  const recorded = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]);
  expect(recorded?.operation).toMatchObject({
    checkpoint: 'builtin:scenes-4-steps',
    parameters: { steps: 4, guidance_scale: 1, width: 128, height: 128 },
  });
});

test.describe('with a small checkpoint', () => {
  test.use({ viewport: DESKTOP });

  test('a job is cancelled in the middle, and the next one runs', async ({ page }) => {
    const studio = new Studio(page);
    await studio.open();
    await studio.openTiny();
    await studio.settings({ Width: '64', Height: '64', Steps: '150' });
    await studio.generate.click();
    await expect(page.getByText(/step [1-9]\d* of 15\d/)).toBeVisible({ timeout: 60_000 });
    await expect(page).toHaveTitle(/ % · Darkroom/);
    await page.getByRole('button', { name: 'Cancel' }).click();
    await expect(page.getByRole('status')).toHaveText('Cancelled.');
    await expect(page.getByRole('progressbar')).toBeHidden();

    await studio.quick();
    await studio.generate.click();
    await expect(studio.result).toBeVisible({ timeout: 60_000 });
  });

  test('further presses wait in line and can be taken out of it', async ({ page }) => {
    const studio = new Studio(page);
    await studio.open();
    await studio.openTiny();
    await studio.settings({ Width: '64', Height: '64', Steps: '100' });
    await studio.generate.click();
    await expect(studio.generate).toHaveText('Generate next');
    await studio.prompt.fill('the second');
    await studio.generate.click();
    await studio.prompt.fill('the third');
    await studio.generate.click();
    const line = page.getByRole('list', { name: 'Waiting in line' }).getByRole('listitem');
    await expect(line).toHaveCount(2);
    await page.getByRole('button', { name: 'Take number 1 out of the line' }).click();
    await expect(line).toHaveCount(1);
    await expect(line).toContainText('the third');
    await page.getByRole('button', { name: 'Take number 1 out of the line' }).click();
    await page.getByRole('button', { name: 'Cancel' }).click();
    await expect(page.getByRole('progressbar')).toBeHidden();
  });

  test('a picture to start from, with a mask', async ({ page }) => {
    const studio = new Studio(page);
    await studio.open();
    await studio.openTiny();
    await studio.quick();
    await page
      .getByLabel('Choose a picture')
      .setInputFiles({ name: 'red.png', mimeType: 'image/png', buffer: await redPicture(page) });
    await expect(page.getByRole('img', { name: 'The starting picture, red.png' })).toBeVisible();
    await expect(studio.field('Strength')).toHaveValue('0.8');
    await expect(page.getByText('It has another shape')).toBeVisible();

    await page.getByRole('button', { name: 'Paint a mask' }).click();
    const editor = page.getByRole('dialog', { name: 'Paint what should change' });
    const canvas = editor.getByRole('application');
    const box = (await canvas.boundingBox()) as { x: number; y: number; width: number; height: number };
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width / 2 + 60, box.y + box.height / 2, { steps: 3 });
    await page.mouse.up();
    await editor.getByRole('button', { name: 'Undo' }).click();
    await expect(editor.getByRole('button', { name: 'Undo' })).toBeDisabled();
    // The same by keyboard.
    await canvas.focus();
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press(']');
    await page.keyboard.press('Space');
    await editor.getByRole('button', { name: 'Invert' }).click();
    await page.keyboard.press('Escape');
    await expect(editor).toBeHidden();
    await expect(page.getByText('with a mask')).toBeVisible();
    await expect(studio.field('Strength')).toHaveValue('1');
    const keeps = page.getByRole('checkbox', { name: 'Keep everything outside the mask exactly as it was' });
    await expect(keeps).toBeChecked();

    await studio.generate.click();
    await expect(studio.result).toBeVisible({ timeout: 60_000 });
    expect(await redPixels(studio.result)).toBeGreaterThan(20);
    const recorded = await page.evaluate(async () => (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]);
    expect(recorded?.operation?.operation).toBe('image_inpaint');
    expect(recorded?.entities.map(({ type }) => type)).toEqual(
      expect.arrayContaining(['input_image', 'input_mask_image', 'output_image']),
    );

    await page.getByRole('button', { name: 'Remove the mask' }).click();
    await page.getByRole('button', { name: 'Remove the starting picture' }).click();
    await expect(page.getByText('Choose a picture …')).toBeVisible();
  });

  test('pictures are dropped and pasted; what is no picture is said to be none', async ({ page }) => {
    const studio = new Studio(page);
    await studio.open();
    const give = (kind: 'drop' | 'paste', name: string, type: string, content: number[]) =>
      page.evaluate(
        ([kind, name, type, content]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(content)], name, { type }));
          document.body.dispatchEvent(
            kind === 'drop'
              ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })
              : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true }),
          );
        },
        [kind, name, type, content] as const,
      );
    const picture = [...(await redPicture(page))];
    await give('drop', 'dropped.png', 'image/png', picture);
    await expect(page.getByText('dropped.png', { exact: true })).toBeVisible();
    await give('paste', 'pasted.png', 'image/png', picture);
    await expect(page.getByText('pasted.png', { exact: true })).toBeVisible();
    await give('drop', 'notes.txt', 'text/plain', [104, 105]);
    await expect(studio.alert).toHaveText(/"notes.txt" is not a picture that this browser can read/);
    await expect(page.getByText('pasted.png', { exact: true })).toBeVisible();
  });

  test('a folder that is no checkpoint gets one sentence, and the page goes on with the one before', async ({
    page,
  }) => {
    const studio = new Studio(page);
    const folder = await mkdtemp(join(tmpdir(), 'darkroom-'));
    try {
      await studio.open();
      await studio.openTiny();

      const empty = join(folder, 'holiday');
      await cp(join(TINY, 'scheduler'), empty, { recursive: true });
      await page.getByTestId('checkpoint-folder').setInputFiles(empty);
      await expect(studio.alert).toContainText('model_index.json');

      const broken = join(folder, 'broken');
      await cp(TINY, broken, { recursive: true });
      await writeFile(join(broken, 'model_index.json'), '{ "_class_name": ');
      await page.getByTestId('checkpoint-folder').setInputFiles(broken);
      await expect(studio.alert).toContainText('model_index.json of "broken" is not valid JSON');

      await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
      await studio.quick();
      await studio.generate.click();
      await expect(studio.result).toBeVisible({ timeout: 60_000 });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  test('the runs so far outlast a reload, bring their settings back, and can be deleted', async ({ page }) => {
    const studio = new Studio(page);
    await studio.open();
    await studio.openTiny();
    await studio.quick();
    await studio.prompt.fill('remember me');
    await studio.settings({ Seed: '12345', 'Negative prompt': 'noise' });
    await studio.generate.click();
    await expect(studio.result).toBeVisible({ timeout: 60_000 });

    await page.reload();
    // The typed text is back, and so are the results.
    await expect(studio.prompt).toHaveValue('remember me');
    await expect(studio.runs).toHaveCount(1);
    await studio.prompt.fill('something else');
    await studio.settings({ Seed: '1', Steps: '9' });
    await studio.runs.click();
    await expect(studio.result).toHaveAttribute('alt', 'remember me');
    await page.getByRole('button', { name: 'Use these settings' }).click();
    await expect(studio.prompt).toHaveValue('remember me');
    await expect(studio.field('Seed')).toHaveValue('12345');
    await expect(studio.field('Steps')).toHaveValue('2');
    await expect(studio.field('Negative prompt')).toHaveValue('noise');

    await page.getByRole('button', { name: 'Delete …' }).click();
    await page.getByRole('button', { name: 'Delete', exact: true }).click();
    await expect(studio.runs).toHaveCount(0);
    await page.reload();
    await expect(page.getByText('Everything you make is kept here')).toBeVisible();
  });
});

test('wrong values get one sentence each, and nothing is lost', async ({ page }) => {
  const studio = new Studio(page);
  await studio.open();
  await studio.openTiny();
  await studio.prompt.fill('keep these words');
  const wrong: [field: string, value: string, sentence: string][] = [
    ['Steps', '0', 'Steps must be a whole number from 1 to 150.'],
    ['Width', '100', 'Width must be a multiple of 8 from 16 to 4096 pixels.'],
    ['Guidance', 'much', 'Guidance must be a number from 0 to 100.'],
    ['Seed', '4.5', 'Seed must be a whole number from 0 to 18446744073709551615.'],
  ];
  for (const [field, value, sentence] of wrong) {
    await studio.settings({ [field]: value });
    await studio.generate.click();
    await expect(page.getByText(sentence)).toBeVisible();
    await expect(studio.field(field)).toHaveValue(value);
    await expect(studio.field(field)).toHaveAccessibleDescription(sentence);
    await expect(page.getByRole('progressbar')).toBeHidden();
    await studio.settings({ [field]: field === 'Guidance' ? '2' : field === 'Width' ? '64' : '2' });
    await expect(page.getByText(sentence)).toBeHidden();
  }
  await expect(studio.prompt).toHaveValue('keep these words');
});

test('the keyboard is enough', async ({ page }) => {
  const studio = new Studio(page);
  await studio.open();
  await studio.openTiny();
  await studio.quick();
  await studio.settings({ Steps: '150' });
  await studio.prompt.focus();
  await page.keyboard.press('ControlOrMeta+Enter');
  await expect(page.getByText(/step [1-9]\d* of 15\d/)).toBeVisible({ timeout: 60_000 });
  // While typing, Shift+X is a letter.
  await page.keyboard.press('Shift+X');
  await expect(studio.prompt).toHaveValue(/X/);
  await expect(page.getByRole('progressbar')).toBeVisible();
  await studio.generate.focus();
  await page.keyboard.press('Shift+X');
  await expect(page.getByRole('progressbar')).toBeHidden();

  await page.getByRole('button', { name: 'What is seed?' }).focus();
  await page.keyboard.press('Enter');
  await expect(page.getByText('randomness grows from')).toBeVisible();
  await page.keyboard.press('Escape');
  await expect(page.getByText('randomness grows from')).toBeHidden();
});

test('an address that asks for an unknown backend gets one sentence', async ({ page }) => {
  const studio = new Studio(page);
  await studio.open('?backend=magic');
  await expect(studio.alert).toContainText('"magic", which does not exist; it can be webgpu or wasm');
});

base('an engine that cannot be loaded gets one sentence, and Try again starts it', async ({ page, context }) => {
  const studio = new Studio(page);
  const script = /generation\.worker/;
  await context.route(script, (route) => route.fulfill({ status: 404 }));
  await page.goto('/');
  await expect(studio.alert).toContainText('could not be loaded');
  await expect(page.getByText('Darkroom could not start.')).toBeVisible();
  await studio.prompt.fill('still here');
  await expect(studio.generate).toBeDisabled();
  await page.keyboard.press('ControlOrMeta+Enter');
  await expect(page.getByRole('progressbar')).toBeHidden();

  await context.unroute(script);
  await page.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByText('Comes with Darkroom')).toBeVisible();
  await expect(studio.prompt).toHaveValue('still here');
  await expect(studio.alert).toBeEmpty();
});

test('the theme that was chosen is there before the first paint', async ({ page }) => {
  const studio = new Studio(page);
  await studio.open();
  await page.getByRole('radio', { name: 'Light' }).check();
  await page.reload({ waitUntil: 'commit' });
  await expect(page.locator('html')).toHaveAttribute('data-theme', 'light');
});
