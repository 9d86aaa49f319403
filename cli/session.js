/** One visit of a headless Chromium to the built page, through its in-page door (`globalThis.darkroom`). */
import { chromium } from 'playwright';
import { NO_CHROMIUM, chromiumFlags, findChromium } from './chromium.js';
import { Failure } from './failure.js';
import { serveFolder } from './server.js';

/**
 * @typedef {import('../src/core/job.ts').Job} Job
 * @typedef {import('../src/core/job.ts').Entity} Entity
 * @typedef {import('../src/core/job.ts').DeviceReport} DeviceReport
 */

export class Session {
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
   * @returns {Promise<Session>}
   */
  static async open(folder, backend) {
    const executablePath = findChromium();
    if (!executablePath) {
      throw new Failure('no_chromium', NO_CHROMIUM);
    }
    const server = await serveFolder(folder);
    const browser = await chromium.launch({ executablePath, args: chromiumFlags() }).catch(async (error) => {
      await server.close();
      throw new Failure('no_chromium', `${executablePath} did not start (${firstLine(error)}).`);
    });
    const close = async () => {
      await browser.close();
      await server.close();
    };
    try {
      const page = await browser.newPage();
      await page.goto(`${server.url}/?door=cli&backend=${backend}`);
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
   * Opens a checkpoint folder; its files are read in place.
   * @param {string} folder
   * @returns {Promise<string>} the checkpoint's reference
   */
  async openFolder(folder) {
    await this.page.getByTestId('checkpoint-folder').setInputFiles(folder);
    return this.#ask(async (door) => {
      const input = /** @type {HTMLInputElement} */ (document.querySelector('[data-testid="checkpoint-folder"]'));
      return (await door.openFolder(input.files ?? [])).ref;
    }, null);
  }

  /**
   * Submits an operation and waits for its end.
   * @param {unknown} operation
   * @param {(job: Job) => void} onChange
   * @returns {Promise<Job>}
   */
  async run(operation, onChange) {
    await this.page.exposeFunction('darkroomJobChanged', onChange);
    return this.#ask((door, given) => {
      const { id } = door.submit(given);
      door.follow(id, (job) => {
        // Only what is told on the way; the operation may hold whole pictures.
        const { progress, notices } = job;
        /** @type {{ darkroomJobChanged?: (news: object) => void }} */ (globalThis).darkroomJobChanged?.({
          progress,
          notices,
        });
      });
      return door.wait(id);
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

/** @param {unknown} error */
function firstLine(error) {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0];
}
