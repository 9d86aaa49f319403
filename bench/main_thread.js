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
 * Uses the page while a picture is made on the processor with so many threads: types, opens the recordings, comes back, types and cancels.
 * @param {import('playwright').Browser} browser
 * @param {number} threads
 * @returns {Promise<Watched & { answers: Record<string, number[]> }>} milliseconds from an event to the frame that shows what it did, by its kind
 */
export function watchUse(browser, threads) {
  return inStudio(browser, 'wasm', async (page) => {
    await page.goto(`${new URL(page.url()).origin}/?backend=wasm&threads=${threads}`);
    const generate = page.getByRole('button', { name: 'Generate', exact: true });
    const cancel = page.getByRole('button', { name: 'Cancel', exact: true });
    const open = (/** @type {string} */ room) => page.getByRole('link', { name: room, exact: true }).first().click();
    // Ten keys a second. Without pauses no frame is told as drawn before the last key: the browser prefers input to messages.
    const type = () =>
      page.getByRole('textbox', { name: 'Prompt', exact: true }).pressSequentially(' by the sea', { delay: 100 });
    await page.locator('button[aria-disabled="false"]', { hasText: /^Generate/ }).waitFor();
    await page.evaluate(timeAnswers);
    const seen = await watched(page, async () => {
      await generate.click();
      await cancel.waitFor();
      await page.evaluate(async () => {
        const door = /** @type {import('../src/jobs/door.ts').Door} */ (globalThis.darkroom);
        while ((await door.ledger()).networkRuns === 0) {
          await new Promise((drawn) => requestAnimationFrame(drawn));
        }
      });
      await type();
      await open('Recordings');
      await page.getByRole('heading', { name: 'Recordings' }).first().waitFor();
      await open('Studio');
      await type();
      await cancel.click();
      await cancel.waitFor({ state: 'detached' });
    });
    const answers = await page.evaluate(
      () => /** @type {{ answers: Record<string, number[]> }} */ (/** @type {unknown} */ (globalThis)).answers,
    );
    return { ...seen, answers };
  });
}

/** Runs in the page: keeps the times from an input or a click to the end of the frame after it. */
function timeAnswers() {
  /** @type {Record<string, number[]>} */
  const answers = {};
  Object.assign(globalThis, { answers });
  const time = (/** @type {Event} */ { timeStamp, type, target }) => {
    const pressed = type === 'click' && target instanceof Element ? target.closest('button, a') : null;
    const name = pressed?.textContent?.trim() ?? type;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      // Runs when the frame has been drawn.
      port1.onmessage = () => {
        (answers[name] ??= []).push(performance.now() - timeStamp);
      };
      port2.postMessage(null);
    });
  };
  ['keydown', 'input', 'click'].forEach((kind) => addEventListener(kind, time, { capture: true }));
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
