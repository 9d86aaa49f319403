/** Sketches as a person meets them: started, written, run, stopped, viewed, recorded, kept and reopened. */
import { readFileSync } from 'node:fs';
import { expect, test, type Download, type Page } from '@playwright/test';
import { chromiumFlags, findChromium } from '../../cli/chromium.js';

// The default for people: no sound before a gesture.
test.use({
  launchOptions: {
    executablePath: findChromium(),
    args: [...chromiumFlags(), '--autoplay-policy=document-user-activation-required'],
  },
});

const STILL = `function setup() {
  createCanvas(120, 80);
  pixelDensity(1);
  background(255, 0, 0);
  fill(0, 0, 255);
  noStroke();
  rect(0, 0, 60, 80);
  noLoop();
}
`;

/** The room with a sketch kept from last time. */
async function openSketch(page: Page, source: string, language: 'p5' | 'tonejs' = 'p5'): Promise<void> {
  await page.goto('/#sketches');
  await page.evaluate((kept) => localStorage.setItem('darkroom.sketch', JSON.stringify(kept)), {
    title: 'Mine',
    language,
    source,
  });
  await page.reload();
  // The editor itself: until it loads, the code is a plain text field, where Tab moves on.
  await expect(page.locator('.cm-content')).toBeVisible();
}

const button = (page: Page, name: string) => page.getByRole('button', { name, exact: true });
const code = (page: Page) => page.getByRole('textbox', { name: 'Code' });
const said = (page: Page) => page.getByLabel('Lines of the console');
const problem = (page: Page) => page.locator('.problem');
const takes = (page: Page) => page.getByRole('region', { name: 'Taken' });

async function runs(page: Page): Promise<void> {
  await button(page, 'Run').click();
  await expect(page.getByRole('status').filter({ hasText: 'The sketch runs.' })).toBeAttached();
}

/** What is on disk after Save. */
async function saved(page: Page, save: () => Promise<void>): Promise<{ name: string; bytes: Buffer }> {
  const waiting = page.waitForEvent('download');
  await save();
  const file: Download = await waiting;
  return { name: file.suggestedFilename(), bytes: readFileSync(await file.path()) };
}

/** A recording needs a duration: nothing else says when it is long enough. */
function hearFor(page: Page, milliseconds: number): Promise<void> {
  return page.evaluate((time) => new Promise<void>((done) => setTimeout(done, time)), milliseconds);
}

/** Number of colours in the newest picture, and its size. */
function picture(page: Page): Promise<{ width: number; height: number; colours: number }> {
  return page.evaluate(async () => {
    const image = document.querySelector<HTMLImageElement>('section img[src^="blob:"]');
    const bitmap = await createImageBitmap(await (await fetch(image!.src)).blob());
    const { width, height } = bitmap;
    const pen = new OffscreenCanvas(width, height).getContext('2d')!;
    pen.drawImage(bitmap, 0, 0);
    const pixels = new Uint32Array(pen.getImageData(0, 0, width, height).data.buffer);
    return { width, height, colours: new Set(pixels).size };
  });
}

/** The loudest sample of the newest recording, from 0 to 1, and its seconds. */
function loudness(page: Page): Promise<{ peak: number; seconds: number }> {
  return page.evaluate(async () => {
    const audio = document.querySelector<HTMLAudioElement>('section audio[src^="blob:"]');
    const sound = await new OfflineAudioContext(2, 1, 48_000).decodeAudioData(
      await (await fetch(audio!.src)).arrayBuffer(),
    );
    const peak = sound.getChannelData(0).reduce((loudest, sample) => Math.max(loudest, Math.abs(sample)), 0);
    return { peak, seconds: sound.duration };
  });
}

for (const title of ['Wind chimes', 'Garden', 'Paper lantern', 'Murmuration', 'Tide', 'Weather of letters']) {
  test(`the starter ${title} runs without a word, and shows something`, async ({ page }) => {
    await page.goto('/#sketches');
    await page.getByRole('button', { name: title }).click();
    await expect(page.getByRole('status').filter({ hasText: 'The sketch runs.' })).toBeAttached();
    await expect(async () => {
      await button(page, 'Take a picture').click();
      await expect(takes(page).getByRole('img')).toHaveCount(1);
      const { colours } = await picture(page);
      await page.getByRole('button', { name: /^Drop / }).click();
      expect(colours).toBeGreaterThan(20);
    }).toPass();
    await expect(problem(page)).toHaveCount(0);
    await expect(said(page)).toHaveCount(0);
  });
}

for (const title of ['Music box', 'Night train']) {
  test(`the starter ${title} is heard after one press, and its sound is saved as WAV`, async ({ page }) => {
    await page.goto('/#sketches');
    await page.getByRole('button', { name: title }).click();
    await expect(page.getByRole('status').filter({ hasText: 'The sketch runs.' })).toBeAttached();
    await expect(async () => {
      await button(page, 'Record the sound').click();
      await expect(page.getByText('Recording the sound')).toBeVisible();
      await hearFor(page, 1500);
      await button(page, 'Record the sound').click();
      await expect(takes(page).locator('audio')).toHaveCount(1);
      const { peak, seconds } = await loudness(page);
      const file = await saved(page, () => page.getByRole('link', { name: 'Save', exact: true }).click());
      await page.getByRole('button', { name: /^Drop / }).click();
      expect(file.name).toMatch(/^(music_box|night_train)(_\d+)?\.wav$/);
      expect(file.bytes.subarray(0, 4).toString()).toBe('RIFF');
      expect(peak).toBeGreaterThan(0.01);
      expect(peak).toBeLessThan(1);
      expect(seconds).toBeGreaterThan(0.5);
    }).toPass();
    await expect(problem(page)).toHaveCount(0);
    await expect(said(page)).toHaveCount(0);
  });
}

test('a picture is what was drawn, and can be kept in the recordings', async ({ page }) => {
  await openSketch(page, STILL);
  await runs(page);
  await button(page, 'Take a picture').click();
  await expect(takes(page).getByRole('img', { name: 'mine.png' })).toBeVisible();
  expect(await picture(page)).toEqual({ width: 120, height: 80, colours: 2 });
  await button(page, 'Keep in the recordings').click();
  await expect(button(page, 'In the recordings')).toBeDisabled();
  await page.getByRole('link', { name: 'Recordings' }).click();
  await expect(
    page.getByRole('grid', { name: 'Recorded runs' }).getByRole('button', { name: /^Show: mine\.png/ }),
  ).toBeVisible();
});

test('the canvas is recorded as WebM, also when the sketch is stopped meanwhile', async ({ page }) => {
  await openSketch(
    page,
    'function setup() { createCanvas(64, 64); }\nfunction draw() { background((frameCount * 5) % 255); }',
  );
  await runs(page);
  for (const end of ['Record the canvas', 'Stop']) {
    await button(page, 'Record the canvas').click();
    await expect(page.getByText('Recording the canvas')).toBeVisible();
    await hearFor(page, 1200);
    await button(page, end).click();
    await expect(takes(page).locator('video')).toHaveCount(end === 'Stop' ? 2 : 1);
  }
  const file = await saved(page, () => page.getByRole('link', { name: 'Save', exact: true }).first().click());
  expect(file.name).toBe('mine_2.webm');
  expect(file.bytes.readUInt32BE(0)).toBe(0x1a45dfa3);
  await expect
    .poll(() =>
      page
        .locator('section video')
        .first()
        .evaluate((video: HTMLVideoElement) => [video.videoWidth, video.videoHeight]),
    )
    .toEqual([64, 64]);
});

test('what cannot be recorded says so', async ({ page }) => {
  await openSketch(page, 'console.log("nothing to see")');
  await runs(page);
  await expect(said(page)).toContainText('nothing to see');
  for (const [name, sentence] of [
    ['Take a picture', 'The sketch has no canvas to take a picture of.'],
    ['Record the canvas', 'The sketch has no canvas to record.'],
    ['Record the sound', 'The sketch makes no sound: it does not use Tone.'],
  ]) {
    await button(page, name).click();
    await expect(page.getByText(sentence)).toBeVisible();
  }
});

test('an error shows its line in the editor, and goes when the code is changed', async ({ page }) => {
  await openSketch(
    page,
    'function setup() {\n  createCanvas(50, 50);\n}\n\nfunction draw() {\n  for (const n of [1, 2]) { [n].forEach((x) => missing(x)); }\n}\n',
  );
  await runs(page);
  await expect(problem(page)).toContainText('Line 6 ReferenceError: missing is not defined');
  await expect(page.locator('.cm-lintRange-error')).toHaveText('missing');
  await button(page, 'Show line 6').click();
  await expect(code(page)).toBeFocused();
  await page.keyboard.type('// ');
  await expect(page.locator('.cm-line').nth(5)).toContainText('forEach((x) => // missing');
  await expect(page.locator('.cm-lintRange-error')).toHaveCount(0);
});

test.describe('a mistake is said in one sentence', () => {
  for (const [name, source, sentence] of [
    ['syntax', 'function setup() {\n  circle(1, 2;\n}', 'Line 2 Unexpected token.'],
    [
      'a name of p5',
      'let a = 1;\nvar log = 3;\nfunction setup() {}',
      'Line 2 p5 has its own "log"; give yours another name.',
    ],
    ['a promise that nobody awaits', 'async function setup() {\n  await 0;\n  null.x;\n}', 'Line 3 TypeError'],
    [
      'a library that is not here',
      'import * as THREE from "three";',
      'Line 1 It imports "three", which cannot be loaded',
    ],
    [
      'endless recursion',
      'function setup() { down(1); }\nfunction down(n) { return down(n + 1) + 1; }',
      'Line 2 RangeError',
    ],
    // Refused by the browser, or stopped as a loop: that depends on its memory.
    [
      'allocation without an end',
      'const all = [];\nfor (;;) all.push(new Uint8Array(1e8));',
      /Line 2 (RangeError|This kept)|did not answer for/,
    ],
  ] as const) {
    test(name, async ({ page }) => {
      await openSketch(page, source);
      await button(page, 'Run').click();
      await expect(problem(page)).toContainText(sentence);
    });
  }
});

test.describe('what never returns is stopped, and the page goes on', () => {
  for (const [name, source, sentence] of [
    ['a loop in draw', 'function draw() {\n  let n = 0;\n  while (true) n++;\n}', 'Line 3 This kept the sketch busy'],
    ['a loop at the top', 'for (;;);', 'Line 1 This kept the sketch busy'],
    // Either of the two may notice first.
    [
      'promises',
      'function spin() { return Promise.resolve().then(spin); }\nspin();',
      /Line 1 This kept the sketch busy|did not answer for/,
    ],
    [
      'an async loop',
      '(async () => {\n  for (;;) await null;\n})();',
      /Line 2 This kept the sketch busy|did not answer for/,
    ],
    ['a regular expression', "/^(a+)+$/.test('a'.repeat(60) + '!');", 'did not answer for'],
    [
      'messages to the page',
      'setInterval(() => { for (let n = 0; n < 500; n++) top.postMessage(n, "*"); }, 1);',
      'more messages than anybody can read',
    ],
    ['leaving', 'location.href = "about:blank";', 'did not answer for'],
  ] as const) {
    test(name, async ({ page }) => {
      await openSketch(page, source);
      await button(page, 'Run').click();
      await expect(problem(page)).toContainText(sentence);
      await expect(page.locator('.stage iframe')).toHaveCount(0);
      await expect(button(page, 'Stop')).toBeDisabled();
      await expect(code(page)).toContainText(source.split('\n')[0]);
      // Another one runs at once.
      await code(page).fill('console.log("well again");');
      await runs(page);
      await expect(said(page)).toContainText('well again');
    });
  }
});

test('a flood of lines is told, not shown', async ({ page }) => {
  await openSketch(page, 'setInterval(() => { for (let n = 0; n < 3000; n++) console.log("line " + n, { n }); }, 20);');
  await runs(page);
  await expect(said(page)).toContainText('more lines were written than can be shown');
  expect(await said(page).getByRole('listitem').count()).toBeLessThanOrEqual(300);
  await button(page, 'Stop').click();
  await expect(button(page, 'Run')).toBeVisible();
});

test('files are opened, replaced and saved without a loss', async ({ page }) => {
  await openSketch(page, STILL);
  const open = (name: string, text: string) =>
    page.getByTestId('open-sketch').setInputFiles({ name, mimeType: 'text/plain', buffer: Buffer.from(text) });
  await open('page.html', `<html><script src="p5.js"></script><script>\n${STILL}// from a page\n</script></html>`);
  await expect(code(page)).toContainText('from a page');
  await expect(page.getByRole('status').filter({ hasText: 'Your own sketch "Mine" made room' })).toBeVisible();
  await button(page, 'Bring it back').click();
  await expect(code(page)).not.toContainText('from a page');
  await open('tune.js', 'new Tone.Synth().toDestination();\n');
  await expect(page.getByRole('radio', { name: 'Tone.js' })).toBeChecked();
  const file = await saved(page, () => button(page, 'Save as a file').click());
  expect([file.name, file.bytes.toString()]).toEqual(['tune.js', 'new Tone.Synth().toDestination();\n']);
  await open('empty.js', ' ');
  await expect(page.getByText('"empty.js" holds no code')).toBeVisible();
  await expect(code(page)).toContainText('Tone.Synth');
  // A replaced sketch is one undo away too.
  await page.getByRole('button', { name: 'Tide' }).click();
  await expect(code(page)).toContainText('The moon');
  await code(page).press('ControlOrMeta+z');
  await expect(code(page)).toContainText('Tone.Synth');
});

test('the editor is left by keyboard, runs, searches and undoes by keyboard, and what was typed is there after a reload', async ({
  page,
}) => {
  await openSketch(page, 'let a = 1;\n');
  await code(page).focus();
  await page.keyboard.press('ControlOrMeta+End');
  await page.keyboard.press('Tab');
  await page.keyboard.type('console.log("typed");');
  await expect(page.locator('.cm-line').nth(1)).toHaveText('  console.log("typed");');
  await page.keyboard.press('ControlOrMeta+Enter');
  await expect(said(page)).toContainText('typed');
  await code(page).focus();
  await page.keyboard.press('ControlOrMeta+f');
  await expect(page.getByRole('textbox', { name: 'Find' })).toBeFocused();
  await page.keyboard.press('Escape');
  await expect(code(page)).toBeFocused();
  await page.keyboard.press('Escape');
  await page.keyboard.press('Tab');
  await expect(code(page)).not.toBeFocused();
  await page.reload();
  await expect(code(page)).toContainText('console.log("typed");');
  await page.keyboard.press('ControlOrMeta+z');
});

test('who writes before the editor is loaded goes on in it where they were', async ({ page }) => {
  let letIn!: () => void;
  const arrived = new Promise<void>((resolve) => (letIn = resolve));
  await page.route(/\/editor-[^/]*\.js$/, async (route) => {
    await arrived;
    await route.continue();
  });
  await page.goto('/#sketches');
  await code(page).fill('let a = ;\n');
  for (const key of ['ControlOrMeta+Home', 'End', 'ArrowLeft']) {
    await code(page).press(key);
  }
  letIn();
  await expect(page.locator('.cm-content')).toBeFocused();
  await page.keyboard.type('12');
  await expect(page.locator('.cm-line').first()).toHaveText('let a = 12;');
});

test('a canvas larger than the stage is shown whole, and knows where the pointer is', async ({ page }) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await openSketch(
    page,
    'function setup() { createCanvas(1600, 800); background(200); }\nfunction mousePressed() { console.log("at", Math.round(mouseX / 100), Math.round(mouseY / 100)); }',
  );
  await runs(page);
  const stage = page.locator('.seen .stage');
  await stage.scrollIntoViewIfNeeded();
  const box = (await stage.boundingBox())!;
  const height = (box.width * 800) / 1600;
  await expect(async () => {
    await page.mouse.click(box.x + box.width * 0.5, box.y + box.height / 2);
    await expect(said(page)).toContainText('at 8 4', { timeout: 1000 });
  }).toPass();
  expect(height).toBeLessThan(box.height);
});
