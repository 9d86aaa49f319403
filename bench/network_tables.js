/** Our graphs of a network beside torch's exports of it, as a table. Those of klein, which is small, take turns in one page. */

/** Whose graphs there are, ours behind those of others. */
const GRAPHS = {
  unet: ['torchscript', 'dynamo', 'ours'],
  vae_decoder: ['torchscript', 'dynamo', 'ours'],
  klein: ['dynamo', 'opset23', 'ours', 'blocks'],
};

/**
 * @param {import('./block_tables.js').Ask} ask
 * @param {'webgpu' | 'wasm'} backend
 * @param {keyof typeof GRAPHS} network
 * @param {number} runs
 */
export async function tellNetwork(ask, backend, network, runs) {
  /** @type {import('./bench.ts').Row[]} */
  let rows = [];
  if (network === 'klein') {
    rows = await ask(`race('${backend}', '${network}', ${JSON.stringify(GRAPHS[network])}, ${runs})`);
  } else {
    for (const graph of GRAPHS[network]) {
      rows.push(await ask(`measure('${backend}', '${network}', '${graph}', ${runs})`));
    }
  }
  const ours = rows[rows.length - 1];
  // The quickest runs of those that take turns, which other work on the machine distorts least.
  const ratio = (/** @type {import('./bench.ts').Row} */ { ms, times }) =>
    network === 'klein' ? Math.min(...times) / Math.min(...ours.times) : ms / ours.ms;
  console.log(`\n${network} (one call, read-back included; medians of ${runs})`);
  console.log('graph        ms       ratio  create ms  launches  bound MB  difference');
  for (const row of rows) {
    console.log(
      [
        row.graph.padEnd(12),
        row.ms.toFixed(1).padStart(7),
        `${ratio(row).toFixed(2)}x`.padStart(7),
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
