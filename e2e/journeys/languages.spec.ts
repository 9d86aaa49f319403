/** The page in German: by the browser's wish, by the switch, and what is made and refused in it. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';

const CATALOGUE = join(import.meta.dirname, '..', '..', 'src/app/messages/de/page');

/** English texts whose German is another one, without values in them. */
const english = readdirSync(CATALOGUE)
  .flatMap((name) => Object.entries(JSON.parse(readFileSync(join(CATALOGUE, name), 'utf8')) as Record<string, string>))
  .filter(([text, own]) => text !== own && !/[{|@]/.test(text))
  .map(([text]) => text.trim());

const ROOMS = ['library', 'recordings', 'sketches'];

test.describe('a browser that speaks German', () => {
  test.use({ locale: 'de-DE' });

  for (const width of [390, 1440]) {
    test(`opens in German, and no room says a word of English, at ${width} px`, async ({ page }) => {
      await page.setViewportSize({ width, height: 900 });
      for (const room of ROOMS) {
        await page.goto(`/?backend=wasm#${room}`);
        await expect(page.getByRole('heading', { level: 2 }).first()).toBeVisible();
        await expect(page.locator('html')).toHaveAttribute('lang', 'de');
        expect((await wordsOf(page)).filter((text) => english.includes(text))).toEqual([]);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        expect(overflow).toBeLessThanOrEqual(0);
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

/** Each text, label and placeholder of the page that is on show. */
function wordsOf(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const texts: string[] = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const isSeen = node.parentElement?.checkVisibility() && !node.parentElement.closest('script, style, .cm-editor');
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
