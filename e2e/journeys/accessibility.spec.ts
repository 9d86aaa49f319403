/** Names, roles, order and contrast, computed from the page as laid out by the browser. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { BUILTIN_CHECKPOINTS } from '../../src/core/builtin_checkpoints.ts';
import { VOICE } from '../../test/language_checkpoints.ts';
import { modelFolders } from '../fixtures/models.ts';

const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1440, height: 900 } };

async function open(page: Page): Promise<void> {
  await page.goto('/');
  await expect(page.getByText('leaves this device')).toBeVisible();
  await page.getByText('More settings').click();
}

/** With everything unfolded, and a problem on show. */
async function openLibrary(page: Page): Promise<void> {
  await page.goto('/#library');
  await expect(page.getByRole('heading', { level: 2, name: 'Library' })).toBeFocused();
  await page.getByText('Hub token').click();
  await page.getByRole('textbox', { name: 'Token', exact: true }).fill('hf_example');
  await page.getByRole('textbox', { name: 'Name or address' }).fill('no name');
  await page.getByRole('button', { name: 'Look', exact: true }).click();
  await expect(page.getByText('is not a name like org/name')).toBeVisible();
}

/** With runs, some selected, the retention settings unfolded and a wrong value in them. */
async function openRecordings(page: Page): Promise<void> {
  await page.goto('/#recordings');
  await expect(page.getByRole('heading', { level: 2, name: 'Recordings' })).toBeFocused();
  const shows = page.getByRole('grid', { name: 'Recorded runs' }).getByRole('button', { name: /^Show:/ });
  for (const [index, name] of ['one.png', 'two.png', 'three.png'].entries()) {
    await page
      .getByTestId('keep-picture')
      .setInputFiles({ name, mimeType: 'image/png', buffer: readFileSync('public/icon-192.png') });
    await expect(shows).toHaveCount(index + 1);
  }
  await page.getByRole('heading', { name: 'Space' }).click();
  await page.getByRole('textbox', { name: 'runs' }).fill('0');
  await page.getByRole('button', { name: 'Keep these' }).click();
  await expect(page.getByText('The number of runs must be')).toBeVisible();
  await shows.first().click({ modifiers: ['ControlOrMeta'] });
  await expect(page.getByRole('group', { name: 'Selected runs' })).toContainText('1 run');
}

/** The details of a run, over the list. */
async function showRecording(page: Page): Promise<void> {
  await page.getByRole('button', { name: /^Show: one\.png/ }).click();
  await expect(page.getByRole('dialog').getByRole('img', { name: 'one.png' })).toBeVisible();
}

/** With waiting jobs, a failed one and all ended ones. */
async function openQueue(page: Page): Promise<void> {
  await page.goto('/');
  await expect(page.getByText('leaves this device')).toBeVisible();
  await page.evaluate(async () => {
    const door = globalThis.darkroom!;
    const operation = { operation: 'image_generation', config: 'stable_diffusion', parameters: { prompt: 'p' } };
    const failed = await door.submit({ ...operation, parameters: { prompt: 'impossible', steps: 'many' } });
    await door.wait(failed.id);
    await door.submit({ ...operation, checkpoint: 'folder:closed' });
    await door.submit({ ...operation, checkpoint: 'folder:closed' });
  });
  const queue = page.getByRole('region', { name: /^Queue/ });
  await expect(queue.getByText('The folder "closed" is not open')).toBeVisible();
  await queue.getByText('Ended: 1').click();
  await expect(queue.getByRole('list', { name: 'Ended jobs' })).toBeVisible();
}

/** What Tab visits in the text form, in this order. */
const FORM_OF_WORDS = ['Prompt', 'Regel', 'Temperatur', 'Längste Antwort'];

async function chooseMedium(page: Page, name: string): Promise<void> {
  await page
    .getByRole('radiogroup', { name: 'Was entstehen soll' })
    .getByRole('radio', { name, exact: true })
    .check({ force: true });
}

let models: string;
test.beforeAll(() => {
  models = modelFolders('tiny-llama', VOICE);
});
test.afterAll(() => rmSync(models, { recursive: true, force: true }));

const VIEWS = { studio: open, library: openLibrary, recordings: openRecordings };

for (const [view, openView] of Object.entries(VIEWS)) {
  test(`landmarks, unique ids and names for everything, ${view}`, async ({ page }) => {
    await openView(page);
    await expect(page.getByRole('banner')).toHaveCount(1);
    await expect(page.getByRole('main')).toHaveCount(1);
    await expect(page.getByRole('navigation', { name: 'Views' })).toHaveCount(1);
    await expect(page.getByRole('heading', { level: 1 })).toHaveText('Darkroom');
    await expect(page.locator('html')).toHaveAttribute('lang', 'en');

    await expectNames(page);
  });
}

test('regions, headings and names of the studio', async ({ page }) => {
  await open(page);
  for (const name of ['Picture', 'Made so far', 'Checkpoint', 'Start from a picture']) {
    await expect(page.getByRole('region', { name, exact: true })).toHaveCount(1);
  }
  for (const name of ['Prompt', 'Negative prompt', 'Width', 'Height', 'Steps', 'Guidance', 'Seed']) {
    await expect(page.getByRole('textbox', { name, exact: true })).toHaveCount(1);
  }
  await expect(page.getByRole('combobox', { name: 'Sampler' })).toHaveValue('');
  await expect(page.getByRole('combobox', { name: 'Schedule' })).toHaveValue('');
  await expect(page.getByRole('radiogroup', { name: 'Pictures at once' }).getByRole('radio')).toHaveCount(4);
  await expect(page.getByRole('group', { name: 'Size' })).toBeVisible();
});

test('regions, headings and names of the library', async ({ page }) => {
  await openLibrary(page);
  for (const name of ['Stored here', 'On your disk', 'Space', 'Get another one', 'Good ones to begin with']) {
    await expect(page.getByRole('region', { name, exact: true })).toHaveCount(1);
    await expect(page.getByRole('heading', { level: 3, name, exact: true })).toHaveCount(1);
  }
  await expect(page.getByRole('listitem', { name: BUILTIN_CHECKPOINTS[0].name, exact: true })).toBeVisible();
  const field = page.getByRole('textbox', { name: 'Name or address' });
  await expect(field).toBeFocused();
  await expect(field).toHaveAttribute('aria-invalid', 'true');
  await expect(field).toHaveAccessibleDescription(/is not a name like org\/name/);
});

test('regions, headings and names of the recordings', async ({ page }) => {
  await openRecordings(page);
  await expect(page.getByRole('searchbox', { name: 'Search' })).toBeVisible();
  const grid = page.getByRole('grid', { name: 'Recorded runs' });
  await expect(grid).toHaveAttribute('aria-multiselectable', 'true');
  await expect(grid).toHaveAttribute('aria-rowcount', '1');
  await expect(grid.getByRole('gridcell', { selected: true })).toHaveCount(1);
  await expect(page.getByRole('textbox', { name: 'runs' })).toHaveAccessibleDescription(/must be a whole number/);
  await showRecording(page);
  const details = page.getByRole('dialog');
  await expect(details).toHaveAccessibleName(/\d{4}/);
  await expect(details.getByRole('region', { name: 'Files of this run' })).toBeVisible();
  await expect(details.getByRole('button', { name: 'Star', exact: true })).toHaveAttribute('aria-pressed', 'false');
});

test('a wrong value is tied to its field', async ({ page }) => {
  await open(page);
  const steps = page.getByRole('textbox', { name: 'Steps' });
  await steps.fill('0');
  await steps.blur();
  await expect(steps).toHaveAttribute('aria-invalid', 'true');
  await expect(steps).toHaveAccessibleDescription('Steps must be a whole number from 1 to 150.');
});

test('messages have a place to be read out from', async ({ page }) => {
  for (const openView of Object.values(VIEWS)) {
    await openView(page);
    await expect(page.getByRole('status')).toHaveCount(1);
    await expect(page.getByRole('alert')).toHaveCount(1);
  }
});

test('the view is part of the address, of the title and of the way back', async ({ page }) => {
  await open(page);
  await page.getByRole('region', { name: 'Checkpoint' }).getByRole('link', { name: 'Library' }).click();
  await expect(page).toHaveURL(/#library$/);
  await expect(page).toHaveTitle('Library · Darkroom');
  await expect(page.getByRole('heading', { level: 2, name: 'Library' })).toBeFocused();
  await expect(page.getByRole('link', { name: 'Library' })).toHaveAttribute('aria-current', 'page');
  await page.goBack();
  await expect(page).toHaveTitle('Darkroom');
  await expect(page.getByRole('textbox', { name: 'Prompt', exact: true })).toBeVisible();
});

for (const [device, viewport] of Object.entries(SIZES)) {
  test.describe(device, () => {
    test.use({ viewport });

    test('Tab visits everything once, from top to bottom, and shows where it is', async ({ page }) => {
      await open(page);
      const stops = await tabThrough(page);
      expect(stops.length).toBeGreaterThan(20);
      expect(stops.filter(({ outline }) => !outline)).toEqual([]);
      const names = stops.map(({ name }) => name);
      expect(names.indexOf('Prompt')).toBeLessThan(names.findIndex((name) => name.startsWith('Generate')));
      // These stay in sight while the settings scroll behind them.
      expectDownwards(stops.filter(({ name }) => !/^(Generate|Keep generating)/.test(name)));
    });

    test('Tab goes through the library the same way', async ({ page }) => {
      await openLibrary(page);
      const stops = await tabThrough(page);
      expect(stops.length).toBeGreaterThan(12);
      expect(stops.filter(({ outline }) => !outline)).toEqual([]);
      expectDownwards(stops);
    });

    for (const [view, openView] of Object.entries({ studio: open, library: openLibrary })) {
      test(`targets are large enough, ${view}`, async ({ page }) => {
        await openView(page);
        expect(await tooSmall(page)).toEqual([]);
      });

      test(`nothing is wider than the screen, ${view}`, async ({ page }) => {
        await openView(page);
        expect(await overflow(page)).toBeLessThanOrEqual(0);
      });
    }

    for (const colorScheme of ['light', 'dark'] as const) {
      test(`text and edges stand out, ${colorScheme}`, async ({ page }) => {
        await page.emulateMedia({ colorScheme });
        await open(page);
        await page.getByRole('textbox', { name: 'Width' }).fill('5');
        await page.getByRole('textbox', { name: 'Width' }).blur();
        await page.getByRole('button', { name: 'What is seed?' }).click();
        await expect(page.getByText('Width must be a multiple of 8')).toBeVisible();
        await expect(page.getByText('randomness grows from')).toBeVisible();
        expect(await faint(page)).toEqual([]);
      });

      test(`text and edges of the library stand out, ${colorScheme}`, async ({ page }) => {
        await page.emulateMedia({ colorScheme });
        await openLibrary(page);
        expect(await faint(page)).toEqual([]);
      });
    }

    test.describe('in German', () => {
      test.use({ locale: 'de-DE' });

      test('forms of words, sound and code, and what they make: names, Tab, targets, width, contrast', async ({
        page,
      }) => {
        const look = async () => {
          await expectNames(page);
          await expectLegible(page);
        };
        await page.goto('/?backend=wasm');
        await expect(page.getByText('verlässt dieses Gerät')).toBeVisible();

        await chooseMedium(page, 'Text');
        await page.getByTestId('language-folder').setInputFiles(join(models, 'tiny-llama'));
        await expect(page.getByRole('region', { name: 'Sprachmodell' }).getByRole('combobox')).toBeVisible();
        await page.getByText('Weitere Einstellungen').click();
        await page.getByRole('textbox', { name: 'Längste Antwort', exact: true }).fill('8');
        // Drawn by a random seed, the tiny model now and then answers nothing.
        await page.getByRole('textbox', { name: 'Temperatur', exact: true }).fill('0');
        await expect(page.getByRole('slider', { name: 'Temperatur, Schieberegler' })).toBeVisible();
        await expect(page.getByRole('radio', { name: 'Englisch' })).toBeChecked();
        await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('das Meer');
        await page.getByRole('textbox', { name: 'Regel', exact: true }).fill('Sag es kürzer.');
        await look();
        const stops = await tabThrough(page);
        expect(stops.filter(({ outline }) => !outline)).toEqual([]);
        expect(stops.map(({ name }) => name).filter((name) => FORM_OF_WORDS.includes(name))).toEqual(FORM_OF_WORDS);
        expectDownwards(stops.filter(({ name }) => !/^(Generieren|Immer weiter)/.test(name)));
        await page.getByRole('button', { name: 'Generieren', exact: true }).click();
        const made = page.getByRole('region', { name: 'Text', exact: true });
        await expect(made.getByRole('button', { name: 'Kopieren' })).toBeVisible({ timeout: 120_000 });
        await expect(page.getByRole('status')).toHaveText(/^Fertig nach .+: Text\.$/);
        await look();

        await chooseMedium(page, 'Klang');
        await page.getByTestId('language-folder').setInputFiles(join(models, VOICE));
        await page.getByRole('textbox', { name: 'Prompt', exact: true }).fill('abc');
        await page.getByRole('button', { name: 'Generieren', exact: true }).click();
        const sound = page.getByRole('region', { name: 'Klang', exact: true });
        await expect(sound.getByRole('button', { name: 'Abspielen' })).toBeEnabled({ timeout: 120_000 });
        await look();

        await chooseMedium(page, 'Code');
        await expect(page.getByRole('combobox', { name: 'Womit' })).toBeVisible();
        await look();

        await chooseMedium(page, 'Bild');
        await page.getByText('Zuerst umschreiben').click();
        await page.getByRole('combobox', { name: 'Regel' }).selectOption({ label: 'Eigene Regel schreiben …' });
        await expect(page.getByRole('textbox', { name: 'Was die Regel sagt' })).toBeVisible();
        await look();
      });
    });

    test('the queue: Tab, targets, width, contrast', async ({ page }) => {
      await openQueue(page);
      await expectLegible(page);
      const stops = await tabThrough(page);
      expect(stops.filter(({ outline }) => !outline)).toEqual([]);
      const names = stops.map(({ name }) => name);
      for (const name of ['Move number 2 up', 'Make number 2 the next', 'Take number 2 out of the line', 'Put away']) {
        expect(names).toContain(name);
      }
      expectDownwards(stops.filter(({ name }) => !/^(Generate|Keep generating|\d+ wait)/.test(name)));
    });

    // One page for all of it: recording and selecting takes longer than checking.
    test('the recordings and one of them: Tab, targets, width, contrast', async ({ page }) => {
      const look = () => expectLegible(page);
      await openRecordings(page);
      await look();
      const stops = await tabThrough(page);
      expect(stops.filter(({ outline }) => !outline)).toEqual([]);
      expect(stops.filter(({ name }) => name.startsWith('Show:'))).toHaveLength(1);
      expectDownwards(stops);
      await showRecording(page);
      await look();
    });
  });
}

/** Every control has a name, and no id occurs twice. */
async function expectNames(page: Page): Promise<void> {
  const nameless = await page.evaluate(() =>
    [...document.querySelectorAll('button, a[href], input, select, textarea, summary')]
      .filter((element) => element.checkVisibility())
      .filter((element) => {
        const labels = 'labels' in element ? [...((element as HTMLInputElement).labels ?? [])] : [];
        const name = [element.getAttribute('aria-label'), element.textContent, ...labels.map((one) => one.textContent)];
        return !name.some((text) => text?.trim());
      })
      .map((element) => element.outerHTML),
  );
  expect(nameless).toEqual([]);

  const ids = await page.evaluate(() => [...document.querySelectorAll('[id]')].map(({ id }) => id));
  expect(new Set(ids).size).toBe(ids.length);
}

/** Target sizes, width and contrast of what is visible. */
async function expectLegible(page: Page): Promise<void> {
  expect(await tooSmall(page)).toEqual([]);
  expect(await overflow(page)).toBeLessThanOrEqual(0);
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    expect(await faint(page)).toEqual([]);
  }
}

test('motion rests for those who ask for it', async ({ page }) => {
  await page.emulateMedia({ reducedMotion: 'reduce' });
  await open(page);
  const moving = await page.evaluate(
    () =>
      [...document.querySelectorAll('*')]
        .map((element) => getComputedStyle(element))
        .filter(({ transitionDuration }) => Number.parseFloat(transitionDuration) > 0.01).length,
  );
  expect(moving).toBe(0);
});

/** Targets below the minimum size (WCAG 2.2, 2.5.8). */
function tooSmall(page: Page): Promise<string[]> {
  return page.evaluate(() =>
    [...document.querySelectorAll('button, a[href], select, input:not([type=file]), textarea, summary')]
      .filter((element) => element.checkVisibility())
      .map((element) => (element.matches('input[type=radio]') ? (element.closest('label') ?? element) : element))
      .filter((element) => {
        const { width, height } = element.getBoundingClientRect();
        return width < 24 || height < 24;
      })
      .map((element) => element.outerHTML),
  );
}

function overflow(page: Page): Promise<number> {
  return page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
}

interface Stop {
  name: string;
  outline: boolean;
  column: string;
  top: number;
}

async function tabThrough(page: Page): Promise<Stop[]> {
  // Tab continues from the last click.
  await page.getByRole('heading', { level: 1 }).click();
  const stops: Stop[] = [];
  for (let i = 0; i < 200; i++) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(async () => {
      // A person sees what was painted after the key press.
      await new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)));
      const element = document.activeElement;
      if (!element || element === document.body) {
        return null;
      }
      const shows = (one: Element | null) => one !== null && getComputedStyle(one).outlineStyle !== 'none';
      const labels = 'labels' in element ? ((element as HTMLInputElement).labels?.[0]?.textContent ?? '') : '';
      return {
        name: (element.getAttribute('aria-label') ?? (labels || element.textContent)).trim(),
        outline: shows(element) || shows(element.closest('label')),
        column: element.closest('header')
          ? 'head'
          : // Cards may lie side by side.
            String(
              element.closest('.left, li.card, .shelf, .counter, .rest section, .right')?.getBoundingClientRect().left,
            ),
        // Within its own scroller, so that following the focus does not count as movement.
        top: element.getBoundingClientRect().top + (element.closest('.scroll')?.scrollTop ?? window.scrollY),
      };
    });
    if (stop === null) {
      break;
    }
    stops.push(stop);
  }
  return stops;
}

function expectDownwards(stops: Stop[]): void {
  for (const [index, stop] of stops.entries()) {
    const before = stops[index - 1];
    if (before && before.column === stop.column) {
      // Controls side by side may differ a little in height.
      expect(stop.top, `${stop.name} after ${before.name}`).toBeGreaterThanOrEqual(before.top - 48);
    }
  }
}

/**
 * Text below 4.5:1 (3:1 when large) and edges of fields below 3:1, as WCAG 2.2 counts it (1.4.3, 1.4.11). Colours are
 * read through a canvas pixel, which understands every notation; gradients count by the colour beneath them.
 */
async function faint(page: Page): Promise<string[]> {
  // A button that has just become usable is on its way to its colour.
  await page.evaluate(async () => {
    const ending = document.getAnimations().filter((one) => one.effect?.getComputedTiming().endTime !== Infinity);
    await Promise.allSettled(ending.map((one) => one.finished));
  });
  return page.evaluate(() => {
    type Rgba = [number, number, number, number];
    const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const rgba = (color: string): Rgba => {
      if (!context) {
        throw new Error('no 2D canvas');
      }
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = color;
      context.fillRect(0, 0, 1, 1);
      const [r = 0, g = 0, b = 0, a = 0] = context.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = (top: Rgba, below: Rgba): Rgba => [
      top[0] * top[3] + below[0] * (1 - top[3]),
      top[1] * top[3] + below[1] * (1 - top[3]),
      top[2] * top[3] + below[2] * (1 - top[3]),
      1,
    ];
    const ground = (element: Element | null): Rgba =>
      element === null
        ? [255, 255, 255, 1]
        : over(rgba(getComputedStyle(element).backgroundColor), ground(element.parentElement));
    const light = (color: Rgba) => {
      const [r = 0, g = 0, b = 0] = color.slice(0, 3).map((value) => {
        const share = value / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (a: Rgba, b: Rgba) => {
      const [low = 0, high = 0] = [light(a), light(b)].sort((x, y) => x - y);
      return (high + 0.05) / (low + 0.05);
    };

    const faults: string[] = [];
    for (const element of document.querySelectorAll<HTMLElement>('body *')) {
      if (!element.checkVisibility() || element.closest('.hidden, noscript, svg')) {
        continue;
      }
      const style = getComputedStyle(element);
      const below = ground(element);
      const hasText = [...element.childNodes].some(
        (node) => node.nodeType === Node.TEXT_NODE && node.nodeValue?.trim(),
      );
      const isField = element.matches('input.text, textarea, select');
      if (hasText || isField) {
        const size = Number.parseFloat(style.fontSize);
        const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const found = contrast(over(rgba(style.color), below), below);
        if (found < (isLarge ? 3 : 4.5)) {
          faults.push(`${found.toFixed(2)} text ${element.outerHTML.slice(0, 120)}`);
        }
      }
      if (isField) {
        const around = ground(element.parentElement);
        const found = contrast(over(rgba(style.borderTopColor), around), around);
        if (found < 3) {
          faults.push(`${found.toFixed(2)} edge ${element.outerHTML.slice(0, 120)}`);
        }
      }
    }
    return faults;
  });
}
