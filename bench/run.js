/**
 * `npm run bench [-- --quick] [--webgpu | --wasm] [--unet] [--vae_decoder] [--loop] [--page] [--memory] [--storing]`: builds the benchmark's page, runs it in
 * Chromium and prints the tables; the last six choose parts. Times are of this machine and compare only within one run; launches and bytes are
 * exact and carry over to other GPUs.
 */
import { join } from 'node:path';
import { cpus } from 'node:os';
import { chromium } from 'playwright';
import { build } from 'vite';
import { chromiumFlags, provideChromium } from '../cli/chromium.js';
import { serveFolder } from '../cli/server.js';
import { watchMainThread } from './main_thread.js';

const HERE = import.meta.dirname;
const DIST = join(HERE, '.dist');
const quick = process.argv.includes('--quick');
const asked = /** @type {const} */ (['webgpu', 'wasm']).filter((backend) => process.argv.includes(`--${backend}`));
const backends = asked.length > 0 ? asked : /** @type {const} */ (['webgpu', 'wasm']);
const PARTS = ['unet', 'vae_decoder', 'loop', 'page', 'memory', 'storing'];
const named = PARTS.filter((part) => process.argv.includes(`--${part}`));
const parts = named.length > 0 ? named : PARTS;
const RUNS = quick ? 1 : 5;
const LOOP_STEPS = quick ? 2 : 4;

const executablePath = await provideChromium().catch((error) => {
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
});
await build({
  configFile: false,
  root: HERE,
  logLevel: 'error',
  build: { target: 'esnext', outDir: DIST, emptyOutDir: true, assetsInlineLimit: 0 },
});
const server = await serveFolder(DIST);
const browser = await chromium.launch({ executablePath, args: [...chromiumFlags(), '--enable-precise-memory-info'] });

/**
 * Asks a fresh page, so that no session slows the next one.
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
  for (const backend of backends) {
    const device = /** @type {import('../src/core/job.ts').DeviceReport} */ (await ask(`device('${backend}')`));
    console.log(
      `\n## ${backend}: ${device.adapter}, ${device.precision}, ${cpus()[0]?.model ?? 'unknown processor'}, Chromium ${version}, ONNX Runtime build ${device.runtime}`,
    );
    for (const network of ['unet', 'vae_decoder'].filter((part) => parts.includes(part))) {
      /** @type {import('./bench.ts').Row[]} */
      const rows = [];
      for (const graph of ['torchscript', 'dynamo', 'ours']) {
        rows.push(await ask(`measure('${backend}', '${network}', '${graph}', ${RUNS})`));
      }
      const ours = rows[rows.length - 1];
      console.log(`\n${network} (one call, read-back included; median of ${RUNS})`);
      console.log('graph        ms       ratio  create ms  launches  bound MB  difference');
      for (const row of rows) {
        console.log(
          [
            row.graph.padEnd(12),
            row.ms.toFixed(1).padStart(7),
            `${(row.ms / ours.ms).toFixed(2)}x`.padStart(7),
            row.createMs.toFixed(0).padStart(9),
            String(row.launches).padStart(9),
            (row.boundBytes / 1e6).toFixed(1).padStart(9),
            row.difference.toExponential(1).padStart(11),
          ].join(' '),
        );
      }
      if (backend === 'webgpu') {
        for (const row of rows.slice(0, 2)) {
          console.log(
            `launches ${(ours.launches / row.launches).toFixed(2)}x, bytes ${(ours.boundBytes / row.boundBytes).toFixed(2)}x of ${row.graph}'s`,
          );
        }
      }
    }
    if (parts.includes('loop')) {
      /** @type {import('./bench.ts').LoopRow} */
      const loop = await ask(`loop('${backend}', ${LOOP_STEPS})`);
      console.log(
        `\nsampling loop of ${LOOP_STEPS} guided steps: on the device ${loop.deviceMs.toFixed(0)} ms, CPU tensors at every step ${loop.cpuMs.toFixed(0)} ms (${(loop.cpuMs / loop.deviceMs).toFixed(2)}x), difference ${loop.difference.toExponential(1)}`,
      );
    }
    if (parts.includes('page')) {
      const responsive = await watchMainThread(browser, backend);
      console.log(
        `main thread from Generate to the picture (${(responsive.watchedMs / 1000).toFixed(1)} s): ${responsive.over50} tasks over 50 ms, the longest ${responsive.longestMs.toFixed(0)} ms (0: none of 50 ms or more)`,
      );
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
