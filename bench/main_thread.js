/** Whether the page stays responsive while a picture is made: the longest task of its main thread. */
import { join } from 'node:path';
import { build } from 'vite';
import { serveFolder } from '../cli/server.js';

const HERE = import.meta.dirname;
const APP = join(HERE, '.dist_app');

/**
 * Builds the studio, presses Generate as a newcomer would and watches the main thread from the press to the picture.
 * @param {import('playwright').Browser} browser
 * @param {'webgpu' | 'wasm'} backend
 * @returns {Promise<{ longestMs: number, over50: number, watchedMs: number }>} `longestMs` is 0 when no task took 50 ms or more
 */
export async function watchMainThread(browser, backend) {
  await build({ root: join(HERE, '..'), logLevel: 'error', build: { outDir: APP, emptyOutDir: true } });
  const server = await serveFolder(APP);
  const page = await browser.newPage({ serviceWorkers: 'block' });
  page.setDefaultTimeout(0);
  try {
    await page.goto(`${server.url}/?backend=${backend}`);
    const generate = page.getByRole('button', { name: 'Generate', exact: true });
    await generate.and(page.locator('[aria-disabled="false"]')).waitFor();
    const watching = page.evaluate(
      () =>
        /** @type {Promise<{ longestMs: number, over50: number, watchedMs: number }>} */ (
          new Promise((resolve) => {
            const start = performance.now();
            /** @type {number[]} */
            const tasks = [];
            // Only tasks of 50 ms and more are told.
            new PerformanceObserver((list) => {
              tasks.push(...list.getEntries().map(({ duration }) => duration));
            }).observe({ type: 'longtask' });
            addEventListener('darkroom-bench-end', () => {
              resolve({
                longestMs: Math.max(0, ...tasks),
                over50: tasks.filter((duration) => duration > 50).length,
                watchedMs: performance.now() - start,
              });
            });
          })
        ),
    );
    await generate.click();
    await page.getByRole('link', { name: 'Save as PNG' }).waitFor();
    await page.evaluate(() => dispatchEvent(new Event('darkroom-bench-end')));
    return await watching;
  } finally {
    await page.close();
    await server.close();
  }
}
