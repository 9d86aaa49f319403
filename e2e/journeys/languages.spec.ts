/** The page in German: by the browser's preference and by the switch, with what is made and refused in it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';

const CATALOGUE = join(import.meta.dirname, '..', '..', 'src/app/messages/de');

/** English texts without placeholders that differ in German. */
const english = ['page', 'told']
  .flatMap((kind) => readdirSync(join(CATALOGUE, kind)).map((name) => join(CATALOGUE, kind, name)))
  .flatMap((file) => Object.entries(JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>))
  .filter(([text, own]) => text !== own && !/[{|@]/.test(text))
  .map(([text]) => text.trim());

/** By name: what to unfold or choose there before checking. */
const ROOMS: Record<string, (page: Page) => Promise<void>> = {
  studio: async (page) => {
    await page.getByText('Weitere Einstellungen').click();
    await page.getByText('Zuerst umschreiben').click();
    await page.getByRole('combobox', { name: 'Regel' }).selectOption({ label: 'Fast nichts' });
    await expect(page.getByRole('textbox', { name: 'Selbst umschreiben' })).toBeVisible();
    await page.getByText('Die Wörter, die er kennt').click();
  },
  library: async (page) => page.getByText('Hub-Token').click(),
  recordings: async (page) => {
    await page.getByTestId('keep-picture').setInputFiles(join(import.meta.dirname, '..', '..', 'public/icon-192.png'));
    await page.getByRole('heading', { name: 'Speicherplatz' }).click();
    await expect(page.getByText('Welche Aufnahmen behalten werden')).toBeVisible();
    await page
      .getByRole('button', { name: /^Zeigen: icon-192/ })
      .first()
      .click();
    await expect(page.getByRole('dialog').getByRole('img').first()).toBeVisible();
  },
  sketches: async (page) => {
    await expect(page.locator('.cm-content')).toBeVisible();
    await page.locator('.cm-content').press('Control+f');
    await expect(page.getByRole('textbox', { name: 'Suchen' })).toBeVisible();
  },
};
/** What is made in the studio beside pictures. */
const MEDIA = ['Klang', 'Code', 'Text'];

test.describe('a browser that speaks German', () => {
  test.use({ locale: 'de-DE' });

  for (const width of [390, 1440]) {
    test(`opens in German, and no room says a word of English, at ${width} px`, async ({ page }) => {
      await page.setViewportSize({ width, height: 900 });
      for (const [room, unfold] of Object.entries(ROOMS)) {
        await page.goto(`/?backend=wasm#${room}`);
        await expect(page.getByRole('heading', { level: 2 }).first()).toBeVisible();
        await expect(page.locator('html')).toHaveAttribute('lang', 'de');
        await unfold(page);
        await expectGerman(page);
      }
    });

    test(`every form is German, at ${width} px`, async ({ page }) => {
      await page.setViewportSize({ width, height: 900 });
      await page.goto('/?backend=wasm');
      for (const medium of MEDIA) {
        await page
          .getByRole('radiogroup', { name: 'Was entstehen soll' })
          .getByRole('radio', { name: medium, exact: true })
          .check({ force: true });
        await expect(page.getByText(/^Dafür wird (?:ein Sprachmodell|eine Stimme) gebraucht/)).toBeVisible();
        // The first one unfolds it for all.
        const more = page.locator('details', { hasText: 'Weitere Einstellungen' });
        if ((await more.count()) > 0) {
          await more.evaluate((fold) => fold.setAttribute('open', ''));
          await expect(more.getByText('Temperatur', { exact: true })).toBeVisible();
        }
        await expectGerman(page);
      }
    });
  }

  test('a picture is made, and lies among the recordings', async ({ page }) => {
    await page.goto('/?backend=wasm');
    const prompt = page.getByRole('textbox', { name: 'Prompt', exact: true });
    await prompt.fill('a red apple');
    await expect(page.getByRole('button', { name: 'Generieren', exact: true })).toBeEnabled();
    await prompt.press('Control+Enter');
    await expect(page.getByRole('img', { name: /red apple/ }).first()).toBeVisible({ timeout: 240_000 });
    await page.goto('/?backend=wasm#recordings');
    await expect(page.getByRole('button', { name: 'Zeigen: a red apple, heute' })).toBeVisible();
  });

  test('an error is told in German', async ({ page }) => {
    await page.goto('/?backend=wasm#library');
    await page.getByRole('textbox', { name: 'Name oder Adresse' }).fill('http://example.org/model');
    await page.getByRole('button', { name: 'Nachsehen', exact: true }).first().click();
    await expect(page.getByText('Nur Adressen, die mit https:// beginnen, können verwendet werden')).toBeVisible();
  });
});

test('the switch changes everything in place, loses nothing, and is kept', async ({ page }) => {
  await page.goto('/?backend=wasm#library');
  await page.getByRole('textbox', { name: 'Name or address' }).fill('org/half typed');
  await page.getByRole('button', { name: 'Look', exact: true }).first().click();
  await expect(page.getByText('is not a name like org/name')).toBeVisible();

  await page.getByRole('radio', { name: 'Deutsch' }).check();
  await expect(page.getByRole('heading', { name: 'Bibliothek' })).toBeVisible();
  await expect(page.locator('html')).toHaveAttribute('lang', 'de');
  await expect(page.getByRole('textbox', { name: 'Name oder Adresse' })).toHaveValue('org/half typed');
  await expect(page.getByText('„org/half typed“ ist kein Name wie org/name')).toBeVisible();

  await page.reload();
  await expect(page.getByRole('heading', { name: 'Bibliothek' })).toBeVisible();
  await page.getByRole('radio', { name: 'English' }).check();
  await expect(page.getByRole('heading', { name: 'Library' })).toBeVisible();
  await expect(page.locator('html')).toHaveAttribute('lang', 'en');
});

test('a German catalogue that cannot be fetched leaves the page in English, and says so', async ({ page }) => {
  await page.route(/\/german-[^/]*\.js$/, (route) => route.abort());
  await page.goto('/?backend=wasm#library');
  await page.getByRole('radio', { name: 'Deutsch' }).click();
  await expect(page.getByRole('alert').getByText('That language could not be loaded')).toBeVisible();
  await expect(page.getByRole('heading', { name: 'Library' })).toBeVisible();
  await expect(page.getByRole('radio', { name: 'English' })).toBeChecked();
});

/** No English words, and nothing pushed off the page by longer German ones. */
async function expectGerman(page: Page): Promise<void> {
  expect((await wordsOf(page)).filter((text) => english.includes(text))).toEqual([]);
  await expect
    .poll(() => page.evaluate(() => document.documentElement.scrollWidth - innerWidth))
    .toBeLessThanOrEqual(0);
}

/** Every visible text, label and placeholder of the page. */
function wordsOf(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const texts: string[] = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const isSeen = node.parentElement?.checkVisibility() && !node.parentElement.closest('script, style, .cm-content');
      texts.push(isSeen ? (node.textContent ?? '').trim() : '');
    }
    for (const element of document.querySelectorAll('[aria-label], [title], [placeholder], [alt]')) {
      if (element.checkVisibility()) {
        texts.push(...['aria-label', 'title', 'placeholder', 'alt'].map((name) => element.getAttribute(name) ?? ''));
      }
    }
    return texts.filter((text) => text !== '');
  });
}
