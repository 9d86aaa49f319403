/** The parts `--blocks`, `--large` and `--whole` of the benchmark: asks the page of `blocks.ts` and `whole.ts` and prints what it measured, always on WebGPU. */

/**
 * @typedef {<Answer>(question: string) => Promise<Answer>} Ask a call on `bench`, in a fresh page
 */

const NAMES = ['klein-4b', 'z-image', 'sd35-large', 'qwen-image'];
/** Of the spread of what torch computes. */
const LIMIT = 1e-3;

const megabytes = (/** @type {number} */ bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/**
 * @param {Ask} ask
 * @param {number} runs
 */
export async function tellBlocks(ask, runs) {
  for (const bits of /** @type {const} */ ([32, 4])) {
    /** @type {import('./blocks.ts').BlocksRace} */
    const race = await ask(`raceBlocks(${bits}, ${runs})`);
    const { rows, weightBytes, blocks, kinds } = race;
    console.log(
      `\nklein of width 256 in ${blocks} blocks of ${kinds} kinds, weights of ${bits} bits (${megabytes(weightBytes)}), by turns; medians of ${runs} runs, and the quickest`,
    );
    console.log(
      '               ready ms        run ms  told ms  launches  submits  passes  clears  buffers  wasm heap',
    );
    const both = (/** @type {{ ms: number, least: number }} */ { ms, least }) =>
      `${ms.toFixed(0)} (${least.toFixed(0)})`;
    for (const [way, row] of Object.entries(rows)) {
      console.log(
        [
          way.padEnd(12),
          both(row.ready).padStart(13),
          both(row.run).padStart(13),
          row.toldMs.toFixed(0).padStart(8),
          String(row.launches).padStart(9),
          String(row.submits).padStart(8),
          String(row.passes).padStart(7),
          String(row.clears).padStart(7),
          String(row.buffers).padStart(8),
          `+${megabytes(row.heapGrowth)}`.padStart(10),
        ].join(' '),
      );
    }
    const { whole, resident, streamed } = rows;
    const worst = whole.output.reduce((most, value, i) => Math.max(most, Math.abs(value - resident.output[i])), 0);
    const isSame = streamed.output.every((value, i) => value === resident.output[i]);
    const hidden = Math.max(0, 1 - streamed.waitedMs / streamed.uploadMs);
    console.log(
      `blocks beside the whole graph, the quickest of each: run ${race.runRatio.toFixed(2)}x (the median of pairs ${race.pairRatio.toFixed(2)}x), ready ${race.readyRatio.toFixed(1)}x as fast; they differ by ${worst.toExponential(1)} at most`,
    );
    console.log(
      `streamed beside weights that stay: run ${race.streamedRatio.toFixed(2)}x, of ${streamed.uploadMs.toFixed(0)} ms of upload ${(100 * hidden).toFixed(0)} % hidden; ${isSame ? 'the same bits' : 'NOT the same bits'}`,
    );
  }
}

/**
 * @param {Ask} ask
 * @param {string | null} only one of the transformers; null = all
 * @returns whether all are as torch has them, the same however their weights come, and never above what they were allowed
 */
export async function tellPublished(ask, only) {
  let isRight = true;
  console.log('\ntransformers of published width, weights of 4 bits, a few blocks; against torch');
  for (const name of NAMES.filter((each) => only === null || each === only)) {
    /** @type {import('./blocks.ts').PublishedRow} */
    const row = await ask(`runPublished('${name}')`);
    const { difference, isSame, weightBytes, streamedBytes, budget, kinds, blocks, ms } = row;
    console.log(
      `${name.padEnd(12)} ${blocks} blocks of ${kinds} kinds, ${megabytes(weightBytes)}: ${difference.toExponential(1)} of the spread from torch; streamed ${isSame ? 'the same bits' : 'NOT THE SAME'}, at most ${megabytes(streamedBytes)} of ${megabytes(budget)} allowed, ${(ms / 1000).toFixed(0)} s with making the weights`,
    );
    isRight &&= difference <= LIMIT && isSame && streamedBytes <= budget;
  }
  return isRight;
}

const WHOLE = [
  'sd-1.5',
  'sd-1.5-controlnet',
  'sdxl',
  'sdxl-inpainting',
  'sdxl-controlnet',
  'stable-audio-open',
  'ace-step-1.5',
  'ltx-2b',
  'wan21-1.3b',
  'wan22-ti2v-5b',
];
/** By how much what is held may differ from what was planned. */
const SHARE = 0.15;

/**
 * @param {Ask} ask
 * @param {string | null} only one of the checkpoints; null = all
 * @returns whether each holds what was planned
 */
export async function tellWhole(ask, only) {
  let isRight = true;
  console.log('\nwhole published checkpoints, weights of 4 bits, loaded beside what was planned');
  for (const name of WHOLE.filter((each) => only === null || each === only)) {
    /** @type {import('./whole.ts').WholeRow} */
    const { parameters, phases, networks, ms } = await ask(`holdWhole('${name}')`);
    console.log(
      `${name}, ${(parameters / 1e9).toFixed(2)} billion weights, ${(ms / 1000).toFixed(0)} s with making them: ${Object.entries(
        networks,
      )
        .map(([network, bytes]) => `${network} ${megabytes(bytes)}`)
        .join(', ')}`,
    );
    for (const { phase, weights, peak, held, most } of phases) {
      console.log(
        `  ${phase.padEnd(9)} weights planned ${megabytes(weights)}, held ${megabytes(held)} (${(held / weights).toFixed(2)}x), ${megabytes(most)} at most on the way; with computing planned ${megabytes(peak)} (${(most / peak).toFixed(2)}x)`,
      );
      isRight &&= Math.abs(held / weights - 1) <= SHARE && most <= (1 + SHARE) * peak;
    }
  }
  return isRight;
}
