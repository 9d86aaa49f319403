/** What the page makes besides pictures, and how prompts are rewritten before painting. The models are tiny and say nothing wise. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, type Locator, type Page } from '@playwright/test';
import { ArchitectureFolders } from '../fixtures/architectures.ts';
import { VOICE, languageContents, saying } from '../../test/language_checkpoints.ts';
import { modelFolders, writeModel } from '../fixtures/models.ts';
import { writeWeightless } from '../fixtures/weightless.ts';

/** A model that answers everything with one sketch, which fails in its fifth line. */
const PROGRAMMER = 'tiny-programmer';
/** A model that rewrites everything as the same words: a random one, drawing by a random seed, now and then says nothing. */
const REWRITER = 'tiny-rewriter';
const UNDEFINED = 'dots is not defined';
const FAILING = `function setup() {
  createCanvas(60, 60);
}
function draw() {
  circle(dots, 30, 10);
}
`;

let folder: string;
test.beforeAll(() => {
  folder = modelFolders('tiny-llama', VOICE);
  const programmer = languageContents('tiny-llama');
  saying(programmer, `Here it is:\n\n\`\`\`js\n${FAILING}\`\`\`\n`);
  writeModel(join(folder, PROGRAMMER), programmer);
  const rewriter = languageContents('tiny-llama');
  saying(rewriter, 'a boat of old wood');
  writeModel(join(folder, REWRITER), rewriter);
});
test.afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Errors of the page, not of the sketch that fails on purpose. */
const errors: string[] = [];
test.beforeEach(({ page }) => {
  errors.length = 0;
  page.on('pageerror', ({ message }) => errors.push(...(message === UNDEFINED ? [] : [message])));
});
test.afterEach(() => expect(errors).toEqual([]));

class Making {
  readonly generate: Locator;
  readonly prompt: Locator;
  readonly steps: Locator;

  constructor(readonly page: Page) {
    this.generate = page.getByRole('button', { name: /^Generate/ });
    this.prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    this.steps = page.getByRole('list', { name: 'Steps' });
  }

  async open(): Promise<void> {
    await this.page.goto('/?backend=wasm');
    await expect(this.page.getByText('leaves this device')).toBeVisible();
    await expect(this.generate).toBeEnabled({ timeout: 60_000 });
  }

  async choose(medium: string): Promise<void> {
    await this.page
      .getByRole('radiogroup', { name: 'What to make' })
      .getByRole('radio', { name: medium, exact: true })
      .check({ force: true });
  }

  async openModel(name: string): Promise<void> {
    await this.page.getByTestId('language-folder').setInputFiles(join(folder, name));
  }

  async set(values: Record<string, string>): Promise<void> {
    const [first] = Object.keys(values);
    if (!(await this.field(first).isVisible())) {
      await this.page.getByText('More settings').click();
    }
    for (const [name, value] of Object.entries(values)) {
      await this.field(name).fill(value);
    }
  }

  field(name: string): Locator {
    return this.page.getByRole('textbox', { name, exact: true });
  }

  async last(): Promise<Record<string, unknown> | undefined> {
    return this.page.evaluate(
      async () =>
        (await globalThis.darkroom?.runs({ limit: 1 }))?.[0]?.operation as Record<string, unknown> | undefined,
    );
  }
}

test('what somebody begins while the first checkpoint opens stays: their words, and what to make', async ({ page }) => {
  const making = new Making(page);
  let release: () => void = () => undefined;
  const hold = () => new Promise<void>((resolve) => (release = resolve));
  let held = hold();
  await page.route('**/checkpoints/**', async (route) => {
    await held;
    await route.continue();
  });
  await page.goto('/?backend=wasm');
  await making.prompt.focus();
  release();
  await expect(making.generate).toBeEnabled({ timeout: 60_000 });
  await making.prompt.pressSequentially('an owl');
  await expect(making.prompt).toHaveValue('an owl');

  held = hold();
  await page.reload();
  await making.choose('Video');
  release();
  await expect(page.getByText(/^Choose a checkpoint of /)).toBeVisible({ timeout: 60_000 });
});

test('Stable Diffusion XL is chosen like any other checkpoint, and its sizes are set among the other settings', async ({
  page,
}) => {
  const making = new Making(page);
  await making.open();
  const folders = new ArchitectureFolders();
  try {
    await page.getByText('More settings').click();
    await expect(making.field('Steps')).toBeVisible();
    await expect(making.field('Original width')).toBeHidden();
    await page.getByTestId('checkpoint-folder').setInputFiles(folders.write('sdxl'));
    await expect(making.field('Original width')).toHaveValue('32');
    await making.set({ 'Original width': 'wide', Steps: '2' });
    await making.prompt.click();
    await expect(page.getByText('Original width must be a whole number from 1 to 16384.')).toBeVisible();
    await making.set({ 'Original width': '200', 'Cut off above': '16' });
    await making.prompt.fill('a fox');
    await making.generate.click();
    await expect(page.getByRole('figure').getByRole('img').first()).toHaveAttribute('alt', 'a fox');
    expect(await making.last()).toMatchObject({
      checkpoint: 'folder:sdxl',
      parameters: { original_width: 200, crop_top: 16, steps: 2, width: 32 },
    });
  } finally {
    folders.remove();
  }
});

test('words: without a model one sentence says how to get one; with one they are written while one watches', async ({
  page,
}) => {
  const making = new Making(page);
  await making.open();
  await making.choose('Text');
  await expect(page.getByText('This needs a language model, and none is here yet.')).toBeVisible();
  await expect(making.generate).toHaveAttribute('aria-disabled', 'true');
  await expect(making.generate).toHaveAccessibleDescription('Get a language model first.');
  await making.openModel('tiny-llama');
  await expect(page.getByRole('region', { name: 'Language model' }).getByRole('combobox')).toBeVisible();
  await making.prompt.fill('the sea');
  await making.field('Rule').fill('Say it shorter.');
  await making.set({ 'Longest answer': '24', Temperature: '0' });
  await making.generate.click();
  const stage = page.getByRole('region', { name: 'Text', exact: true });
  await expect(stage.getByRole('button', { name: 'Copy' })).toBeVisible({ timeout: 120_000 });
  expect(await making.last()).toMatchObject({
    config: 'text_transformation',
    parameters: {
      prompt: 'the sea',
      instruction: 'Say it shorter.',
      max_new_tokens: 24,
      temperature: 0,
      language: 'en',
    },
  });
  await page.reload();
  await expect(making.prompt).toHaveValue('the sea');
  await expect(making.field('Longest answer')).toHaveValue('24');
});

test('a voice reads aloud, and what it said can be played', async ({ page }) => {
  const making = new Making(page);
  await making.open();
  await making.choose('Sound');
  await expect(page.getByText('This needs a voice, and none is here yet.')).toBeVisible();
  await making.openModel(VOICE);
  await making.prompt.fill('abc');
  await making.generate.click();
  await expect(
    page.getByRole('region', { name: 'Sound', exact: true }).getByRole('button', { name: 'Play' }),
  ).toBeEnabled({ timeout: 120_000 });
});

test('a rule rewrites the words, which are seen, changed and gone on from', async ({ page }) => {
  const making = new Making(page);
  await making.open();
  await making.set({ Width: '64', Height: '64' });
  await making.field('Steps').fill('2');
  await making.prompt.fill('an old boat');
  await page.getByText('Rewrite first').click();
  const rule = page.getByRole('combobox', { name: 'Rule' });

  // Without a model the rule is a template to fill by hand.
  await rule.selectOption({ label: 'Almost nothing' });
  const hand = page.getByRole('textbox', { name: 'Rewrite it yourself' });
  await expect(hand).toHaveValue(/an old boat/);
  await expect(page.getByText('No language model is here to do it for you.')).toBeVisible();
  await hand.fill('a single plank of an old boat');
  await making.generate.click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 150_000 });
  await expect(making.steps.getByRole('textbox')).toHaveValue('a single plank of an old boat');

  // With one, the words come first.
  await making.choose('Text');
  await making.openModel(REWRITER);
  await expect(page.getByText(/^Opened (?!Darkroom)/)).toBeAttached();
  await making.choose('Picture');
  await rule.selectOption({ label: 'Write a rule of my own …' });
  await page.getByRole('textbox', { name: 'Name', exact: true }).fill('Mine');
  await page.getByRole('textbox', { name: 'What the rule says' }).fill('Say it in other words.');
  await making.generate.click();
  const rewritten = making.steps.getByRole('textbox', { name: 'Rewritten' });
  await expect(making.steps.getByRole('button', { name: 'Go on from here' })).toBeVisible({ timeout: 120_000 });
  await rewritten.fill('a boat of paper');
  await making.steps.getByRole('button', { name: 'Go on from here' }).click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 150_000 });
  expect(await making.last()).toMatchObject({
    config: 'interception_own',
    parameters: { prompt: 'an old boat', interception: { instruction: 'Say it in other words.' } },
    given: { interception: { text: 'a boat of paper' } },
  });
  await making.steps.getByRole('button', { name: 'Make it again from here' }).isVisible();

  // A person's own rules survive a reload and can be deleted.
  await page.reload();
  await expect(page.getByText('Mine', { exact: true }).first()).toBeVisible();
  await page.getByText('Rewrite first').click();
  await expect(rule.getByRole('option', { name: 'Mine' })).toHaveCount(1);
  await page.getByRole('button', { name: 'Delete this rule' }).click();
  await expect(rule).toHaveValue('');
});

test('without a model words are translated by hand, after a rule and alone', async ({ page }) => {
  const making = new Making(page);
  await making.open();
  await making.set({ Width: '64', Height: '64' });
  await making.field('Steps').fill('2');
  await making.prompt.fill('ein altes Boot');
  await page.getByText('Rewrite first').click();
  await page.getByRole('combobox', { name: 'Rule' }).selectOption({ label: 'Almost nothing' });
  await page.getByRole('textbox', { name: 'Rewrite it yourself' }).fill('eine Planke');
  await page.getByRole('checkbox', { name: 'Translate into English first' }).check();
  const translation = page.getByRole('textbox', { name: 'Translate it yourself' });
  await expect(translation).toHaveValue('eine Planke');
  await translation.fill('a plank');
  await making.generate.click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 150_000 });
  expect(await making.last()).toMatchObject({
    config: 'interception_translated',
    given: { interception: { text: 'eine Planke' }, translation: { text: 'a plank' } },
  });
  await expect(making.steps.getByRole('textbox')).toHaveCount(2);

  // A result for an earlier prompt says so until it is redone.
  await page.getByRole('combobox', { name: 'Rule' }).selectOption({ label: 'None' });
  await expect(translation).toHaveValue('a plank');
  await expect(page.getByText('This was written when your words were others.')).toBeVisible();
  await page.reload();
  await expect(page.getByText('Translate into English first').first()).toBeVisible();
  await page.getByText('Rewrite first').click();
  await expect(translation).toHaveValue('a plank');
  await page.getByRole('button', { name: 'begin again' }).click();
  await expect(translation).toHaveValue('ein altes Boot');
  await translation.fill('an old boat');
  await expect(page.getByText('This was written when your words were others.')).toHaveCount(0);
  await making.generate.click();
  await expect
    .poll(() => making.last())
    .toMatchObject({
      config: 'translated_prompt',
      parameters: { prompt: 'ein altes Boot' },
      given: { translation: { text: 'an old boat' } },
    });
  await expect(making.steps.getByRole('textbox')).toHaveValue('an old boat', { timeout: 150_000 });
});

test('a picture is made at once of words that a rule rewrites, where one does not want to see them', async ({
  page,
}) => {
  const making = new Making(page);
  await making.open();
  await making.set({ Width: '64', Height: '64' });
  await making.field('Steps').fill('2');
  await making.prompt.fill('an old boat');
  await making.choose('Text');
  await making.openModel(REWRITER);
  await making.choose('Picture');
  await page.getByText('Rewrite first').click();
  await page.getByRole('combobox', { name: 'Rule' }).selectOption({ label: 'Almost nothing' });
  await page.getByRole('checkbox', { name: 'Make the picture at once, without a look at the words' }).check();
  await making.generate.click();
  await expect(page.getByRole('figure').getByRole('img').first()).toBeVisible({ timeout: 300_000 });
  const operation = await making.last();
  expect(operation).toMatchObject({ config: 'interception_less', parameters: { prompt: 'an old boat' } });
  expect(operation).not.toHaveProperty('until');
  // What was written can still be read and continued from.
  await expect(making.steps.getByRole('textbox', { name: 'Rewritten' })).toHaveValue(/^a boat of old wood/);
  await expect(making.steps.getByRole('button', { name: 'Make it again from here' })).toBeVisible();
});

test('a sketch that a model wrote is tried where it is shown, and sent back once with what went wrong', async ({
  page,
}) => {
  const making = new Making(page);
  await making.open();
  await making.choose('Code');
  await making.openModel(PROGRAMMER);
  await making.field('What it does').fill('dots that follow the mouse');
  await making.set({ 'Longest answer': '1' });
  await making.generate.click();
  const tries = page.getByRole('button', { name: 'Try it here' });
  await tries.click();
  const problem = page.locator('.problem');
  await expect(problem).toContainText(`Line 5 ReferenceError: ${UNDEFINED}`);
  await page.getByRole('button', { name: 'Have it mended' }).click();
  await expect
    .poll(() => making.last())
    .toMatchObject({
      config: 'p5js_code',
      parameters: {
        prompt: 'dots that follow the mouse',
        sketch: FAILING,
        error: { message: `ReferenceError: ${UNDEFINED}`, line: 5 },
      },
    });
  await expect(tries).toBeVisible();
  const sent = await page.evaluate(async () => {
    const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
    const { filename } = run.entities.find(({ type }) => type === 'sent_messages') ?? { filename: '' };
    return (await globalThis.darkroom?.entity(run.run_id, filename))?.text();
  });
  expect(sent).toContain('This sketch fails in line 5, which is: circle(dots, 30, 10);');

  // This model does no better and is not asked again; a person can fix it here or in the room of sketches.
  await tries.click();
  await expect(problem).toContainText(UNDEFINED);
  await expect(page.getByRole('button', { name: 'Have it mended' })).toHaveCount(0);
  const code = page.getByRole('textbox', { name: 'Code' });
  await code.fill(FAILING.replace('dots', 'mouseX'));
  await page
    .getByRole('button', { name: 'Restart' })
    .or(page.getByRole('button', { name: 'Run', exact: true }))
    .click();
  await expect(page.getByRole('status').filter({ hasText: 'The sketch runs.' })).toBeAttached();
  await expect(problem).toHaveCount(0);
  await page.getByRole('button', { name: 'Open in Sketches' }).click();
  await expect(page.getByRole('textbox', { name: 'Code' })).toContainText('circle(mouseX, 30, 10);');
});

test('a flow transformer: its sizes and what counts for it; FLUX.2 is shown pictures, in order', async ({ page }) => {
  const making = new Making(page);
  await making.open();
  const picture = page.getByRole('figure').getByRole('img').first();

  // A config that paints has the picture form, without the fields it ignores.
  await openCheckpoint(page, 'tiny-z-image-turbo');
  await making.set({ Width: '72', Height: '64' });
  await expect(making.field('Steps')).toHaveValue('8');
  // The sizes that its config knows of.
  const sizes = page.getByRole('combobox', { name: 'Sizes that the model does well' });
  await sizes.selectOption('1344 × 576 (21:9)');
  await expect(making.field('Width')).toHaveValue('1344');
  await expect(making.field('Height')).toHaveValue('576');
  await making.set({ Width: '72', Height: '64' });
  await expect(sizes).toHaveValue('');
  await expect(page.getByRole('combobox', { name: 'Prediction' })).toHaveCount(0);
  await page.getByRole('combobox', { name: 'Sampler' }).selectOption({ label: 'Heun' });
  await expect(page.getByText('Width must be a multiple of 16 from 16 to 4096 pixels.')).toBeVisible();
  // What ComfyUI's node goes by is asked for once it is chosen, and in place of what does not count then.
  const node = page.getByRole('combobox', { name: 'Shifted as by' });
  await node.selectOption('ModelSamplingFlux');
  await expect(making.field('Shift')).toHaveCount(0);
  await making.set({ 'Shift of large pictures': '1.3' });
  await node.selectOption('ModelSamplingAuraFlow');
  await expect(making.field('Shift of large pictures')).toHaveCount(0);
  await expect(making.field('Shift')).toHaveValue('1.73');
  await making.set({ Width: '80', Steps: '2', Shift: '2.5' });
  await making.prompt.fill('a red house');
  await making.generate.click();
  await expect(picture).toBeVisible({ timeout: 150_000 });
  expect(await making.last()).toMatchObject({
    config: 'z_image',
    parameters: {
      width: 80,
      height: 64,
      steps: 2,
      sampler: 'heun',
      shift: 2.5,
      model_sampling: 'ModelSamplingAuraFlow',
    },
  });

  // A config that works from pictures has a form of its own, shown when it opens.
  await openCheckpoint(page, 'tiny-flux2-klein');
  await page.getByLabel('Choose a picture …').setInputFiles([PICTURE, PICTURE]);
  await making.set({ Steps: '2' });
  await sizes.selectOption('1776 × 1184 (3:2)');
  await expect(making.field('Width')).toHaveValue('1776');
  await making.set({ Width: '64', Height: '64' });
  await making.prompt.fill('both of them by night');
  await making.generate.click();
  await expect.poll(async () => (await making.last())?.config, { timeout: 150_000 }).toMatch(/^flux2/);
  const shown = () =>
    page.evaluate(async () => {
      const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
      return run?.entities.filter(({ type }) => type === 'input_images').length;
    });
  await expect.poll(shown).toBe(2);

  // So has Qwen-Image-Edit, which is made for them.
  await expect(picture).toHaveAttribute('alt', 'both of them by night', { timeout: 150_000 });
  await openCheckpoint(page, 'tiny-qwen-image-edit-2509');
  await page.getByLabel('Choose a picture …').setInputFiles([PICTURE, OTHER_PICTURE]);
  const order = () =>
    page
      .getByRole('list', { name: 'Pictures to work from' })
      .getByRole('img')
      .evaluateAll((images) => images.map((image) => image.getAttribute('alt')));
  await expect.poll(order).toEqual(['image.png', 'image_1.png']);
  await page.getByRole('button', { name: 'Move image_1.png forward' }).click();
  await expect.poll(order).toEqual(['image_1.png', 'image.png']);
  await making.set({ Width: '64', Height: '128', Steps: '1', Shift: '3' });
  await making.prompt.fill('the first on the second');
  await making.generate.click();
  await expect
    .poll(() => making.last(), { timeout: 150_000 })
    .toMatchObject({ config: 'qwen_image_edit', parameters: { width: 64, height: 128, shift: 3 } });
  await expect.poll(shown).toBe(2);

  // Somebody tries something on with the same checkpoint; what they wear is painted over.
  await page.getByRole('combobox', { name: 'What to make it with' }).selectOption('try_on');
  const mask = page.getByRole('group', { name: 'What goes' });
  await expect(mask.getByRole('button', { name: 'Paint a mask' })).toBeDisabled();
  for (const name of ['Person', 'Clothing']) {
    await page
      .getByText(name, { exact: true })
      .locator('xpath=ancestor::div[.//input[@type="file"]][1]')
      .getByLabel('Choose a picture …')
      .setInputFiles(PICTURE);
  }
  await mask.getByRole('button', { name: 'Paint a mask' }).click();
  await page.getByRole('application').click();
  await page.getByRole('button', { name: 'Done' }).click();
  await expect(mask.getByRole('button', { name: 'Change the mask' })).toBeVisible();
  await making.set({ Width: '64', Height: '64', Steps: '1', Guidance: '1' });
  await making.generate.click();
  await expect
    .poll(() => making.last(), { timeout: 150_000 })
    .toMatchObject({ config: 'try_on', parameters: { width: 64 } });
  const recorded = () =>
    page.evaluate(async () => {
      const [run] = (await globalThis.darkroom?.runs({ limit: 1 })) ?? [];
      return run?.entities.map(({ type }) => type).filter((type) => /^(?:input_|dressing_)/.test(type)) ?? [];
    });
  await expect
    .poll(async () => (await recorded()).sort())
    .toEqual([
      'dressing_images',
      'dressing_images',
      'dressing_prompt',
      'input_cloth',
      'input_mask_image',
      'input_person',
    ]);
});

/** A picture of 80×64 pixels. */
const PICTURE = join(
  import.meta.dirname,
  '..',
  '..',
  'test',
  'goldens',
  'transformers',
  'z-image-transform',
  'image.png',
);

const OTHER_PICTURE = join(PICTURE, '..', '..', 'qwen-edit-plus-two', 'image_1.png');

async function openCheckpoint(page: Page, name: string): Promise<void> {
  await page.getByTestId('checkpoint-folder').setInputFiles(writeWeightless(folder, name));
  await expect(page.getByText(`Opened ${name}.`)).toBeAttached();
}
