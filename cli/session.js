/** One visit of a headless Chromium to the built page, through its in-page door (`globalThis.darkroom`). */
import { availableParallelism } from 'node:os';
import { basename } from 'node:path';
import { chromium } from 'playwright';
import { isWeightFile, withModel } from './arguments.js';
import { filesOfFolder } from './checkpoint_folder.js';
import { chromiumFlags, provideChromium } from './chromium.js';
import { Failure } from './failure.js';
import { serveFolder } from './server.js';
import { ServerProxy } from './server_proxy.js';
import { checkServers, serversIn } from './servers.js';

/**
 * @typedef {import('../src/core/job.ts').Job} Job
 * @typedef {import('../src/core/job.ts').Entity} Entity
 * @typedef {import('../src/core/job.ts').DeviceReport} DeviceReport
 */

export class Session {
  /** Whether the page can already report what it fetches. */
  #isHeard = false;

  /** @type {ServerProxy} */
  #proxy;

  /**
   * @param {import('playwright').Page} page
   * @param {ServerProxy} proxy of the page's own origin
   * @param {() => Promise<void>} close
   */
  constructor(page, proxy, close) {
    this.page = page;
    this.#proxy = proxy;
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
    const proxy = new ServerProxy();
    const server = await serve(folder, profile, proxy);
    const launch = { executablePath, args: chromiumFlags() };
    // Only one process may fetch into a profile; having the port ensures that.
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
    // Nobody is typing beside it.
    const threads = Math.min(availableParallelism(), MOST_THREADS);
    try {
      const page = await browser.newPage();
      await page.goto(`${server.url}/?door=cli&backend=${backend}&threads=${threads}`);
      await page.waitForFunction(() => globalThis.darkroom !== undefined);
      return new Session(page, proxy, close);
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
   * @param {string} ref of a checkpoint, or of what is used beside one, that is being fetched
   * @param {(done: number, total: number) => void} onProgress
   * @returns {Promise<unknown>} what is stored of it, once it is complete
   */
  async untilFetched(ref, onProgress) {
    for (let told = -1; ;) {
      const { checkpoints, additions } =
        /** @type {Record<'checkpoints' | 'additions', Omit<import('../src/jobs/engine_desk.ts').CheckpointReport, 'kind' | 'variant'>[]>} */ (
          await this.askEngine('checkpoints', {})
        );
      const found = [...checkpoints, ...additions].find((one) => one.ref === ref);
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
    // Passed one by one, since Chromium skips links in a folder.
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
   * Fetches a checkpoint into the library unless it is there, resuming an earlier attempt.
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
          // A stored checkpoint runs offline.
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
   * Enters the servers that the environment names, if the operation needs any. Their keys stay here.
   * @param {unknown} operation
   * @param {Record<string, string | undefined>} environment
   * @param {(sentence: string) => void} say
   */
  async enterServers(operation, environment, say) {
    const { engines: needed } = await this.#ask((door, asked) => door.requirements(asked), operation);
    if (needed.length > 0) {
      const { engines, servers } = await this.#serversIn(environment);
      checkServers(
        engines.filter(({ id }) => needed.includes(id)),
        servers,
        say,
      );
      await this.#enter(servers.filter(({ engine }) => needed.includes(engine)));
    }
  }

  /**
   * What the servers are that the environment names.
   * @param {Record<string, string | undefined>} environment
   * @returns {Promise<object[]>}
   */
  async probeServers(environment) {
    const { servers } = await this.#serversIn(environment);
    const entered = await this.#enter(servers);
    return this.#ask(async (door, given) => {
      const remote = await door.remote();
      return Promise.all(
        given.map(async ({ server, standIn }) => {
          const { isUp, sentence, models } = await remote.probe(server, standIn);
          return { engine: server.engine, address: server.address, is_up: isUp, sentence, models: models ?? [] };
        }),
      );
    }, entered);
  }

  /** @param {Record<string, string | undefined>} environment */
  async #serversIn(environment) {
    const engines = await this.#ask(async (door) => (await door.remote()).engines(), null);
    const servers = await serversIn(engines, environment, (typed) =>
      this.#ask(async (door, address) => (await door.remote()).readAddress(address), typed),
    );
    return { engines, servers };
  }

  /** @param {import('./servers.js').NamedServer[]} servers */
  async #enter(servers) {
    const { origin } = new URL(this.page.url());
    const entered = servers.map(({ key, ...named }, at) => {
      const { path, standIn } = this.#proxy.add(named.address, key);
      const server = { ...named, id: `environment-${at}`, hasKey: key !== null, through: `${origin}${path}` };
      return { server, standIn };
    });
    await this.#ask(async (door, given) => {
      given.forEach(({ server, standIn }) => door.setSecret(`server:${server.id}`, standIn));
      await (await door.remote()).enter(given.map(({ server }) => server));
    }, entered);
    return entered;
  }

  /**
   * @param {unknown} operation
   * @returns {Promise<import('../src/core/named_files.ts').NamedFile[]>} where it names files
   */
  namedFiles(operation) {
    return this.#ask((door, asked) => door.namedFiles(asked), operation);
  }

  /**
   * The operation with this language model for each of its steps that needs one and names none.
   * @param {unknown} operation
   * @param {string} ref
   * @returns {Promise<unknown>}
   */
  async withLanguage(operation, ref) {
    const steps = await this.#ask(
      (door, asked) => door.requirements(asked).languageSteps.map(({ id }) => id),
      operation,
    );
    return withModel(operation, steps, ref);
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
      // Anything an earlier, killed command left in this profile is abandoned.
      await door.cancelAll();
      const { id } = await door.submit(given);
      door.deltas(id, (delta) =>
        /** @type {{ darkroomWords?: (news: object) => void }} */ (globalThis).darkroomWords?.(delta),
      );
      /** @type {Promise<never>} */
      const held = new Promise((_, reject) => {
        door.follow(id, (job) => {
          // Only the progress, since the operation may contain whole pictures.
          const { progress, notices, obstacle } = job;
          /** @type {{ darkroomJobChanged?: (news: object) => void }} */ (globalThis).darkroomJobChanged?.({
            progress,
            notices,
          });
          if (obstacle !== null) {
            // Nobody is there to act on it.
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
   * Runs `question` in the page; errors keep their codes, which Playwright would drop.
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

/** The engine takes no more (src/engine/threads.ts). */
const MOST_THREADS = 16;

/** A browser's storage belongs to the page's origin, including the port. */
const PORT = 41_837;

/**
 * @param {string} folder
 * @param {string | null} profile
 * @param {ServerProxy} proxy
 */
async function serve(folder, profile, proxy) {
  if (profile === null) {
    return serveFolder(folder, 0, proxy);
  }
  return serveFolder(folder, PORT, proxy).catch(() => {
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
