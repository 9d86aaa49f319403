/**
 * `npm run bench [-- --quick] [--runs=N] [--webgpu | --wasm] [--unet] [--vae_decoder] [--unet_xl] [--controlnet] [--rrdbnet] [--srvgg] [--loop] [--loras] [--page] [--memory] [--song] [--storing] [--pool] [--video]
 * [--lively] [--blocks] [--large[=NAME]] [--whole[=NAME]] [--language=FOLDER] [--processor[=FOLDER] [--run=NAME] [--pairs=N]]`: builds the benchmark's page, runs it in
 * Chromium and prints the tables; all but these choose parts. `--language` wants the folder of a language model, such as
 * `reference/smollm2.py` makes, and `--processor` the exports of `reference/export_processor.py`; both run only where they are named, as do
 * `--large` and `--whole`. Times hold for this machine and compare only within one run; launches and bytes are exact and carry over to other GPUs.
 */
import { join } from 'node:path';
import { cpus, loadavg } from 'node:os';
import { chromium } from 'playwright';
import { build } from 'vite';
import { chromiumFlags, provideChromium } from '../cli/chromium.js';
import { serveFolder } from '../cli/server.js';
import { tellBlocks, tellPublished, tellWhole } from './block_tables.js';
import { raceLanguage } from './language.js';
import { tellMedia } from './media_tables.js';
import { watchPicture, watchUse, watchWords } from './main_thread.js';
import { tellNetwork } from './network_tables.js';
import { raceJob, racePool } from './pool.js';
import { THREADS, missingExports, peakMemory, raceProcessor } from './processor.js';
import { watchWriting } from './video_memory.js';

const HERE = import.meta.dirname;
const DIST = join(HERE, '.dist');
const quick = process.argv.includes('--quick');
const asked = /** @type {const} */ (['webgpu', 'wasm']).filter((backend) => process.argv.includes(`--${backend}`));
const backends = asked.length > 0 ? asked : /** @type {const} */ (['webgpu', 'wasm']);
/** Networks that are raced against torch's exports. */
const NETWORKS = /** @type {const} */ (['unet', 'vae_decoder', 'unet_xl', 'controlnet', 'rrdbnet', 'srvgg']);
const PARTS = [...NETWORKS, 'loop', 'loras', 'page', 'memory', 'song', 'storing', 'pool', 'video', 'lively', 'blocks'];
const large = process.argv.find((word) => /^--large(=|$)/.test(word));
const whole = process.argv.find((word) => /^--whole(=|$)/.test(word));
const media = process.argv.find((word) => /^--media(=|$)/.test(word));
const named = PARTS.filter((part) => process.argv.includes(`--${part}`));
const model = process.argv.find((word) => word.startsWith('--language='))?.slice('--language='.length);
const processor = process.argv.find((word) => /^--processor(=|$)/.test(word));
const exports = processor?.split('=')[1] ?? join(HERE, '.processor');
const isPicked = named.length > 0 || [model, processor, large, whole, media].some((word) => word !== undefined);
const parts = isPicked ? named : PARTS;
/** Parts that run no network. */
const ON_NO_BACKEND = ['pool', 'storing', 'video', 'lively', 'blocks'];
/** Of the 300 MB that one of these may take. */
const LONG_VIDEO = { seconds: 20, side: 512, rate: 24 };
const asRuns = Number(process.argv.find((word) => word.startsWith('--runs='))?.slice('--runs='.length));
const RUNS = asRuns > 0 ? asRuns : quick ? 1 : 5;
const SONG_FRAMES = 25;
const LOOP_STEPS = quick ? 2 : 4;
/** Of the race of language engines. */
const [PAIRS, TOKENS] = quick ? [2, 16] : [6, 48];

const missing = processor === undefined ? null : missingExports(exports);
if (missing !== null) {
  console.error(missing);
  process.exit(1);
}
const executablePath = await provideChromium().catch((error) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
await build({
  configFile: false,
  root: HERE,
  logLevel: 'error',
  // The runtime's threads import the page's script, where there is no document.
  build: {
    target: 'esnext',
    outDir: DIST,
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});
const server = await serveFolder(DIST);
const launch = () => chromium.launch({ executablePath, args: [...chromiumFlags(), '--enable-precise-memory-info'] });
const browser = await launch();

/**
 * Asks a fresh page, so that no session slows the next.
 * @template Answer
 * @param {string} question a call on `bench`
 * @returns {Promise<Answer>}
 */
async function ask(question) {
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  try {
    await page.goto(server.url);
    await page.waitForFunction(() => 'bench' in globalThis);
    return /** @type {Answer} */ (await page.evaluate(`globalThis.bench.${question}`));
  } finally {
    await page.close();
  }
}

/**
 * @param {string} what
 * @param {import('./main_thread.js').Watched} watched
 */
function tellTasks(what, { watchedMs, over50, longestMs }) {
  console.log(
    `main thread ${what} (${(watchedMs / 1000).toFixed(1)} s): ${over50} tasks over 50 ms, the longest ${longestMs.toFixed(0)} ms (0: none of 50 ms or more)`,
  );
}

/**
 * @param {Awaited<ReturnType<typeof raceJob>>} pairs
 * @param {import('./pool.js').Added} pool of a job in the pool
 */
function tellAdded(pairs, pool) {
  const of = (/** @type {'ours' | 'bare'} */ who) => {
    const [before, after] = /** @type {const} */ (['before', 'after']).map((when) =>
      middle(pairs.map((pair) => pair[who][when])),
    );
    return { before, after, all: middle(pairs.map(({ [who]: added }) => added.before + added.after)) };
  };
  const [ours, bare] = [of('ours'), of('bare')];
  console.log(
    `one job at a time by turns, medians of ${pairs.length} pairs: beside the server's own time the bare requests take ${bare.before.toFixed(0)} ms before it and ${bare.after.toFixed(0)} ms after it, the studio ${ours.before.toFixed(0)} and ${ours.after.toFixed(0)} ms with queue and recording: ${(ours.all / bare.all).toFixed(1)}x, ${(ours.all - bare.all).toFixed(0)} ms more`,
  );
  const inPool = pool.before - bare.before + (pool.after - bare.after);
  console.log(
    `in the pool, where the next job has been judged already: ${inPool.toFixed(0)} ms more per job than the bare requests`,
  );
}

const load = () => `load ${loadavg()[0].toFixed(1)} on ${cpus().length} cores`;

/** @param {number} ms */
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

/** @param {number[]} ratios */
const each = (ratios) =>
  `${middle(ratios).toFixed(2)}x (each pair: ${ratios.map((ratio) => ratio.toFixed(2)).join(', ')})`;

/** @param {import('./processor.js').Row} row ratios above 1 are in favour of ours */
function tellProcessor({ run, pairs, difference }) {
  const steps = run.steps === 1 ? 'one step' : `${run.steps} ${run.guidance > 1 ? 'guided ' : ''}steps`;
  console.log(
    `${run.side} x ${run.side}, ${steps}: ours ${seconds(middle(pairs.map(({ ours }) => ours)))} (${load()})`,
  );
  for (const [which, what] of /** @type {const} */ ([
    ['same', 'with as many threads'],
    ['usual', "with ONNX Runtime's own number of threads"],
  ])) {
    const ratios = pairs.map((pair) => pair[which] / pair.ours);
    console.log(
      `  a plain loop over torch's exports ${what}: ${seconds(middle(pairs.map((pair) => pair[which])))}, ${each(ratios)}`,
    );
  }
  console.log(`  the pictures differ by ${difference}/255 at most`);
}

/** @param {Awaited<ReturnType<typeof raceProcessor>>} firsts */
function tellFirsts(firsts) {
  const of = (/** @type {'first' | 'next'} */ which, /** @type {'ms' | 'before' | 'saved' | 'after'} */ what) =>
    middle(firsts.map(({ [which]: picture }) => picture[what]));
  console.log(
    `first picture after opening, once prepared: ${seconds(of('first', 'ms'))}, the next one ${seconds(of('next', 'ms'))}, ${each(firsts.map(({ first, next }) => first.ms / next.ms))}`,
  );
  console.log(
    `  from Generate to the first network's run ${of('first', 'before').toFixed(0)} ms, of the next one ${of('next', 'before').toFixed(0)} ms; from the last run to the saved file ${of('first', 'saved').toFixed(0)} and ${of('next', 'saved').toFixed(0)} ms, to the job's end ${of('first', 'after').toFixed(0)} and ${of('next', 'after').toFixed(0)} ms`,
  );
}

/** @param {number[]} values */
function middle(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

/**
 * Ratios above 1 are in favour of the language engine.
 * @param {import('./language.js').Pair[]} pairs
 * @param {string} precision
 */
function tellRace(pairs, precision) {
  const isSame = pairs.every(({ ours, plain }) => ours.ids.join() === plain.ids.join());
  console.log(`\nlanguage engine and plain transformers.js by turns, ${precision}, medians of ${pairs.length} pairs`);
  for (const [what, of, isBetterHigh] of /** @type {const} */ ([
    ['tokens per second', 'perSecond', true],
    ['ms to the first token', 'firstMs', false],
  ])) {
    const ratios = pairs.map(({ ours, plain }) => (isBetterHigh ? ours[of] / plain[of] : plain[of] / ours[of]));
    const [ours, plain] = [pairs.map((pair) => pair.ours[of]), pairs.map((pair) => pair.plain[of])].map(middle);
    console.log(
      `${what}: ${ours.toFixed(1)} and ${plain.toFixed(1)}, ${middle(ratios).toFixed(2)}x (each pair: ${ratios.map((ratio) => ratio.toFixed(2)).join(', ')})`,
    );
  }
  console.log(`the tokens are ${isSame ? 'the same' : 'not the same'}`);
}

try {
  const version = browser.version();
  if (parts.includes('storing')) {
    /** @type {number[][]} */
    const times = [];
    for (let run = 0; run < 5; run++) {
      const { databaseMs, filesMs } = /** @type {Awaited<ReturnType<import('./bench.ts').Bench['storing']>>} */ (
        await ask('storing()')
      );
      times.push([databaseMs, filesMs]);
    }
    const median = (/** @type {number} */ which) =>
      times
        .map((row) => row[which])
        .sort((a, b) => a - b)[2]
        .toFixed(0);
    console.log(
      `passing torn logs before anything is stored: IndexedDB ${median(0)} ms, both file systems ${median(1)} ms (median of 5)`,
    );
  }
  if (parts.includes('pool')) {
    const { done, of, twice, busy, idleMs, recordMs, seconds, made } = await racePool(browser, quick ? 12 : 60);
    console.log(
      `pool of 3 ComfyUI servers, the second killed and the third slow: ${done} of ${of} jobs done in ${seconds.toFixed(1)} s (${made.join(', ')} by each), ${twice} recorded other than once`,
    );
    console.log(
      `busy while there was something to give: ${busy.map((share) => `${(100 * share).toFixed(0)} %`).join(' and ')}; our side adds ${idleMs.toFixed(0)} ms before a job and ${recordMs.toFixed(0)} ms after it until all is recorded (medians)`,
    );
    tellAdded(await raceJob(browser, quick ? 5 : 21), { before: idleMs, after: recordMs });
  }
  if (parts.includes('video')) {
    const { frames, seconds, bytes, kind, ms, peakBytes } = await watchWriting(browser, server.url, LONG_VIDEO);
    console.log(
      `video of ${frames} frames of ${LONG_VIDEO.side}×${LONG_VIDEO.side} pixels (${seconds} s, ${kind}, ${(bytes / 1e6).toFixed(1)} MB) in ${(ms / 1000).toFixed(1)} s: at most ${(peakBytes / 1e6).toFixed(0)} MB of JavaScript heap and buffers`,
    );
  }
  if (parts.includes('lively')) {
    const { answers, ...tasks } = await watchUse(browser, THREADS);
    tellTasks(`in use while ${THREADS} threads make a picture`, tasks);
    const each = Object.entries(answers).map(
      ([name, times]) => `${name} ${middle(times).toFixed(0)} and ${Math.max(...times).toFixed(0)} ms`,
    );
    console.log(`  from an event to the frame that shows it, median and longest: ${each.join(', ')} (${load()})`);
  }
  if (processor !== undefined) {
    const wished = Number(process.argv.find((word) => word.startsWith('--pairs='))?.slice('--pairs='.length));
    const only = process.argv.find((word) => word.startsWith('--run='))?.slice('--run='.length);
    const pairs = wished > 0 ? wished : quick ? 2 : 5;
    console.log(
      `\npictures on the processor, whole, ${THREADS} threads, medians of ${pairs} pairs by turns (${load()})`,
    );
    tellFirsts(await raceProcessor(browser, exports, pairs, only, tellProcessor));
    const peaks = await peakMemory(launch, exports);
    if (peaks) {
      const [ours, plain] = [peaks.ours, peaks.plain].map((bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`);
      console.log(
        `most memory of the page's process for two pictures of one step: ours ${ours}, the plain loop ${plain} (${(peaks.plain / peaks.ours).toFixed(2)}x)`,
      );
    }
  }
  if (parts.includes('blocks')) {
    await tellBlocks(ask, quick ? 3 : 7);
    await tellNetwork(ask, 'webgpu', 'klein', quick ? 3 : 7);
  }
  if (large !== undefined) {
    const [, only] = large.split('=');
    process.exitCode = (await tellPublished(ask, only === undefined ? null : only)) ? 0 : 1;
  }
  if (whole !== undefined) {
    const [, only] = whole.split('=');
    process.exitCode = (await tellWhole(ask, only ?? null)) ? 0 : 1;
  }
  const isOverAlready =
    model === undefined && media === undefined && parts.every((part) => ON_NO_BACKEND.includes(part));
  for (const backend of isOverAlready ? [] : backends) {
    const device = /** @type {import('../src/core/job.ts').DeviceReport} */ (await ask(`device('${backend}')`));
    console.log(
      `\n## ${backend}: ${device.adapter}, ${device.precision}, ${cpus()[0]?.model ?? 'unknown processor'}, Chromium ${version}, ONNX Runtime build ${device.runtime}`,
    );
    for (const network of NETWORKS.filter((part) => parts.includes(part))) {
      await tellNetwork(ask, backend, network, RUNS);
    }
    if (media !== undefined) {
      await tellMedia(ask, backend, RUNS, media.split('=')[1] ?? null);
    }
    if (parts.includes('loop')) {
      /** @type {import('./bench.ts').LoopRow} */
      const loop = await ask(`loop('${backend}', ${LOOP_STEPS})`);
      console.log(
        `\nsampling loop of ${LOOP_STEPS} guided steps: on the device ${loop.deviceMs.toFixed(0)} ms, CPU tensors at every step ${loop.cpuMs.toFixed(0)} ms (${(loop.cpuMs / loop.deviceMs).toFixed(2)}x), difference ${loop.difference.toExponential(1)}`,
      );
    }
    if (parts.includes('song')) {
      for (const guided of [true, false]) {
        /** @type {import('./song.ts').SongRow} */
        const { tokens, launches, runs, ms, microseconds } = await ask(
          `song('${backend}', ${quick ? 4 : SONG_FRAMES}, ${guided})`,
        );
        console.log(
          `HeartMuLa (tiny, ${guided ? 'guided' : 'unguided'}), mean of ${tokens} tokens: ${launches.toFixed(1)} launches and ${runs.toFixed(2)} runs of networks a token, ${microseconds.toFixed(0)} µs of our JavaScript of ${ms.toFixed(2)} ms in all`,
        );
      }
    }
    // On the processor a changed LoRA has the network made anew, so there is nothing to compare.
    if (backend === 'webgpu' && parts.includes('loras')) {
      /** @type {import('./bench.ts').LoraRow} */
      const row = await ask(`loras('${backend}', ${RUNS})`);
      const share = (/** @type {number} */ ms) => `${((100 * ms) / row.plainMs).toFixed(0)} %`;
      console.log(
        `\nloading the UNet ${row.plainMs.toFixed(0)} ms, with ${row.loras} LoRAs of ${row.layers} layers each ${row.withMs.toFixed(0)} ms (${share(row.withMs)} of it), changing the strength of one ${row.changedMs.toFixed(0)} ms (${share(row.changedMs)}); that wrote ${row.writtenTensors} tensors, ${(row.writtenBytes / 2 ** 20).toFixed(1)} MiB`,
      );
      console.log(
        `  the same without computing the products: ${row.withIdleMs.toFixed(0)} ms (${share(row.withIdleMs)}) and ${row.changedIdleMs.toFixed(0)} ms (${share(row.changedIdleMs)})`,
      );
    }
    if (parts.includes('page')) {
      tellTasks('from Generate to the picture', await watchPicture(browser, backend));
    }
    if (model !== undefined) {
      const { pairs, precision } = await raceLanguage(browser, backend, model, PAIRS, TOKENS);
      tellRace(pairs, precision);
      tellTasks('from Generate to the last word', await watchWords(browser, backend, model, 4 * TOKENS));
    }
    if (parts.includes('memory')) {
      /** @type {import('./bench.ts').MemoryRow} */
      const memory = await ask(`memory('${backend}')`);
      console.log(
        `loading ${(memory.weightBytes / 2 ** 20).toFixed(0)} MiB of weights: wasm heap grew by ${(memory.wasmHeapGrowth / 2 ** 20).toFixed(1)} MiB, JS heap peak ${memory.jsPeakBytes === null ? 'unknown' : `${(memory.jsPeakBytes / 2 ** 20).toFixed(0)} MiB`}`,
      );
    }
  }
} finally {
  await browser.close();
  await server.close();
}
