/** Our graphs of a network beside torch's exports of it, as a table. */

/** Whose graphs there are, ours behind those of others. */
const GRAPHS = {
  unet: ['torchscript', 'dynamo', 'ours'],
  vae_decoder: ['torchscript', 'dynamo', 'ours'],
  unet_xl: ['torchscript', 'dynamo', 'ours'],
  controlnet: ['torchscript', 'dynamo', 'ours'],
  rrdbnet: ['torchscript', 'dynamo', 'ours'],
  srvgg: ['torchscript', 'dynamo', 'ours'],
  klein: ['dynamo', 'opset23', 'ours', 'blocks'],
};
/** Those whose graphs have a page each; the others, which are small, take turns in one. */
const ALONE = ['unet', 'vae_decoder'];

const middle = (/** @type {number[]} */ values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/**
 * @param {import('./block_tables.js').Ask} ask
 * @param {'webgpu' | 'wasm'} backend
 * @param {keyof typeof GRAPHS} network
 * @param {number} runs
 */
export async function tellNetwork(ask, backend, network, runs) {
  /** @type {import('./bench.ts').Row[]} */
  let rows = [];
  const isAlone = ALONE.includes(network);
  if (!isAlone) {
    rows = await ask(`race('${backend}', '${network}', ${JSON.stringify(GRAPHS[network])}, ${runs})`);
  } else {
    for (const graph of GRAPHS[network]) {
      rows.push(await ask(`measure('${backend}', '${network}', '${graph}', ${runs})`));
    }
  }
  const ours = rows[rows.length - 1];
  const ratio = (/** @type {import('./bench.ts').Row} */ { ms, times }) =>
    isAlone ? ms / ours.ms : middle(times.map((time, turn) => time / ours.times[turn]));
  // Which other work on the machine distorts least.
  const quickest = (/** @type {import('./bench.ts').Row} */ { times }) => Math.min(...times) / Math.min(...ours.times);
  console.log(
    `\n${network} (one call, read-back included; medians of ${runs}${isAlone ? '' : ', ratios of each turn'}; of the quickest)`,
  );
  console.log('graph        ms       ratio  quickest  create ms  launches  bound MB  difference');
  for (const row of rows) {
    console.log(
      [
        row.graph.padEnd(12),
        row.ms.toFixed(1).padStart(7),
        `${ratio(row).toFixed(2)}x`.padStart(7),
        `${quickest(row).toFixed(2)}x`.padStart(9),
        row.createMs.toFixed(0).padStart(9),
        String(row.launches).padStart(9),
        (row.boundBytes / 1e6).toFixed(1).padStart(9),
        row.difference.toExponential(1).padStart(11),
      ].join(' '),
    );
  }
  if (backend === 'webgpu') {
    if (ours.launchesBefore > 0) {
      console.log(`ours takes ${ours.launchesBefore} more launches once per picture`);
    }
    for (const row of rows.slice(0, 2)) {
      console.log(
        `launches ${(ours.launches / row.launches).toFixed(2)}x, bytes ${(ours.boundBytes / row.boundBytes).toFixed(2)}x of ${row.graph}'s`,
      );
    }
  }
}
