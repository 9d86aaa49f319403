/** The part `--media` of the benchmark: our transformers and decoders of sounds and videos beside torch's exports of them, as tables. */

const NAMES = /** @type {const} */ (['ltx', 'wan', 'stable-audio', 'ace-step', 'oobleck', 'ltx-vae', 'wan-vae']);

/** @param {readonly number[]} values */
const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/**
 * @param {import('./block_tables.js').Ask} ask
 * @param {'webgpu' | 'wasm'} backend
 * @param {number} runs
 * @param {string | null} only one of the networks; null = all
 */
export async function tellMedia(ask, backend, runs, only) {
  for (const name of NAMES.filter((each) => only === null || each === only)) {
    /** @type {import('./media.ts').MediaRow[]} */
    const rows = await ask(`raceMedia('${backend}', '${name}', ${runs})`);
    const ours = rows[rows.length - 1];
    console.log(`\n${name}, read-back included; medians of ${runs} runs by turns, ratios of the pairs`);
    console.log('graph              ms       ratio  create ms  launches         bound MB         difference');
    for (const { graph, times, createMs, launches, boundBytes, difference } of rows) {
      const ratio = median(times.map((ms, run) => ms / ours.times[run]));
      const share = (/** @type {number} */ own, /** @type {number} */ other) =>
        graph === 'ours' || other === 0 ? '' : `(${(own / other).toFixed(2)}x)`;
      console.log(
        [
          graph.padEnd(12),
          median(times).toFixed(1).padStart(9),
          `${ratio.toFixed(2)}x`.padStart(9),
          createMs.toFixed(0).padStart(9),
          `${launches} ${share(ours.launches, launches)}`.padStart(14),
          `${(boundBytes / 1e6).toFixed(1)} ${share(ours.boundBytes, boundBytes)}`.padStart(16),
          difference.toExponential(1).padStart(11),
        ].join(' '),
      );
    }
  }
}
