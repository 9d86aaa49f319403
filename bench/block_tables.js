/** The parts `--blocks` and `--large` of the benchmark: asks the page of `blocks.ts` and prints what it measured, always on WebGPU. */

/**
 * @typedef {<Answer>(question: string) => Promise<Answer>} Ask a call on `bench`, in a fresh page
 * @typedef {import('./blocks.ts').BlocksRow} Row
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
    const rows = /** @type {Record<'whole' | 'resident' | 'streamed', Row>} */ ({});
    for (const way of /** @type {const} */ (['whole', 'resident', 'streamed'])) {
      rows[way] = await ask(`raceBlocks('${way}', ${bits}, ${runs})`);
    }
    const { whole, resident, streamed } = rows;
    console.log(
      `\nklein in blocks, width 256, 4 double and 12 single, weights of ${bits} bits (${megabytes(whole.weightBytes)}), median of ${runs}`,
    );
    console.log('             ready ms  first ms    run ms  launches  wasm heap  weights on the device at most');
    for (const [way, row] of Object.entries(rows)) {
      console.log(
        [
          way.padEnd(12),
          row.readyMs.toFixed(0).padStart(8),
          row.firstMs.toFixed(0).padStart(9),
          row.ms.toFixed(0).padStart(9),
          String(row.launches).padStart(9),
          `+${megabytes(row.heapGrowth)}`.padStart(10),
          way === 'whole' ? '' : megabytes(row.mostWeightBytes).padStart(10),
        ].join(' '),
      );
    }
    const worst = whole.output.reduce((most, value, i) => Math.max(most, Math.abs(value - resident.output[i])), 0);
    const isSame = streamed.output.every((value, i) => value === resident.output[i]);
    const hidden = streamed.uploadMs === 0 ? 1 : Math.max(0, 1 - streamed.waitedMs / streamed.uploadMs);
    console.log(
      `blocks beside the whole graph: run ${(resident.ms / whole.ms).toFixed(2)}x, ready ${(whole.readyMs / resident.readyMs).toFixed(1)}x as fast, ready and first run ${((whole.readyMs + whole.firstMs) / (resident.readyMs + resident.firstMs)).toFixed(1)}x as fast; they differ by ${worst.toExponential(1)} at most`,
    );
    console.log(
      `streamed beside weights that stay: run ${(streamed.ms / resident.ms).toFixed(2)}x, of ${streamed.uploadMs.toFixed(0)} ms of upload ${(100 * hidden).toFixed(0)} % hidden; ${isSame ? 'the same bits' : 'NOT the same bits'}`,
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
