/** A Darkroom in Node on WebGPU: the part of the package for pages, in a headless Chromium that Playwright drives. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Browser, JSHandle, Page } from 'playwright';
import { StudioError, describe } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type {
  CheckpointOrigin,
  Checkpoints,
  Darkroom,
  DarkroomJob,
  DarkroomOptions,
  Device,
  Operation,
  Progress,
  Result,
  ResultFile,
  RunOptions,
} from './contract.ts';
import type { Opened } from './lazy_darkroom.ts';
import { pathsAt, writtenFiles, type FileOfFolder } from './node_files.ts';

/** What the page holds. */
interface Held {
  darkroom: Darkroom;
  jobs: Map<string, DarkroomJob>;
}

type Question = 'device' | 'run' | 'cancel' | 'prepare' | 'unload' | 'list' | 'look' | 'fetch' | 'remove';

interface Asked {
  question: Question;
  /** Of a job. */
  id?: string;
  given?: unknown;
}

/** A result as it leaves the page: its files as data URLs. */
type PackedFile = Omit<ResultFile, 'blob'> & { data: string };
interface PackedResult {
  files: PackedFile[];
  metadata: string;
  seed: string | null;
  notices: string[];
}

type Told = { progress: Progress } | { notice: string };

/** @throws StudioError `invalid_operation` for what it does not do, `checkpoint_incomplete`, `worker_failed` without Playwright or a Chromium */
export async function openInChromium({ threads, checkpoints, servers = [] }: DarkroomOptions): Promise<Opened> {
  if (servers.length > 0) {
    throw new StudioError(
      'invalid_operation',
      'With WebGPU in Node nothing is made on other machines; leave "servers" out, or "backend".',
    );
  }
  const folder = await mkdtemp(join(tmpdir(), 'darkroom-'));
  let close = () => rm(folder, { recursive: true, force: true });
  try {
    const named = await Promise.all(
      Object.entries(checkpoints ?? {}).map(async ([name, where], at) => {
        return [name, await placeOf(where, join(folder, String(at)))] as const;
      }),
    );
    const opened = await openPage();
    const removed = close;
    close = () => opened.close().then(removed);
    const instance = new ChromiumInstance(opened.page, close);
    await instance.begin(named, threads);
    return instance;
  } catch (error) {
    await close();
    throw error;
  }
}

/** Files of the disk, or an address. */
type Place = string | FileOfFolder[];

/** @param folder for files that are in memory, which do not reach the browser as such */
async function placeOf(where: NonNullable<DarkroomOptions['checkpoints']>[string], folder: string): Promise<Place> {
  if (typeof where === 'string' || where instanceof URL) {
    return (await pathsAt(where)) ?? String(where);
  }
  return writtenFiles(folder, where);
}

/** An empty page that the package's folder is served to. */
async function openPage(): Promise<{ page: Page; close: () => Promise<void> }> {
  const { chromium } = await import('playwright').catch((cause: unknown) => {
    throw new StudioError(
      'worker_failed',
      'WebGPU in Node needs the package playwright, which drives a Chromium, and it could not be loaded; install it with "npm install playwright", or leave "backend" out and the processor computes.',
      { cause },
    );
  });
  const { chromiumFlags, provideChromium } = await import('../../cli/chromium.js');
  const { serveFolder } = await import('../../cli/server.js');
  const executablePath = await provideChromium().catch((cause: unknown) => {
    throw new StudioError('worker_failed', describe(cause), { cause });
  });
  const server = await serveFolder(fileURLToPath(new URL('.', import.meta.url)));
  let browser: Browser | null = null;
  const close = async () => {
    await browser?.close();
    await server.close();
  };
  try {
    browser = await chromium.launch({ executablePath, args: chromiumFlags() });
    const page = await browser.newPage();
    page.setDefaultTimeout(0);
    await page.goto(`${server.url}/darkroom.json`);
    return { page, close };
  } catch (cause) {
    await close();
    throw new StudioError(
      'worker_failed',
      `${executablePath} did not start (${describe(cause).split('\n')[0]}); name another Chromium in DARKROOM_CHROMIUM.`,
      { cause },
    );
  }
}

class ChromiumInstance implements Opened {
  readonly #page: Page;
  readonly #close: () => Promise<void>;
  readonly #listeners = new Map<string, (told: Told) => void>();
  #held: JSHandle<Held> | null = null;
  #jobs = 0;

  constructor(page: Page, close: () => Promise<void>) {
    this.#page = page;
    this.#close = close;
  }

  async begin(named: readonly (readonly [string, Place])[], threads: number | undefined): Promise<void> {
    await this.#page.exposeFunction('darkroomTold', (id: string, told: Told) => this.#listeners.get(id)?.(told));
    const places: Record<string, { address: string } | { input: string; paths: string[] }> = {};
    for (const [at, [name, place]] of named.entries()) {
      if (typeof place === 'string') {
        places[name] = { address: place };
        continue;
      }
      const id = `checkpoint-${at}`;
      const input = await this.#page.evaluateHandle((given) => {
        const made = Object.assign(document.createElement('input'), { type: 'file', multiple: true, id: given });
        return document.documentElement.appendChild(made);
      }, id);
      // Read in place, range by range.
      await input.setInputFiles(place.map(({ file }) => file));
      places[name] = { input: id, paths: place.map(({ path }) => path) };
    }
    this.#held = await this.#page.evaluateHandle(
      async ({ given, count }) => {
        const { createDarkroom } = (await import(`${location.origin}/darkroom.js`)) as {
          createDarkroom: (options: DarkroomOptions) => Darkroom;
        };
        const checkpoints = Object.entries(given).map(([name, place]) => {
          if ('address' in place) {
            return [name, place.address] as const;
          }
          const { files } = document.getElementById(place.input) as HTMLInputElement;
          return [name, [...(files ?? [])].map((file, at) => ({ path: place.paths[at], file }))] as const;
        });
        const darkroom = createDarkroom({
          backend: 'webgpu',
          checkpoints: Object.fromEntries(checkpoints) as NonNullable<DarkroomOptions['checkpoints']>,
          ...(count === null ? {} : { threads: count }),
        });
        return { darkroom, jobs: new Map<string, DarkroomJob>() };
      },
      { given: places, count: threads ?? null },
    );
  }

  device(): Promise<Device> {
    return this.#ask({ question: 'device' }) as Promise<Device>;
  }

  async run(
    operation: Operation,
    { signal, onProgress, onNotice }: RunOptions & { signal: AbortSignal },
  ): Promise<Result> {
    const id = `job-${this.#jobs++}`;
    const stop = () => void this.#ask({ question: 'cancel', id }).catch(() => undefined);
    this.#listeners.set(id, (told) => {
      if ('progress' in told) {
        onProgress?.(told.progress);
      } else {
        onNotice?.(told.notice);
      }
    });
    signal.addEventListener('abort', stop);
    try {
      const made = (await this.#ask({ question: 'run', id, given: await withoutBlobs(operation) })) as PackedResult;
      const files = made.files.map(({ data, ...file }): ResultFile => ({ ...file, blob: blobOf(data) }));
      return {
        files,
        pictures: files.filter(({ type }) => type === 'output_image').map(({ blob }) => blob),
        metadata: blobOf(made.metadata),
        seed: made.seed,
        notices: made.notices,
        run: null,
      };
    } finally {
      signal.removeEventListener('abort', stop);
      this.#listeners.delete(id);
    }
  }

  async prepare(operation: Operation): Promise<void> {
    await this.#ask({ question: 'prepare', given: await withoutBlobs(operation) });
  }

  async unload(): Promise<void> {
    await this.#ask({ question: 'unload' });
  }

  readonly checkpoints: Checkpoints = {
    list: () => this.#ask({ question: 'list' }) as ReturnType<Checkpoints['list']>,
    look: (given) => this.#ask({ question: 'look', given }) as ReturnType<Checkpoints['look']>,
    fetch: (given) => this.#ask({ question: 'fetch', given }) as ReturnType<Checkpoints['fetch']>,
    remove: async (given) => {
      await this.#ask({ question: 'remove', given });
    },
  };

  end(): Promise<void> {
    return this.#close();
  }

  async #ask(asked: Asked): Promise<unknown> {
    const { answer, error } = await this.#page
      .evaluate(answerInPage, { held: this.#held, asked })
      .catch((cause: unknown) => {
        throw new StudioError('worker_failed', 'The Chromium that computes has ended; create another Darkroom.', {
          cause,
        });
      });
    if (error) {
      throw StudioError.fromData(error);
    }
    return answer;
  }
}

/** Runs in the page, so it uses nothing around it. */
async function answerInPage({
  held,
  asked: { question, id = '', given },
}: {
  held: Held | null;
  asked: Asked;
}): Promise<{ answer?: unknown; error?: StudioErrorData }> {
  const { darkroom, jobs } = held as Held;
  const packed = (blob: Blob) =>
    new Promise<string>((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result as string);
      reader.onerror = () => failed(new Error('A file of the result could not be read.'));
      reader.readAsDataURL(blob);
    });
  const run = async (): Promise<PackedResult> => {
    const { darkroomTold: tell } = globalThis as unknown as { darkroomTold: (id: string, told: object) => void };
    const job = darkroom.run(given as Operation, {
      onProgress: (progress) => tell(id, { progress }),
      onNotice: (notice) => tell(id, { notice }),
    });
    jobs.set(id, job);
    try {
      const { files, metadata, seed, notices } = await job.result;
      const all = files.map(async ({ blob, ...file }) => ({ ...file, data: await packed(blob) }));
      return { files: await Promise.all(all), metadata: await packed(metadata), seed, notices };
    } finally {
      jobs.delete(id);
    }
  };
  const questions: Record<Question, () => unknown> = {
    device: () => darkroom.device(),
    run,
    cancel: () => jobs.get(id)?.cancel(),
    prepare: () => darkroom.prepare(given as Operation),
    unload: () => darkroom.unload(),
    list: () => darkroom.checkpoints.list(),
    look: () => darkroom.checkpoints.look(given as CheckpointOrigin),
    fetch: () => darkroom.checkpoints.fetch(given as CheckpointOrigin),
    remove: () => darkroom.checkpoints.remove(given as string),
  };
  try {
    return { answer: await questions[question]() };
  } catch (thrown) {
    const { code, message, retry } = thrown as StudioErrorData;
    return { error: { code: code ?? 'internal', message: message ?? String(thrown), retry: retry ?? 'never' } };
  }
}

/** With data URLs for Blobs, which do not reach the browser. */
async function withoutBlobs(operation: Operation): Promise<Operation> {
  const plain = async (value: unknown): Promise<unknown> => {
    if (value instanceof Blob) {
      return `data:${value.type};base64,${Buffer.from(await value.arrayBuffer()).toString('base64')}`;
    }
    return Array.isArray(value) ? Promise.all(value.map(plain)) : value;
  };
  const parameters = Object.entries(operation.parameters).map(async ([name, value]) => [name, await plain(value)]);
  return { ...operation, parameters: Object.fromEntries(await Promise.all(parameters)) as Operation['parameters'] };
}

function blobOf(data: string): Blob {
  const [head, content] = [data.slice(0, data.indexOf(',')), data.slice(data.indexOf(',') + 1)];
  return new Blob([Buffer.from(content, 'base64')], { type: /^data:([^;]*)/.exec(head)?.[1] ?? '' });
}
