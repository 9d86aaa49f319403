/** Pictures on the processor, whole, beside a plain loop over torch's exports of the same networks (`plain_pictures.ts`). */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { availableParallelism } from 'node:os';
import { inStudio } from './studio.js';

const FILES = ['about.json', 'text_encoder.onnx', 'unet.onnx', 'vae_decoder.onnx', 'noise_256.bin', 'noise_512.bin'];

/** As many as the studio takes at most. */
export const THREADS = Math.min(availableParallelism(), 16);

/**
 * @typedef {{ name: string, side: number, steps: number, guidance: number }} Run
 * @typedef {{ prompt: string, seed: string, runs: Run[] }} About
 * @typedef {{ run: Run, pairs: { ours: number, same: number, usual: number }[], difference: number }} Row milliseconds, and the largest difference
 * between the pictures, of 255
 * @typedef {(picture: string) => Promise<Blob>} Maker of a run's picture
 * @typedef {{ ms: number, before: number, saved: number, after: number }} Picture milliseconds in all, from Generate to the first network's run, and from the
 * last one's until the page knows that the file is saved, and that the job is over
 */

/**
 * What is missing of the exports, as a sentence with the command that makes them; null if all are there.
 * @param {string} folder
 */
export function missingExports(folder) {
  const missing = [...FILES, 'checkpoint/model_index.json'].filter((name) => !existsSync(join(folder, name)));
  return missing.length === 0
    ? null
    : `--processor needs torch's exports, and ${folder} lacks ${missing[0]}; make them with "python reference/export_processor.py" (its packages are in reference/requirements.txt).`;
}

/**
 * @param {import('playwright').Browser} browser
 * @param {string} folder
 * @param {number} pairs
 * @param {string | undefined} only the name of one run; by default all are made
 * @param {(row: Row) => void} onRow called as soon as one is measured
 */
export function raceProcessor(browser, folder, pairs, only, onRow) {
  const about = aboutOf(folder);
  return inStudio(browser, 'wasm', async (page) => {
    const checkpoint = await openedCheckpoint(page, folder);
    await giveFiles(page, folder);
    for (const run of about.runs.filter(({ name }) => only === undefined || name === only)) {
      onRow(await page.evaluate(race, { about, run, checkpoint, pairs, threads: THREADS }));
    }
    const firsts = [];
    for (let at = 0; at < pairs; at++) {
      const ref = await openedCheckpoint(page, folder);
      firsts.push(await page.evaluate(firstAndNext, { about, run: about.runs[0], checkpoint: ref }));
    }
    return firsts;
  });
}

/**
 * The most memory that the page's process ever had while one picture was made, each in a browser of its own; null where the system does not tell.
 * @param {() => Promise<import('playwright').Browser>} launch
 * @param {string} folder
 * @returns {Promise<{ ours: number, plain: number } | null>} bytes
 */
export async function peakMemory(launch, folder) {
  const about = aboutOf(folder);
  const [run] = about.runs;
  const ours = await peakWith(launch, async (page) => {
    const checkpoint = await openedCheckpoint(page, folder);
    await page.evaluate(firstAndNext, { about, run, checkpoint });
  });
  const plain = await peakWith(launch, async (page) => {
    // A document of the same origin without the studio.
    await page.goto(`${new URL(page.url()).origin}/icon-192.png`);
    await giveFiles(page, folder);
    await page.evaluate(plainTwice, { run: run.name, threads: THREADS });
  });
  return ours === null || plain === null ? null : { ours, plain };
}

/**
 * @param {() => Promise<import('playwright').Browser>} launch
 * @param {(page: import('playwright').Page) => Promise<void>} use
 */
async function peakWith(launch, use) {
  const browser = await launch();
  try {
    return await inStudio(browser, 'wasm', async (page) => {
      const session = await browser.newBrowserCDPSession();
      const renderers = async () => {
        const { processInfo } = await session.send('SystemInfo.getProcessInfo');
        return processInfo.filter(({ type }) => type === 'renderer').map(({ id }) => id);
      };
      await use(page);
      const peaks = (await renderers()).map(peakOf).filter((peak) => peak !== null);
      return peaks.length === 0 ? null : Math.max(...peaks);
    });
  } finally {
    await browser.close();
  }
}

/** @param {number} id of a process */
function peakOf(id) {
  try {
    const [, kilobytes] = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${id}/status`, 'utf8')) ?? [];
    return kilobytes === undefined ? null : Number(kilobytes) * 1024;
  } catch {
    return null;
  }
}

/**
 * @param {string} folder
 * @returns {About}
 */
function aboutOf(folder) {
  /** @type {unknown} */
  const about = JSON.parse(readFileSync(join(folder, 'about.json'), 'utf8'));
  return /** @type {About} */ (about);
}

/**
 * Opens the page and the checkpoint anew.
 * @param {import('playwright').Page} page
 * @param {string} folder
 * @returns {Promise<string>} its ref
 */
async function openedCheckpoint(page, folder) {
  await page.goto(`${new URL(page.url()).origin}/?backend=wasm&door=cli&threads=${THREADS}`);
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  await page.getByTestId('checkpoint-folder').setInputFiles(join(folder, 'checkpoint'));
  return page.evaluate(async () => {
    const door = /** @type {import('../src/jobs/door.ts').Door} */ (globalThis.darkroom);
    const input = /** @type {HTMLInputElement} */ (document.querySelector('[data-testid="checkpoint-folder"]'));
    return (await door.openFolder(input.files ?? [])).ref;
  });
}

/**
 * Puts the exports into a field of the page, for the worker of the plain loop.
 * @param {import('playwright').Page} page
 * @param {string} folder
 */
async function giveFiles(page, folder) {
  await page.evaluate(() => {
    document.body.append(
      Object.assign(document.createElement('input'), { type: 'file', id: 'exports', multiple: true }),
    );
  });
  await page.locator('#exports').setInputFiles(FILES.map((name) => join(folder, name)));
}

/**
 * Runs in the page.
 * @param {{ about: About, run: Run, checkpoint: string, pairs: number, threads: number }} options
 * @returns {Promise<Row>}
 */
async function race({ about, run, checkpoint, pairs, threads }) {
  const door = /** @type {import('../src/jobs/door.ts').Door} */ (globalThis.darkroom);
  const input = /** @type {HTMLInputElement} */ (document.querySelector('#exports'));
  const files = [...(input.files ?? [])].map((file) => ({ name: file.name, file }));
  /** @type {Worker[]} */
  const workers = [];

  /** @param {number | null} count of threads */
  const plainWith = async (count) => {
    const worker = new Worker('/plain/plain_pictures.js', { type: 'module' });
    workers.push(worker);
    /** @param {import('./plain_pictures.ts').PlainRequest} request */
    const ask = (request) =>
      new Promise((/** @type {(png: Blob) => void} */ done, failed) => {
        worker.onmessage = (
          /** @type {MessageEvent<import('./plain_pictures.ts').PlainAnswer>} */ { data: answer },
        ) => {
          if (answer.type === 'failed') {
            failed(new Error(answer.message));
          } else {
            done(answer.type === 'made' ? answer.png : new Blob());
          }
        };
        worker.onerror = ({ message }) => failed(new Error(message));
        worker.postMessage(request);
      });
    await ask({ type: 'open', files, threads: count });
    return () => ask({ type: 'make', run: run.name });
  };

  const ours = async () => {
    const { prompt, seed } = about;
    const { side, steps, guidance } = run;
    const parameters = { prompt, seed, width: side, height: side, steps, guidance_scale: guidance, weights: 'full' };
    const { id } = await door.submit({
      operation: 'image_generation',
      config: 'stable_diffusion',
      checkpoint,
      parameters,
    });
    const job = await door.wait(id);
    const made = job.entities.find(({ type }) => type === 'output_image');
    if (!made || job.run === null) {
      throw new Error(job.error?.message ?? 'There is no picture.');
    }
    const { run: recorded } = job;
    return () => door.entity(recorded, made.filename);
  };

  /** @param {Blob} png */
  const pixels = async (png) => {
    const bitmap = await createImageBitmap(png, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (
      new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d')
    );
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  };

  const [same, usual] = [await plainWith(threads), await plainWith(null)];
  try {
    // What loads and warms up is not counted.
    const [mine, theirs] = [await pixels(await (await ours())()), await pixels(await same())];
    await usual();
    const difference = mine.reduce((most, value, at) => Math.max(most, Math.abs(value - theirs[at])), 0);
    const rows = [];
    for (let pair = 0; pair < pairs; pair++) {
      const times = { ours: 0, same: 0, usual: 0 };
      const racers = /** @type {const} */ ([
        ['ours', ours],
        ['same', same],
        ['usual', usual],
      ]);
      // Who goes first changes, in case that is an advantage.
      for (let at = 0; at < racers.length; at++) {
        const [name, make] = racers[(at + pair) % racers.length];
        const begun = performance.now();
        await make();
        times[name] = performance.now() - begun;
      }
      rows.push(times);
    }
    return { run, pairs: rows, difference };
  } finally {
    workers.forEach((worker) => worker.terminate());
  }
}

/**
 * Runs in the studio: the first picture after the engine was prepared for it, and the next one.
 * @param {{ about: About, run: Run, checkpoint: string }} options
 * @returns {Promise<{ first: Picture, next: Picture }>} milliseconds
 */
async function firstAndNext({ about, run, checkpoint }) {
  const door = /** @type {import('../src/jobs/door.ts').Door} */ (globalThis.darkroom);
  const { prompt, seed } = about;
  const { side, steps, guidance } = run;
  const parameters = { prompt, seed, width: side, height: side, steps, guidance_scale: guidance, weights: 'full' };
  const operation = { operation: 'image_generation', config: 'stable_diffusion', checkpoint, parameters };
  await door.prepare(operation);
  const timed = async () => {
    const now = () => performance.timeOrigin + performance.now();
    // What was run before is not this picture's.
    await door.ledger();
    const begun = now();
    const { id } = await door.submit(operation);
    let saved = 0;
    const stop = door.follow(id, ({ entities }) => {
      if (saved === 0 && entities.some(({ type }) => type === 'output_image')) {
        saved = now();
      }
    });
    const { error } = await door.wait(id);
    stop();
    if (error) {
      throw new Error(error.message);
    }
    const over = now();
    const { firstRunAt, lastRunAt } = await door.ledger();
    const last = lastRunAt ?? over;
    return { ms: over - begun, before: (firstRunAt ?? over) - begun, saved: saved - last, after: over - last };
  };
  return { first: await timed(), next: await timed() };
}

/**
 * Runs in a page without the studio.
 * @param {{ run: string, threads: number }} options
 */
async function plainTwice({ run, threads }) {
  const input = /** @type {HTMLInputElement} */ (document.querySelector('#exports'));
  const files = [...(input.files ?? [])].map((file) => ({ name: file.name, file }));
  const worker = new Worker('/plain/plain_pictures.js', { type: 'module' });
  const make = { type: 'make', run };
  for (const request of [{ type: 'open', files, threads }, make, make]) {
    await new Promise((done, failed) => {
      worker.onmessage = (/** @type {MessageEvent<import('./plain_pictures.ts').PlainAnswer>} */ { data: answer }) =>
        answer.type === 'failed' ? failed(new Error(answer.message)) : done(undefined);
      worker.onerror = ({ message }) => failed(new Error(message));
      worker.postMessage(request);
    });
  }
}
