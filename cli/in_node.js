/** `--backend cpu`: the command line without a browser, on the npm package's engine for Node. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isObject, withFiles, withModel } from './arguments.js';
import { Failure } from './failure.js';
import { checkServers, serversIn } from './servers.js';

/**
 * @typedef {import('../src/package/contract.ts').Darkroom} Darkroom
 * @typedef {import('../src/package/contract.ts').DarkroomOptions} DarkroomOptions
 * @typedef {import('../src/package/contract.ts').Operation} Operation
 * @typedef {import('../src/package/contract.ts').Result} Result
 * @typedef {{ createDarkroom: (options: DarkroomOptions) => Darkroom }} Module
 * @typedef {typeof import('../src/package/command_line.ts')} Questions
 */

const PACKAGE = new URL('../package/dist/', import.meta.url);
const MODULE = fileURLToPath(new URL('node.js', PACKAGE));

/**
 * The servers that the environment names, for an operation that needs any.
 * @param {unknown} operation
 * @param {Questions} questions
 * @param {(sentence: string) => void} say
 */
async function serversFor(operation, { enginesFor, readAddress }, say) {
  const needed = await enginesFor(operation).catch(refused);
  const servers = await serversIn(needed, process.env, (typed) => Promise.resolve(typed).then(readAddress));
  checkServers(needed, servers, say);
  return servers;
}

/**
 * @param {unknown} operation
 * @param {string | null} ref of a language model on a server
 * @param {Questions} questions
 */
function withServersModel(operation, ref, { languageStepsOf }) {
  return ref === null ? operation : withModel(operation, answered(languageStepsOf, operation), ref);
}

/**
 * @template Answer
 * @param {(operation: unknown) => Answer} question
 * @param {unknown} operation
 * @returns {Answer}
 */
function answered(question, operation) {
  try {
    return question(operation);
  } catch (error) {
    return refused(error);
  }
}

/**
 * @param {string} name
 * @returns {Promise<unknown>}
 */
async function load(name) {
  return import(new URL(name, PACKAGE).href);
}

/**
 * @param {unknown} error
 * @returns {never}
 */
function refused(error) {
  const { code, message } = /** @type {import('../src/package/contract.ts').DarkroomError} */ (error);
  throw new Failure(code, message);
}

/**
 * @param {import('./arguments.js').Request} request
 * @param {unknown} operation
 * @param {(sentence: string) => void} say
 * @returns {Promise<Result>}
 */
export async function runInNode(request, operation, say) {
  if (request.origin || request.language !== null || request.languageOrigin) {
    throw new Failure(
      'invalid_operation',
      'With --backend cpu nothing is fetched, and language models run on servers only; name a folder or file as --checkpoint, or take another backend.',
    );
  }
  if (!existsSync(MODULE)) {
    throw new Failure('not_built', 'The package is not built yet; run "npm run build:package" first.');
  }
  const { createDarkroom } = /** @type {Module} */ (await load('node.js'));
  const questions = /** @type {Questions} */ (await load('command_line.js'));
  const named = answered(questions.namedFilesOf, operation);
  const given = await withFiles(operation, named, dirname(request.operation));
  const whole = withServersModel(given, request.languageRef, questions);
  const darkroom = createDarkroom({
    servers: await serversFor(whole, questions, say),
    ...(request.checkpoint === null ? {} : { checkpoints: { given: request.checkpoint } }),
  });
  let last = '';
  try {
    say((await darkroom.device()).note ?? 'Runs on the processor.');
    const job = darkroom.run(/** @type {Operation} */ (/** @type {unknown} */ (isObject(whole) ? whole : {})), {
      onNotice: say,
      onProgress: ({ stage, step, steps, secondsLeft }) => {
        const now = steps > 0 ? `${stage} ${step}/${steps}` : stage;
        if (now !== last) {
          last = now;
          say(secondsLeft === null ? now : `${now}, about ${Math.ceil(secondsLeft)} s left`);
        }
      },
    });
    return await job.result;
  } catch (error) {
    refused(error);
  } finally {
    await darkroom.dispose();
  }
}
