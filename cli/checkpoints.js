/**
 * The checkpoints that the command line's browser keeps: `npm run --silent checkpoints -- list | look WHAT [--checkpoint REF] |
 * fetch WHAT [--variant full|q8|q4 | --path FILE] | remove REF | servers`, where WHAT is `ORG/NAME[@REVISION]` or an address. Standard output gets JSON, standard error everything else. Exit codes as of
 * `generate.js`.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { parseOrigin } from './arguments.js';
import { Failure } from './failure.js';
import { profile } from './profile.js';
import { Session } from './session.js';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));
const USAGE =
  'npm run --silent checkpoints -- list | look ORG/NAME[@REVISION]|ADDRESS [--checkpoint REF] | fetch ORG/NAME[@REVISION]|ADDRESS [--variant full|q8|q4 | --path FILE] | remove REF | servers';

/** @param {string[]} words */
async function main(words) {
  const { question, asked } = understand(words);
  if (!existsSync(join(DIST, 'index.html'))) {
    throw new Failure('not_built', 'The page is not built yet; run "npm run build" first.');
  }
  const session = await Session.open(DIST, 'auto', profile());
  try {
    let answer =
      question === 'servers' ? await session.probeServers(process.env) : await session.askEngine(question, asked);
    if (question === 'fetch') {
      answer = await session.untilFetched(/** @type {{ ref: string }} */ (answer).ref, (done, total) => {
        process.stderr.write(`download ${total === 0 ? 100 : Math.floor((100 * done) / total)} %\n`);
      });
    }
    process.stdout.write(`${JSON.stringify(answer, null, 2)}\n`);
  } finally {
    await session.close();
  }
}

/**
 * @param {string[]} words
 * @returns {{ question: import('../src/jobs/engine_questions.ts').EngineQuestion | 'servers', asked: object }}
 */
function understand(words) {
  const { values, positionals } = parsed(words);
  const [verb, what, ...more] = positionals;
  if (verb === 'servers' && what === undefined) {
    return { question: verb, asked: {} };
  }
  if (verb === 'list' && what === undefined) {
    return { question: 'checkpoints', asked: {} };
  }
  if (verb === 'remove' && what !== undefined && more.length === 0) {
    return { question: 'remove', asked: { ref: what } };
  }
  if ((verb !== 'look' && verb !== 'fetch') || what === undefined || more.length > 0) {
    throw new Failure('invalid_operation', `This is not understood; say ${USAGE}`);
  }
  const origin = parseOrigin(what);
  if (origin === null) {
    throw new Failure('invalid_operation', `"${what}" is neither ORG/NAME nor a web address.`);
  }
  const token = process.env.HF_TOKEN ? { token: process.env.HF_TOKEN } : {};
  const place =
    origin.kind === 'url'
      ? { url: origin.url }
      : { repo: origin.repo, ...(origin.revision === null ? {} : { revision: origin.revision }) };
  // Fetching with this command accepts the licence, as with generate.
  const file = values.path === undefined ? {} : { path: values.path };
  const fetching = verb === 'fetch' ? { variant: values.variant ?? 'full', accept_license: true, ...file } : {};
  // A LoRA is compared with the checkpoint that it is wanted for.
  const wanted = verb === 'look' && values.checkpoint !== undefined ? { checkpoint: values.checkpoint } : {};
  return { question: verb, asked: { ...place, ...token, ...fetching, ...wanted } };
}

/** @param {string[]} words */
function parsed(words) {
  try {
    const options = /** @type {const} */ ({
      variant: { type: 'string' },
      checkpoint: { type: 'string' },
      path: { type: 'string' },
    });
    return parseArgs({ args: words, allowPositionals: true, options });
  } catch (error) {
    throw new Failure('invalid_operation', `${/** @type {Error} */ (error).message.split('\n')[0]} Say ${USAGE}`);
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  const failure =
    error instanceof Failure
      ? error
      : new Failure('internal', error instanceof Error ? error.message.split('\n')[0] : String(error));
  process.stderr.write(`${failure.code}: ${failure.message}\n`);
  process.exitCode = failure.exitCode;
}
