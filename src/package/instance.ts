/** One Darkroom of a program: a client with a queue of its own, over workers of its own. Two of them share nothing but what the origin stores. */
import { DEFAULT_CHECKPOINT, defaultCheckpoint } from '../core/builtin_checkpoints.ts';
import { StudioError, cancelled } from '../core/errors.ts';
import type { Job } from '../core/job.ts';
import { parseOperation, type Operation as ParsedOperation } from '../core/operation.ts';
import { JobClient } from '../jobs/client.ts';
import { answerEngine } from '../jobs/engine_desk.ts';
import type { CheckpointReport } from '../jobs/engine_desk.ts';
import { folderSource } from '../jobs/folder_source.ts';
import { MemoryJobStore } from '../jobs/job_store.ts';
import { LibraryClient } from '../jobs/library.ts';
import { needsOf } from '../jobs/needs.ts';
import { METADATA } from '../jobs/recordings.ts';
import { Sources } from '../jobs/sources.ts';
import { StoredJobs } from '../jobs/stored_jobs.ts';
import { Turn } from '../jobs/turn.ts';
import type { WorkerLike } from '../jobs/worker_link.ts';
import { WorkerPair } from '../jobs/worker_pair.ts';
import type { WorkerMaker } from '../jobs/worker_pair.ts';
import { catalogue } from '../pipelines/catalogue.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';
import type { StartOptions } from '../../workers/generation_api.ts';
import type {
  CheckpointFile,
  Checkpoints,
  DarkroomOptions,
  Device,
  Operation,
  Result,
  RunOptions,
} from './contract.ts';
import type { Opened } from './lazy_darkroom.ts';

export interface Surroundings {
  workers: WorkerMaker;
  library: () => WorkerLike;
  start: StartOptions;
  /** The folder of the checkpoints that come along, an address that ends in a slash. */
  builtin: string;
  /** Whether the recorder keeps runs for later visits. */
  keepsRuns: boolean;
  /** Keys of servers on other machines, by the names that jobs ask for them. */
  secrets?: Readonly<Record<string, string>>;
}

export class Instance implements Opened {
  readonly #client: JobClient;
  readonly #workers: WorkerPair;
  readonly #library: LibraryClient;
  readonly #jobs: StoredJobs;
  readonly #keepsRuns: boolean;
  /** The checkpoints that were named, in order. */
  readonly #named: string[];
  #isOver = false;

  constructor(
    { workers, library, start, builtin, keepsRuns, secrets = {} }: Surroundings,
    named: DarkroomOptions['checkpoints'],
  ) {
    // What a job that ends still says to the recorder must not begin a new one.
    const living =
      <Made>(make: () => Made) =>
      (): Made => {
        if (this.#isOver) {
          throw cancelled();
        }
        return make();
      };
    this.#workers = new WorkerPair({
      generation: living(() => workers.generation()),
      task: living(() => workers.task()),
      recorder: living(() => workers.recorder()),
      language: living(() => workers.language()),
      remote: (connect) => workers.remote(connect),
    });
    this.#library = new LibraryClient(living(library));
    this.#keepsRuns = keepsRuns;
    const entity = (run: string, filename: string) => this.#workers.recorder.call('readEntity', run, filename);
    this.#jobs = new StoredJobs({ catalogue, entity, store: new MemoryJobStore(), channel: null, locks: null });
    const sources = new Sources(null, builtin);
    this.#client = new JobClient(this.#workers, this.#library, {
      jobs: this.#jobs,
      turn: new Turn(null),
      sources,
      witness: null,
    });
    this.#named = Object.keys(named ?? {});
    for (const [name, where] of Object.entries(named ?? {})) {
      sources.add(refOf(name), sourceOf(name, where));
    }
    Object.entries(secrets).forEach(([name, value]) => this.#client.setSecret(name, value));
    void this.#client.start(start).catch(() => undefined); // Whoever asks for the device is told.
  }

  device(): Promise<Device> {
    return this.#client.device;
  }

  async run(
    asked: Operation,
    { signal, onProgress, onNotice, preview }: RunOptions & { signal: AbortSignal },
  ): Promise<Result> {
    const operation = this.#onNamed(parseOperation(asked));
    const canvas = preview && offscreen(preview);
    // What cannot start at all is said before anything is queued.
    await this.#client.device;
    if (signal.aborted) {
      throw cancelled();
    }
    const { id } = await this.#client.submit(operation);
    const stop = () => void this.#client.cancel(id).catch(() => undefined);
    signal.addEventListener('abort', stop);
    let told = 0;
    let shown = false;
    const forget = this.#client.follow(id, ({ state, progress, notices }) => {
      if (state === 'running' && canvas && !shown) {
        shown = true;
        // Without a preview the picture is made all the same.
        void this.#client.watch(canvas).catch(() => undefined);
      }
      if (progress && state === 'running') {
        onProgress?.(progress);
      }
      notices.slice(told).forEach((sentence) => onNotice?.(sentence));
      told = notices.length;
    });
    try {
      if (signal.aborted) {
        stop();
      }
      return await this.#resultOf(await this.#client.wait(id));
    } finally {
      signal.removeEventListener('abort', stop);
      forget();
      await this.#forget(id);
    }
  }

  async prepare(operation: Operation): Promise<void> {
    await this.#client.prepare(this.#onNamed(parseOperation(operation)));
  }

  unload(): Promise<void> {
    return this.#client.unload();
  }

  readonly checkpoints: Checkpoints = {
    list: async () => {
      const { checkpoints } = (await this.#ask('checkpoints', {})) as { checkpoints: CheckpointReport[] };
      return checkpoints;
    },
    look: (origin) => this.#ask('look', origin) as ReturnType<Checkpoints['look']>,
    fetch: (origin) => this.#ask('fetch', origin) as ReturnType<Checkpoints['fetch']>,
    remove: async (ref) => {
      await this.#ask('remove', { ref });
    },
  };

  async end(): Promise<void> {
    await this.#client.cancelAll().catch(() => undefined);
    this.#isOver = true;
    this.#jobs.close();
    this.#workers.end();
    this.#library.end();
  }

  #ask(question: 'checkpoints' | 'look' | 'fetch' | 'remove', asked: object): Promise<unknown> {
    return answerEngine(this.#client, question, asked);
  }

  /** With the names of checkpoints as refs; what names none runs on the first that was named, if that is of its kind. */
  #onNamed(asked: ParsedOperation): ParsedOperation {
    const [first] = this.#named;
    const named = (ref: string) => (this.#named.includes(ref) ? refOf(ref) : ref);
    const { checkpoint, checkpoints } = asked;
    const steps = checkpoints && Object.entries(checkpoints).map(([step, ref]) => [step, named(ref)] as const);
    const operation: ParsedOperation = {
      ...asked,
      ...(checkpoint ? { checkpoint: named(checkpoint) } : {}),
      ...(steps ? { checkpoints: Object.fromEntries(steps) } : {}),
    };
    const { lacking } = needsOf(operation);
    const paints = lacking !== null && defaultCheckpoint(lacking) === DEFAULT_CHECKPOINT;
    return first !== undefined && paints ? { ...operation, checkpoint: refOf(first) } : operation;
  }

  async #resultOf({ state, error, run, entities, notices }: Job): Promise<Result> {
    if (state !== 'completed' || run === null) {
      throw error ? StudioError.fromData(error) : cancelled();
    }
    const files = await Promise.all(
      entities.map(async ({ type, filename, sha256, metadata }) => ({
        type,
        filename,
        sha256,
        metadata,
        blob: await this.#client.entity(run, filename),
      })),
    );
    const seed = entities.map(({ metadata }) => metadata.seed).find((value) => value !== undefined);
    return {
      files,
      pictures: files.filter(({ type }) => type === 'output_image').map(({ blob }) => blob),
      metadata: await this.#client.entity(run, METADATA),
      seed: typeof seed === 'string' ? seed : null,
      notices,
      run: this.#keepsRuns ? run : null,
    };
  }

  /** What is kept nowhere would fill the memory. */
  async #forget(id: string): Promise<void> {
    const { run } = await this.#client.get(id);
    if (!this.#keepsRuns && run !== null) {
      await this.#client.deleteRun(run).catch(() => undefined);
    }
    await this.#client.remove(id).catch(() => undefined);
  }
}

/** Of what this package does not do. */
export function onlyInPage(): StudioError {
  return new StudioError(
    'invalid_operation',
    "Part of this runs only in Darkroom's own page; leave out what needs another machine in a page, or a language model in Node.",
  );
}

function refOf(name: string): string {
  return `folder:${name}`;
}

function sourceOf(name: string, where: string | URL | readonly CheckpointFile[]): CheckpointSource {
  if (typeof where === 'string' || where instanceof URL) {
    const base = new URL(where, globalThis.location?.href).href;
    return { kind: 'served', name, base: base.endsWith('/') ? base : `${base}/` };
  }
  const source = folderSource([...where] as Parameters<typeof folderSource>[0]);
  return source.kind === 'folder' ? { ...source, name } : source;
}

function offscreen(canvas: HTMLCanvasElement): OffscreenCanvas {
  try {
    return canvas.transferControlToOffscreen();
  } catch (cause) {
    throw new StudioError(
      'invalid_operation',
      'The canvas for the preview is in use already; give each job one that nothing was drawn on.',
      { cause },
    );
  }
}
