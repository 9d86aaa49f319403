/** One visit of a headless Chromium to the built page, through its in-page door (`globalThis.darkroom`). */
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import { chromium } from 'playwright';
import { isWeightFile } from './arguments.js';
import { filesOfFolder } from './checkpoint_folder.js';
import { chromiumFlags, provideChromium } from './chromium.js';
import { Failure } from './failure.js';
import { serveFolder } from './server.js';

/**
 * @typedef {import('../src/core/job.ts').Job} Job
 * @typedef {import('../src/core/job.ts').Entity} Entity
 * @typedef {import('../src/core/job.ts').DeviceReport} DeviceReport
 */

export class Session {
  /** Whether the page can say already what it fetches. */
  #isHeard = false;

  /**
   * @param {import('playwright').Page} page
   * @param {() => Promise<void>} close
   */
  constructor(page, close) {
    this.page = page;
    this.close = close;
  }

  /**
   * @param {string} folder the built page
   * @param {'auto' | 'webgpu' | 'wasm'} backend
   * @param {string | null} profile folder in which the browser keeps what it stores, or null for nothing
   * @returns {Promise<Session>}
   */
  static async open(folder, backend, profile = null) {
    const executablePath = await provideChromium();
    const server = await serve(folder, profile);
    const launch = { executablePath, args: chromiumFlags() };
    // Whoever fetches into a profile must be the only one there; the port is taken first, so that is sure by now.
    const browser = await (
      profile === null ? chromium.launch(launch) : chromium.launchPersistentContext(profile, launch)
    ).catch(async (error) => {
      await server.close();
      throw new Failure('no_chromium', `${executablePath} did not start (${firstLine(error)}).`);
    });
    const close = async () => {
      await browser.close();
      await server.close();
    };
    // Nobody types beside it.
    const threads = Math.min(availableParallelism(), MOST_THREADS);
    try {
      const page = await browser.newPage();
      await page.goto(`${server.url}/?door=cli&backend=${backend}&threads=${threads}`);
      await page.waitForFunction(() => globalThis.darkroom !== undefined);
      return new Session(page, close);
    } catch (error) {
      await close();
      throw new Failure('internal', `The built page did not open (${firstLine(error)}); run "npm run build" again.`);
    }
  }

  /** @returns {Promise<DeviceReport>} */
  device() {
    return this.#ask((door) => door.device(), null);
  }

  /**
   * @param {import('../src/jobs/engine_questions.ts').EngineQuestion} question
   * @param {object} asked
   * @returns {Promise<unknown>}
   */
  askEngine(question, asked) {
    return this.#ask((door, given) => door.askEngine(given.question, given.asked), { question, asked });
  }

  /**
   * @param {string} ref of a checkpoint that is being fetched
   * @param {(done: number, total: number) => void} onProgress
   * @returns {Promise<unknown>} what is stored of it, once it is complete
   */
  async untilFetched(ref, onProgress) {
    for (let told = -1; ;) {
      const { checkpoints } = /** @type {{ checkpoints: import('../src/jobs/engine_desk.ts').CheckpointReport[] }} */ (
        await this.askEngine('checkpoints', {})
      );
      const found = checkpoints.find((one) => one.ref === ref);
      if (found?.state === 'complete') {
        return found;
      }
      if (found && found.state !== 'downloading' && found.error !== null) {
        throw new Failure('origin_unavailable', found.error);
      }
      const tenth = Math.floor((10 * (found?.storedBytes ?? 0)) / (found?.bytes || 1));
      if (tenth > told) {
        told = tenth;
        onProgress(found?.storedBytes ?? 0, found?.bytes ?? 1);
      }
      await new Promise((over) => setTimeout(over, 500));
    }
  }

  /**
   * Opens a checkpoint's folder, or its one file; both are read in place.
   * @param {string} path
   * @param {'image' | 'language'} kind of a folder
   * @returns {Promise<string>} the checkpoint's reference
   */
  async openFolder(path, kind = 'image') {
    const files = isWeightFile(path) ? [{ path: basename(path), file: path }] : await filesOfFolder(path);
    // Given one by one: of a folder Chromium leaves out what is a link.
    const input = await this.page.evaluateHandle(() => {
      const made = Object.assign(document.createElement('input'), { type: 'file', multiple: true, id: 'given-files' });
      made.hidden = true;
      return document.body.appendChild(made);
    });
    await input.setInputFiles(files.map(({ file }) => file));
    return this.#ask(
      async (door, { paths, isLanguage }) => {
        const given = /** @type {HTMLInputElement} */ (document.getElementById('given-files'));
        const named = [...(given.files ?? [])].map((file, i) =>
          Object.defineProperty(file, 'webkitRelativePath', { value: paths[i].includes('/') ? paths[i] : '' }),
        );
        given.remove();
        const summary = isLanguage
          ? await door.language.openFolder(named.map((file, i) => ({ path: paths[i], file })))
          : await door.openFolder(named);
        return summary.ref;
      },
      { paths: files.map((file) => file.path), isLanguage: kind === 'language' },
    );
  }

  /**
   * Fetches a checkpoint into the library unless it is there, and goes on with one that was begun.
   * @param {import('../src/weights/library/library_api.ts').Origin} origin
   * @param {'image' | 'language'} kind of what is there
   * @param {string | null} token
   * @param {(sentence: string) => void} say
   * @param {(progress: import('../src/weights/library/library_api.ts').TransferProgress) => void} onProgress
   * @returns {Promise<string>} the checkpoint's reference
   */
  async fetchCheckpoint(origin, kind, token, say, onProgress) {
    if (!this.#isHeard) {
      this.#isHeard = true;
      await this.page.exposeFunction('darkroomSays', say);
      await this.page.exposeFunction('darkroomTransfers', onProgress);
    }
    return this.#ask(
      async (door, given) => {
        const page =
          /** @type {{ darkroomSays: (sentence: string) => Promise<void>, darkroomTransfers: (progress: object) => void }} */ (
            /** @type {unknown} */ (globalThis)
          );
        const stored = (await door.library.list()).filter(
          (one) =>
            one.state === 'complete' &&
            one.origin.kind === given.origin.kind &&
            (one.origin.kind === 'hub' && given.origin.kind === 'hub'
              ? one.origin.repo === given.origin.repo &&
                [null, one.revision, one.origin.revision].includes(given.origin.revision)
              : one.origin.kind === 'url' &&
                given.origin.kind === 'url' &&
                one.origin.url.startsWith(given.origin.url)),
        );
        /** @type {import('../src/weights/library/library_api.ts').Listing} */
        let listing;
        try {
          listing = await door.library.look(given.origin, given.token);
        } catch (error) {
          // What is here runs without a network.
          if (stored.length === 0 || /** @type {{ code?: string }} */ (error).code !== 'origin_unavailable') {
            throw error;
          }
          await page.darkroomSays(`${/** @type {Error} */ (error).message} The stored ${stored[0].ref} is used.`);
          return stored[0].ref;
        }
        const same = stored.find((one) => one.ref === listing.ref);
        if (same) {
          return same.ref;
        }
        const { license } = listing;
        if (license.mustAccept) {
          await page.darkroomSays(
            `The licence of ${listing.name} is ${license.id ?? 'not stated'}${license.link ? ` (${license.link})` : ''}; whoever uses it accepts it.`,
          );
          await door.library.acceptLicense(listing.ref);
        }
        /** @type {string[]} */
        let paths;
        if (given.kind === 'language') {
          const source = /** @type {const} */ ({ kind: 'remote', listing, token: given.token });
          const { precisions, recommended, name } = await door.language.look(source);
          const chosen = precisions.find(({ precision }) => precision === recommended);
          if (!chosen) {
            throw Object.assign(new Error(precisions[0]?.misfit ?? `"${name}" lacks some of its networks.`), {
              code: 'checkpoint_unsupported',
            });
          }
          paths = chosen.files;
        } else {
          paths = (await door.describe(listing, given.token)).needs;
        }
        const { ref } = await door.library.download(
          { listing, paths, variant: 'full', token: given.token },
          (progress) => page.darkroomTransfers(progress),
        );
        return ref;
      },
      { origin, kind, token },
    );
  }

  /**
   * The operation with this language model for each of its steps that needs one and names none.
   * @param {unknown} operation
   * @param {string} ref
   * @returns {Promise<unknown>}
   */
  withLanguage(operation, ref) {
    return this.#ask(
      (door, { asked, model }) => {
        /** @type {Record<string, string>} */
        const chosen = {};
        for (const { id } of door.languageSteps(asked)) {
          chosen[id] = model;
        }
        const { checkpoints, ...others } = /** @type {{ checkpoints?: object }} */ (asked);
        return { ...others, checkpoints: { ...chosen, ...checkpoints } };
      },
      { asked: operation, model: ref },
    );
  }

  /**
   * Submits an operation and waits for its end.
   * @param {unknown} operation
   * @param {{ job: (job: Job) => void, words: (delta: import('../src/core/job.ts').Delta) => void }} teller
   * @returns {Promise<Job>}
   */
  async run(operation, teller) {
    await this.page.exposeFunction('darkroomJobChanged', (/** @type {Job} */ job) => teller.job(job));
    await this.page.exposeFunction('darkroomWords', (/** @type {import('../src/core/job.ts').Delta} */ delta) =>
      teller.words(delta),
    );
    return this.#ask(async (door, given) => {
      // What an earlier command that was killed left in this profile is nobody's any more.
      await door.cancelAll();
      const { id } = await door.submit(given);
      door.deltas(id, (delta) =>
        /** @type {{ darkroomWords?: (news: object) => void }} */ (globalThis).darkroomWords?.(delta),
      );
      /** @type {Promise<never>} */
      const held = new Promise((_, reject) => {
        door.follow(id, (job) => {
          // Only what is told on the way; the operation may hold whole pictures.
          const { progress, notices, obstacle } = job;
          /** @type {{ darkroomJobChanged?: (news: object) => void }} */ (globalThis).darkroomJobChanged?.({
            progress,
            notices,
          });
          if (obstacle !== null) {
            // Nobody is there to do something about it.
            reject(Object.assign(new Error(obstacle), { code: 'checkpoint_incomplete' }));
          }
        });
      });
      return Promise.race([door.wait(id), held]);
    }, operation);
  }

  /**
   * @param {string} run
   * @param {string} filename
   * @returns {Promise<Buffer>}
   */
  async entity(run, filename) {
    const url = await this.#ask(
      async (door, given) => {
        const blob = await door.entity(given.run, given.filename);
        /** @type {string} */
        const answer = await new Promise((resolve, reject) => {
          const reader = new FileReader();
          reader.onload = () => resolve(/** @type {string} */ (reader.result));
          reader.onerror = () => reject(new Error('A recorded file could not be read.'));
          reader.readAsDataURL(blob);
        });
        return answer;
      },
      { run, filename },
    );
    return Buffer.from(url.slice(url.indexOf(',') + 1), 'base64');
  }

  /**
   * Runs `question` in the page; errors come back with their codes, which Playwright alone would drop.
   * @template Given, Answer
   * @param {(door: import('../src/jobs/door.ts').Door, given: Given) => Answer | Promise<Answer>} question must not use
   *   anything around it
   * @param {Given} given
   * @returns {Promise<Answer>}
   */
  async #ask(question, given) {
    /** @type {{ answer: Answer, error?: { code: string, message: string } }} */
    const { answer, error } = await this.page.evaluate(`(async () => {
      try {
        return { answer: await (${String(question)})(globalThis.darkroom, ${JSON.stringify(given)}) };
      } catch (thrown) {
        return { error: { code: thrown.code ?? 'internal', message: String(thrown.message ?? thrown) } };
      }
    })()`);
    if (error) {
      throw new Failure(error.code, error.message);
    }
    return answer;
  }
}

/** More than these the engine does not take (src/engine/threads.ts). */
const MOST_THREADS = 16;

/** What a browser stores belongs to the address of the page, port included. */
const PORT = 41_837;

/**
 * @param {string} folder
 * @param {string | null} profile
 */
async function serve(folder, profile) {
  if (profile === null) {
    return serveFolder(folder);
  }
  return serveFolder(folder, PORT).catch(() => {
    throw new Failure(
      'storage_unavailable',
      `Another run that fetches a checkpoint is under way (port ${PORT} is in use); wait for its end.`,
    );
  });
}

/** @param {unknown} error */
function firstLine(error) {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0];
}
