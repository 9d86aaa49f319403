/** How a picture was made travels in its file: from other tools into ours and out again, or not at all when switched off. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { readMetadata } from '../../src/formats/container.ts';
import { ExifTag } from '../../src/formats/exif.ts';
import { golden, pngOf } from '../../test/picture_files.ts';

const TINY = resolve('test/checkpoints/tiny-sd15');
/** Pillow wrote an infotext of AUTOMATIC1111's shape into it; see reference/make_format_goldens.py. */
const A1111 = resolve('test/goldens/formats/text_unicode.png');
const PROMPT = 'a 紙の船 🚣, (blue:1.2)\nsecond line';

async function drop(page: Page, name: string, type: string, content: Uint8Array): Promise<void> {
  await page.evaluate(
    ([name, type, content]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(content)], name, { type }));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
    },
    [name, type, [...content]] as const,
  );
}

async function saved(page: Page, format: 'PNG' | 'WebP' | 'JPEG'): Promise<Uint8Array<ArrayBuffer>> {
  const download = page.waitForEvent('download');
  const role = format === 'PNG' ? 'link' : 'button';
  await page.getByRole(role, { name: `Save as ${format}` }).click();
  return new Uint8Array(readFileSync(await (await download).path()));
}

/** The form's values, as the fields show them. */
async function form(page: Page): Promise<Record<string, string>> {
  const values: Record<string, string> = {};
  for (const name of ['Prompt', 'Negative prompt', 'Steps', 'Guidance', 'Seed', 'Width', 'Height']) {
    values[name] = await page.getByRole('textbox', { name, exact: true }).inputValue();
  }
  for (const name of ['Sampler', 'Schedule']) {
    values[name] = await page.getByRole('combobox', { name, exact: true }).inputValue();
  }
  return values;
}

test('the settings of a dropped picture make a picture that brings them along', async ({ page }) => {
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto('/');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await page.getByTestId('checkpoint-folder').setInputFiles(TINY);
  await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
  await page.getByText('More settings').click();

  await drop(page, 'boat.png', 'image/png', new Uint8Array(readFileSync(A1111)));
  await expect(page.getByRole('img', { name: 'The starting picture, boat.png' })).toBeVisible();
  await expect(page.getByText('Made with AUTOMATIC1111.')).toBeVisible();
  await page.getByText('Made with').getByRole('button', { name: 'Use its settings' }).click();
  await expect(
    page.getByRole('main').getByText('Its settings are in the form now, except for the checkpoint boats_v1.'),
  ).toBeVisible();
  // The picture is the result of these settings; a run with them starts from noise alone.
  await expect(page.getByRole('img', { name: 'The starting picture, boat.png' })).toBeHidden();
  expect(await form(page)).toEqual({
    Prompt: PROMPT,
    'Negative prompt': 'rain',
    Steps: '20',
    Guidance: '7',
    Seed: '4294967295',
    Width: '512',
    Height: '768',
    Sampler: 'dpmpp_2m',
    Schedule: 'karras',
  });

  const field = (name: string) => page.getByRole('textbox', { name, exact: true });
  await field('Width').fill('64');
  await field('Height').fill('72');
  await field('Steps').fill('2');
  const asked = await form(page);
  await generate.click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 120_000 });

  for (const format of ['PNG', 'WebP', 'JPEG'] as const) {
    const bytes = await saved(page, format);
    const { texts, exif, xmp } = (await readMetadata(bytes)) ?? { texts: new Map(), exif: new Map(), xmp: null };
    expect(texts.get('parameters') ?? exif.get(ExifTag.userComment)).toContain(
      `${PROMPT}\nNegative prompt: rain\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4294967295, Size: 64x72, Model`,
    );
    expect(texts.get('darkroom') ?? xmp).toContain('"schema_version":1');

    await field('Prompt').fill('something else');
    await field('Seed').fill('1');
    await field('Steps').fill('9');
    await drop(page, `again.${format.toLowerCase()}`, `image/${format.toLowerCase()}`, bytes);
    await expect(page.getByText('Made with Darkroom.')).toBeVisible();
    await page.getByText('Made with').getByRole('button', { name: 'Use its settings' }).click();
    await expect(page.getByRole('main').getByText('Its settings are in the form now.', { exact: true })).toBeVisible();
    expect(await form(page)).toEqual(asked);
  }

  const off = page.getByRole('checkbox', { name: 'Write settings into saved pictures' });
  await expect(off).toBeChecked();
  await off.uncheck();
  const nothing = { texts: new Map(), exif: new Map(), xmp: null, comment: null };
  for (const format of ['PNG', 'WebP', 'JPEG'] as const) {
    await expect(page.getByRole('link', { name: 'Save as PNG' })).toHaveAttribute('href', /^blob:/);
    expect(await readMetadata(await saved(page, format)), format).toEqual(nothing);
  }

  // From now on recordings go without them too, and the choice survives a reload.
  await generate.click();
  await expect(page.getByRole('region', { name: 'Made so far' }).getByRole('button', { name: /^Show:/ })).toHaveCount(
    2,
    { timeout: 120_000 },
  );
  const recorded = await page.evaluate(async () => {
    const door = globalThis.darkroom;
    const [run] = (await door?.runs({ limit: 1 })) ?? [];
    const picture = run?.entities.find(({ type }) => type === 'output_image');
    const blob = picture && (await door?.entity(run.run_id, picture.filename));
    return blob ? [...new Uint8Array(await blob.arrayBuffer())] : [];
  });
  expect(await readMetadata(new Uint8Array(recorded))).toEqual(nothing);
  await page.reload();
  await page
    .getByRole('region', { name: 'Made so far' })
    .getByRole('button', { name: /^Show:/ })
    .first()
    .click();
  await expect(off).not.toBeChecked();
});

/** A picture by AUTOMATIC1111 with the default checkpoint's suggested values, or any others. */
function picture(line: string, prompt = 'a copper kettle'): Uint8Array {
  return pngOf({
    parameters: `${prompt}\nNegative prompt: fog\n${line}, Seed: 31, Model: tiny-sd15, Version: v1.10.1`,
  });
}

const OF_SCENES = 'Steps: 20, Sampler: Euler, Schedule type: Normal, CFG scale: 4, Size: 128x128';
const KEPT = {
  Steps: '20',
  Guidance: '4',
  Width: '128',
  Height: '128',
  Sampler: 'euler',
  Schedule: 'normal',
  Seed: '31',
};

async function use(page: Page, name: string, content: Uint8Array): Promise<void> {
  await drop(page, name, 'image/png', content);
  await page.getByText('Made with').getByRole('button', { name: 'Use its settings' }).click();
}

async function openTiny(page: Page): Promise<void> {
  await page.getByTestId('checkpoint-folder').setInputFiles(TINY);
  await expect(page.getByText('tiny-sd15', { exact: true })).toBeVisible();
}

test('what was brought back stays, whichever checkpoint opens then, until one press returns to its own', async ({
  page,
}) => {
  await page.goto('/');
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  await use(page, 'scenes.png', picture(OF_SCENES));
  await page.getByText('More settings').click();
  expect(await form(page)).toMatchObject(KEPT);
  await openTiny(page);
  expect(await form(page)).toMatchObject(KEPT);
  await expect(page.getByText('Its settings are in the form now.', { exact: true }).first()).toBeVisible();
  await page.reload();
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  expect(await form(page)).toMatchObject({ ...KEPT, Prompt: 'a copper kettle' });

  // The same for typed values, even if they equal the suggestion.
  await openTiny(page);
  const own = page.getByRole('button', { name: "Use this checkpoint's own settings" });
  await own.click();
  await expect(own).toBeHidden();
  const ofTiny = await form(page);
  expect(ofTiny).toMatchObject({ Width: '64', Height: '64', Sampler: '', Schedule: '', Prompt: 'a copper kettle' });
  await page.getByRole('textbox', { name: 'Steps', exact: true }).fill('7');
  await page.getByRole('textbox', { name: 'Steps', exact: true }).fill(ofTiny.Steps);
  await page
    .getByRole('button', { name: /^Use .* Built in$/ })
    .first()
    .click();
  await expect(page.getByRole('textbox', { name: 'Width', exact: true })).toHaveValue('128');
  expect(await form(page)).toMatchObject({ Steps: ofTiny.Steps, Guidance: '4', Height: '128' });
  // Visible even where the settings are folded.
  await page.getByText('More settings').click();
  await own.click();
  await page.getByText('More settings').click();
  expect(await form(page)).toMatchObject({ Steps: '20', Width: '128' });
});

test('what was brought back before the first checkpoint is open stays, too', async ({ page }) => {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  await page.route('**/checkpoints/**', async (route) => {
    await held;
    await route.continue();
  });
  await page.goto('/');
  await expect(page.getByText('Opening …', { exact: true })).toBeVisible();
  const size = 'Steps: 25, Sampler: Euler, Schedule type: Normal, CFG scale: 7.5, Size: 512x512';
  await use(page, 'at_512.png', picture(size));
  release();
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  await page.getByText('More settings').click();
  expect(await form(page)).toMatchObject({ ...KEPT, Steps: '25', Guidance: '7.5', Width: '512', Height: '512' });
});

test('what a recorded run brings back stays as well', async ({ page }) => {
  await page.goto('/');
  const generate = page.getByRole('button', { name: /^Generate/ });
  await expect(generate).toBeEnabled();
  await openTiny(page);
  await page.getByText('More settings').click();
  await page.getByRole('textbox', { name: 'Steps', exact: true }).fill('2');
  await generate.click();
  await page.getByRole('button', { name: 'Use these settings' }).click({ timeout: 120_000 });
  const { Width, Height, Guidance, Seed } = await form(page);
  const builtin = page.getByRole('button', { name: /^Use .* Built in$/ }).first();
  await builtin.click();
  await expect(page.getByRole('status')).toHaveText(/^Opened /);
  expect(await form(page)).toMatchObject({ Steps: '2', Width, Height, Guidance, Seed });
});

test('a file says what it lacks, and words that cannot be read leave the box', async ({ page }) => {
  await page.goto('/');
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  const prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
  const main = page.getByRole('main');
  await prompt.fill('old words');
  await drop(page, 'plain.png', 'image/png', golden('plain.png'));
  await expect(main.getByText('No settings were found in it.')).toBeVisible();
  await drop(page, 'workflow.png', 'image/png', pngOf({ workflow: { nodes: [] } }));
  await expect(main.getByText('It has settings, but in a form that Darkroom cannot read.')).toBeVisible();
  await drop(page, 'damaged.png', 'image/png', pngOf({ darkroom: { schema_version: 1 } }));
  await expect(main.getByText('The settings in it are damaged and cannot be read.')).toBeVisible();
  await expect(prompt).toHaveValue('old words');

  await use(page, 'wordless.png', pngOf({ invokeai_metadata: { steps: 12, cfg_scale: 7, scheduler: 'euler' } }));
  await expect(
    main.getByText('Its settings are in the form now, except for the prompt, which could not be read.'),
  ).toBeVisible();
  await expect(main.getByText('The file does not give the size or seed, so that stays as it was.')).toBeVisible();
  await expect(prompt).toHaveValue('');

  // What does not fit one sentence becomes a list, in words.
  const resources =
    'Civitai resources: [{"type":"lora","weight":0.7,"modelName":"Brass"},{"type":"embed","modelName":"Easy"}]';
  await use(
    page,
    'civitai.png',
    picture(`${OF_SCENES}, Clip skip: 2, ${resources}, Civitai metadata: {"remixOfId":4}`),
  );
  await expect(main.getByText('Its settings are in the form now, except for:')).toBeVisible();
  await expect(main.getByRole('listitem').filter({ hasText: 'the LoRA Brass at 0.7' })).toBeVisible();
  await expect(main.getByText('So a new picture may look different.')).toBeVisible();
  await expect(main).not.toContainText('{');

  // A picture that will differ is not said to differ perhaps, and an embedding that no prompt uses is not mentioned.
  const ancestral =
    'Steps: 20, Sampler: Euler a, Schedule type: Normal, CFG scale: 4, Size: 128x128, TI hashes: "easy: c7"';
  await use(page, 'ancestral.png', picture(ancestral));
  await expect(main.getByText('and the effect of the embedding easy.')).toBeVisible();
  // Step noise is drawn as the file says.
  await expect(main.getByText('so the picture will look different.')).toBeHidden();
  await expect(main.getByText('So a new picture may look different.')).toBeVisible();
  await expect(main.getByText('These words stay in the prompt')).toBeHidden();
  await expect(main.getByText('An embedding acts once')).toBeHidden();
  await use(page, 'embedding.png', picture(`${OF_SCENES}, TI hashes: "easy: c7"`, 'a kettle, easy'));
  await expect(main.getByText('An embedding acts once its file is added to the LoRAs in the library.')).toBeVisible();
  await expect(main.getByText('These words stay in the prompt')).toBeHidden();
});

test('a dropped video gives its settings back and is no picture to start from', async ({ page }) => {
  await page.goto('/');
  await expect(page.getByRole('button', { name: /^Generate/ })).toBeEnabled();
  await drop(page, 'kettle.mp4', 'video/mp4', new Uint8Array(readFileSync('test/recorded_media/tags.mp4')));
  await expect(page.getByText('kettle.mp4 was made with ComfyUI.')).toBeVisible();
  await page.getByText('was made with').getByRole('button', { name: 'Use its settings' }).click();
  await expect(page.getByRole('textbox', { name: 'Prompt', exact: true })).toHaveValue('a copper kettle');
  await expect(page.getByText('or drop or paste one')).toBeVisible();
});
