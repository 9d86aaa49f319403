/**
 * The command line door: `npm run --silent generate -- operation.json --out DIR [--checkpoint DIR|FILE|ORG/NAME] [--language DIR|ORG/NAME]
 * [--backend …]`.
 * Drives a headless Chromium over the built page, or with `--backend cpu` ONNX Runtime in Node. Standard output gets one JSON line per recorded entity, standard
 * error everything else. Exit codes: 0 done, 2 the request is not valid (nothing is written), 1 it failed.
 */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  checkCheckpoint,
  checkLanguageFolder,
  isObject,
  parseArguments,
  readOperation,
  withFiles,
} from './arguments.js';
import { Failure } from './failure.js';
import { runInNode } from './in_node.js';
import { profile } from './profile.js';
import { Session } from './session.js';

/**
 * @typedef {import('../src/core/job.ts').Job} Job
 * @typedef {{ filename: string, type: string, sha256: string, metadata: Record<string, unknown>, content: Uint8Array | Blob }} Recorded
 */

const DIST = fileURLToPath(new URL('../dist', import.meta.url));

/** @param {string[]} words */
async function generate(words) {
  // npm runs scripts in the package's folder; this is where the person was.
  const request = parseArguments(words, process.env.INIT_CWD ?? process.cwd());
  const operation = await readOperation(request.operation, say);
  if (request.checkpoint !== null) {
    await checkCheckpoint(request.checkpoint);
  }
  if (request.language !== null) {
    await checkLanguageFolder(request.language);
  }
  if (request.backend === 'cpu') {
    const started = Date.now();
    const result = await runInNode(request, operation, say);
    const files = result.files.map(({ blob, ...file }) => ({ ...file, content: blob }));
    await deliver(files, result.metadata, { seed: result.seed, ms: Date.now() - started }, request.out);
    return;
  }
  const token = process.env.HF_TOKEN || null;
  if (!existsSync(join(DIST, 'index.html'))) {
    throw new Failure('not_built', 'The page is not built yet; run "npm run build" first.');
  }

  const fetches = request.origin ?? request.languageOrigin;
  const session = await Session.open(DIST, request.backend, fetches ? profile() : null);
  try {
    const device = await session.device();
    say(device.note ?? `Runs on ${device.adapter}.`);
    const checkpoint = request.origin
      ? await session.fetchCheckpoint(request.origin, 'image', token, say, transferTeller())
      : request.checkpoint && (await session.openFolder(request.checkpoint));
    const language = request.languageOrigin
      ? await session.fetchCheckpoint(request.languageOrigin, 'language', token, say, transferTeller())
      : request.language === null
        ? request.languageRef
        : await session.openFolder(request.language, 'language');
    const asked = onCheckpoint(
      await withFiles(operation, await session.namedFiles(operation), dirname(request.operation)),
      checkpoint,
    );
    const teller = new Teller();
    const whole = language === null ? asked : await session.withLanguage(asked, language);
    await session.enterServers(whole, process.env, say);
    const job = await session.run(whole, teller);
    teller.end();
    if (job.state !== 'completed') {
      throw new Failure(job.error?.code ?? 'cancelled', job.error?.message ?? 'The job was cancelled.');
    }
    const run = job.run ?? '';
    const files = await Promise.all(
      job.entities.map(async (entity) => ({ ...entity, content: await session.entity(run, entity.filename) })),
    );
    const seed = job.entities.map(({ metadata }) => metadata.seed).find((value) => value !== undefined) ?? null;
    const ms = (job.finishedAt ?? 0) - (job.startedAt ?? 0);
    await deliver(files, await session.entity(run, 'metadata.json'), { seed, ms }, request.out);
  } finally {
    await session.close();
  }
}

/**
 * The operation with the given checkpoint, unless it names its own.
 * @param {unknown} operation
 * @param {string | null} checkpoint
 */
function onCheckpoint(operation, checkpoint) {
  return checkpoint === null || !isObject(operation) ? operation : { checkpoint, ...operation };
}

/**
 * Writes the run's files, then lists them.
 * @param {readonly Recorded[]} files
 * @param {Uint8Array | Blob} metadata of the run
 * @param {{ seed: unknown, ms: number | null }} whole said of files that say neither themselves
 * @param {string} out
 */
async function deliver(files, metadata, whole, out) {
  await mkdir(out, { recursive: true });
  for (const { filename, content } of [...files, { filename: 'metadata.json', content: metadata }]) {
    await writeFile(join(out, filename), content instanceof Blob ? content.stream() : content);
  }
  for (const { filename, type, sha256, metadata: said } of files) {
    const line = {
      file: resolve(out, filename),
      entity_type: type,
      sha256,
      seed: said.seed ?? whole.seed,
      ms: said.ms ?? whole.ms,
    };
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }
}

/** One line about a download: rewritten on a terminal, else repeated for each tenth. */
function transferTeller() {
  let last = '';
  return (
    /** @type {import('../src/weights/library/library_api.ts').TransferProgress} */ { done, total, secondsLeft },
  ) => {
    const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
    const step = process.stderr.isTTY ? percent : Math.floor(percent / 10) * 10;
    const left = secondsLeft === null || step === 100 ? '' : `, about ${Math.ceil(secondsLeft)} s left`;
    const line = `download ${step} % of ${(total / 1e6).toFixed(1)} MB`;
    if (line !== last) {
      last = line;
      process.stderr.write(
        process.stderr.isTTY ? `\r\x1b[K${line}${left}${step === 100 ? '\n' : ''}` : `${line}${left}\n`,
      );
    }
  };
}

/** Prints each stage once, every sampling step, each notice once, and words as they are written instead of their count. */
class Teller {
  #last = '';
  #told = 0;
  /** The step whose words were printed last, and whether those were thoughts. */
  #speaks = '';
  #isInLine = false;

  /** @param {Pick<Job, 'progress' | 'notices'>} news */
  job({ progress, notices }) {
    notices.slice(this.#told).forEach((notice) => this.#say(notice));
    this.#told = notices.length;
    const now =
      progress && (progress.steps > 0 ? `${progress.stage} ${progress.step}/${progress.steps}` : progress.stage);
    const isSpeaking = progress?.of !== null && this.#speaks.startsWith(`${progress?.of} `);
    if (now && now !== this.#last && !isSpeaking) {
      this.#last = now;
      this.#say(progress.secondsLeft === null ? now : `${now}, about ${Math.ceil(progress.secondsLeft)} s left`);
    }
  }

  /** @param {import('../src/core/job.ts').Delta} delta */
  words({ step, text, thinking }) {
    const speaks = `${step} ${thinking ? 'thinks' : 'writes'}`;
    if (speaks !== this.#speaks) {
      this.#speaks = speaks;
      this.#say(`${speaks}:`);
    }
    process.stderr.write(text);
    this.#isInLine = true;
  }

  end() {
    if (this.#isInLine) {
      process.stderr.write('\n');
      this.#isInLine = false;
    }
  }

  /** @param {string} sentence */
  #say(sentence) {
    this.end();
    say(sentence);
  }
}

/** @param {string} sentence */
function say(sentence) {
  process.stderr.write(`${sentence}\n`);
}

try {
  await generate(process.argv.slice(2));
} catch (error) {
  const failure =
    error instanceof Failure
      ? error
      : new Failure('internal', error instanceof Error ? error.message.split('\n')[0] : String(error));
  say(`${failure.code}: ${failure.message}`);
  process.exitCode = failure.exitCode;
}
