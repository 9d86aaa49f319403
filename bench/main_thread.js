/** Whether the page stays responsive while a picture is made and while text streams: the longest task of its main thread. */
import { inStudio } from './studio.js';

/** @typedef {{ longestMs: number, over50: number, watchedMs: number }} Watched `longestMs` is 0 when no task took 50 ms or more */

/**
 * Presses Generate like a newcomer and watches the main thread from the press to the picture.
 * @param {import('playwright').Browser} browser
 * @param {'webgpu' | 'wasm'} backend
 */
export function watchPicture(browser, backend) {
  return inStudio(browser, backend, (page) =>
    watched(page, async () => {
      await page.getByRole('button', { name: 'Generate', exact: true }).click();
      await page.getByRole('link', { name: 'Save as PNG' }).waitFor();
    }),
  );
}

/**
 * Opens a language model from its folder, lets it write and watches the main thread from the press, loading included, to the last word.
 * @param {import('playwright').Browser} browser
 * @param {'webgpu' | 'wasm'} backend
 * @param {string} folder
 * @param {number} tokens
 */
export function watchWords(browser, backend, folder, tokens) {
  return inStudio(browser, backend, async (page) => {
    const field = (/** @type {string} */ name) => page.getByRole('textbox', { name, exact: true });
    const media = page.getByRole('radiogroup', { name: 'What to make' });
    await media.getByRole('radio', { name: 'Text', exact: true }).check({ force: true });
    await page.getByTestId('language-folder').setInputFiles(folder);
    await page.getByRole('region', { name: 'Language model' }).getByRole('combobox').waitFor();
    await field('Prompt').fill('A lighthouse in the storm.');
    await field('Rule').fill('Tell a long story about it.');
    await page.getByText('More settings').click();
    await field('Longest answer').fill(String(tokens));
    return watched(page, async () => {
      await page.getByRole('button', { name: 'Generate', exact: true }).click();
      await page.getByRole('region', { name: 'Text', exact: true }).getByRole('button', { name: 'Copy' }).waitFor();
    });
  });
}

/**
 * @param {import('playwright').Page} page
 * @param {() => Promise<void>} act
 * @returns {Promise<Watched>}
 */
async function watched(page, act) {
  await page.evaluate(() => {
    /** @type {number[]} */
    const tasks = [];
    Object.assign(globalThis, { longTasks: tasks, watchedSince: performance.now() });
    // Only tasks of 50 ms and more are reported.
    new PerformanceObserver((list) => {
      tasks.push(...list.getEntries().map(({ duration }) => duration));
    }).observe({ type: 'longtask' });
  });
  await act();
  return page.evaluate(() => {
    const { longTasks, watchedSince } = /** @type {{ longTasks: number[], watchedSince: number }} */ (
      /** @type {unknown} */ (globalThis)
    );
    return {
      longestMs: Math.max(0, ...longTasks),
      over50: longTasks.filter((duration) => duration > 50).length,
      watchedMs: performance.now() - watchedSince,
    };
  });
}
