/** How much memory a page takes while it writes a long video. */

/** Milliseconds between two looks. */
const EVERY = 50;

/**
 * @param {import('playwright').Browser} browser
 * @param {string} url of the benchmark's page
 * @param {{ seconds: number, side: number, rate: number }} video
 * @returns {Promise<import('./video.ts').Written & { peakBytes: number }>} with the most bytes of the JavaScript heap and of what lies in its buffers
 */
export async function watchWriting(browser, url, { seconds, side, rate }) {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  try {
    await page.goto(url);
    await page.waitForFunction(() => 'bench' in globalThis);
    const session = await page.context().newCDPSession(page);
    let [peakBytes, isOver] = [0, false];
    const look = async () => {
      while (!isOver) {
        const { usedSize, backingStorageSize = 0 } = await session.send('Runtime.getHeapUsage');
        peakBytes = Math.max(peakBytes, usedSize + backingStorageSize);
        await new Promise((resolve) => setTimeout(resolve, EVERY));
      }
    };
    const looking = look();
    const written = /** @type {import('./video.ts').Written} */ (
      await page.evaluate(`globalThis.bench.writeVideo(${seconds}, ${side}, ${rate})`)
    );
    isOver = true;
    await looking;
    return { ...written, peakBytes };
  } finally {
    await page.close();
  }
}
