/** The workers, connected: the generator, which holds the GPU, the one for jobs without it, and the recorder that both write to. Made anew when they end. */
import * as Comlink from 'comlink';
import { StudioError, cancelled } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { DeviceReport, JobEvent, Offer, Stage } from '../core/job.ts';
import type { GenerationApi, JobExecutor, JobPage, StartOptions, TaskApi } from '../../workers/generation_api.ts';
import type { LanguageConnection } from '../language/language_api.ts';
import type { RecorderApi, RunEnd } from '../recorder/recorder_api.ts';
import { LanguageEngines } from './language.ts';
import { needsOf } from './needs.ts';
import { TAKEN } from './queue.ts';
import type { RemoteWorkers } from './remote_workers.ts';
import type { Engine, Work } from './runner.ts';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

/** After these a generator cannot be trusted, or its memory not be won back, so the next job gets a new one. */
const FATAL = new Set<StudioError['code']>(['gpu_lost', 'out_of_memory', 'internal']);

/** How long things may take, in milliseconds. Generous: a software GPU computes a step for minutes. */
export interface PairPatience {
  /** The start of a generator: loading the runtime and a first computation. */
  start: number;
  /** Between two things that are finished while a job runs, on a GPU and on the processor, which also computes steps for many minutes. */
  work: { webgpu: number; wasm: number };
  /** What a cancelled job may take to its next step, where it can stop, before its worker is ended. */
  cancel: number;
  /** What a job that has failed may wait for an offer. */
  offer: number;
}

const PATIENCE: PairPatience = {
  start: 5 * 60_000,
  work: { webgpu: 15 * 60_000, wasm: 60 * 60_000 },
  cancel: 30_000,
  offer: 30_000,
};

export interface WorkerMaker {
  generation(): WorkerLike;
  task(): WorkerLike;
  recorder(): WorkerLike;
}

const bundled: WorkerMaker = {
  generation: () => new Worker(new URL('../../workers/generation.worker.ts', import.meta.url), { type: 'module' }),
  task: () => new Worker(new URL('../../workers/task.worker.ts', import.meta.url), { type: 'module' }),
  recorder: () => new Worker(new URL('../../workers/recorder.worker.ts', import.meta.url), { type: 'module' }),
};

interface Generator {
  readonly link: WorkerLink<GenerationApi>;
  /** Resolves when it is started. */
  readonly device: Promise<DeviceReport>;
}

export class WorkerPair implements Engine {
  /** How generators are started from now on. */
  options: StartOptions = {};
  readonly #make: WorkerMaker;
  readonly #listeners = new Set<(device: DeviceReport) => void>();
  readonly #patience: PairPatience;
  #generator: Generator | null = null;
  #tasks: { link: WorkerLink<TaskApi>; isConnected: Promise<unknown> } | null = null;
  #remote: Promise<RemoteWorkers> | null = null;
  #recorder: WorkerLink<RecorderApi> | null = null;
  /** Language models and voices, which jobs ask over a connection of their own. */
  readonly language: LanguageEngines;
  /** Keys that the person entered, in memory only. */
  readonly #secrets = new Map<string, string>();
  /** Finds a key that was kept in an earlier visit; null when there is none. */
  remembered: (name: string) => Promise<string | null> = () => Promise.resolve(null);
  #backend: DeviceReport['backend'] = 'wasm';
  /** What a running job said last. */
  #secondsLeft = 0;

  constructor(
    make: WorkerMaker = bundled,
    patience: Partial<PairPatience> = {},
    language: LanguageEngines = new LanguageEngines(),
  ) {
    this.#make = make;
    this.#patience = { ...PATIENCE, ...patience };
    this.language = language;
    language.makeRoom = (bytes) => this.#makeRoom(bytes);
  }

  /** The living generator; calls to it wait until it has loaded, not until it is started. */
  get generator(): Generator {
    if (!this.#generator || this.#generator.link.failure) {
      const { start, work } = this.#patience;
      const link = new WorkerLink<GenerationApi>('The generator', this.#make.generation(), {
        calls: {
          start: () => start,
          // Weights of many gigabytes come to the device in silence.
          prepare: () => work[this.#backend],
          // A job that says it needs hours may well spend one of them in silence.
          execute: () => Math.max(work[this.#backend], 2000 * this.#secondsLeft),
        },
      });
      const device = this.#start(link);
      // Who asks for the device is told; until then a failed start is nobody's unhandled rejection.
      device.catch(() => {});
      this.#generator = { link, device };
    }
    return this.#generator;
  }

  /** The generator once it is started. */
  async started(): Promise<WorkerLink<GenerationApi>> {
    const { link, device } = this.generator;
    await device;
    return link;
  }

  /** The living recorder. */
  get recorder(): WorkerLink<RecorderApi> {
    if (!this.#recorder || this.#recorder.failure) {
      this.#recorder = new WorkerLink<RecorderApi>('The recorder', this.#make.recorder());
    }
    return this.#recorder;
  }

  /** Called whenever a generator is started. */
  onStart(listener: (device: DeviceReport) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Keeps a key for as long as the page is open; null forgets it. */
  setSecret(name: string, value: string | null): void {
    if (value === null) {
      this.#secrets.delete(name);
    } else {
      this.#secrets.set(name, value);
    }
  }

  /** What reaches other machines; loaded by who first needs it. */
  get remote(): Promise<RemoteWorkers> {
    this.#remote ??= import('./remote_workers.ts').then(
      ({ RemoteWorkers }) => new RemoteWorkers((link) => this.#connect(link)),
    );
    return this.#remote;
  }

  /** What runs jobs without a checkpoint. It makes a worker when there is one to run. */
  get tasks(): Engine {
    return {
      execute: async (work, onEvent, signal) => {
        const link = needsOf(work.operation).remote ? (await this.remote).link() : this.#taskLink();
        await this.#execute(await link, work, onEvent, signal);
      },
      smaller: () => Promise.resolve(null),
      closeRun: (run, stage, error) => this.closeRun(run, stage, error),
    };
  }

  async execute(work: Work, onEvent: (event: JobEvent) => void, signal: AbortSignal): Promise<void> {
    if (!needsOf(work.operation).graphs) {
      // The generator would only load a runtime that nothing in this job uses.
      await this.tasks.execute(work, onEvent, signal);
      return;
    }
    const listen = (event: JobEvent) => {
      if (event.type === 'progress') {
        this.#secondsLeft = event.progress.secondsLeft ?? 0;
      }
      onEvent(event);
    };
    this.#secondsLeft = 0;
    await this.#execute(await this.started(), work, listen, signal);
  }

  async #execute(
    link: WorkerLink<JobExecutor>,
    work: Work,
    onEvent: (event: JobEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    if (signal.aborted) {
      throw cancelled();
    }
    let grace: ReturnType<typeof setTimeout> | undefined;
    const stop = () => {
      if (signal.reason === TAKEN) {
        // The other tab waits for a moment only, and needs the memory.
        link.terminate(cancelled());
        return;
      }
      // A generator that cannot be asked has ended, and `execute` with it.
      link.call('cancel', work.jobId).catch(() => {});
      grace = setTimeout(() => link.terminate(cancelled()), this.#patience.cancel);
    };
    signal.addEventListener('abort', stop);
    try {
      await this.#tellOfFolders(work);
      await link.call(
        'execute',
        { ...work, inscribes: this.options.inscribes ?? true },
        Comlink.proxy(onEvent),
        Comlink.proxy(this.#page),
      );
    } catch (error) {
      const failure = StudioError.from(error);
      if (FATAL.has(failure.code) && failure.engine === undefined) {
        link.terminate(failure);
      }
      throw failure;
    } finally {
      clearTimeout(grace);
      signal.removeEventListener('abort', stop);
    }
  }

  async smaller({ operation, sources, point }: Work, stage: Stage | null): Promise<Offer | null> {
    if (!needsOf(operation).graphs) {
      return null;
    }
    let patience: ReturnType<typeof setTimeout> | undefined;
    const change = await Promise.race([
      this.started().then((link) => link.call('smaller', { operation, sources, point, stage })),
      new Promise<null>((give) => {
        patience = setTimeout(give, this.#patience.offer, null);
      }),
    ]).finally(() => clearTimeout(patience));
    return (
      change && {
        label: change.label,
        operation: { ...operation, parameters: { ...operation.parameters, ...change.parameters } },
      }
    );
  }

  async closeRun(run: string, stage: RunEnd, error: StudioErrorData): Promise<void> {
    const { recorder } = this;
    // A new recorder does not hold the run yet; one that holds it first finishes what it is writing.
    await recorder.call('resumeRun', run);
    await recorder.call('closeRun', run, stage, error);
  }

  /** What a worker may ask of us while it runs a job. */
  get #page(): JobPage {
    return {
      secret: (name) => this.#secret(name),
      servers: async (engine) => (await this.remote).serversOf(engine),
      develop: async (picture) => this.#generator?.link.call('show', picture),
      language: async () => transferred(await this.language.connection()),
      languageIfAlive: async () => {
        const connection = await this.language.connectionIfAlive();
        return connection && transferred(connection);
      },
      makeRoom: (bytes) => this.#makeRoom(bytes),
    };
  }

  /** Folders of language models reach that engine with the job, as they may have been opened in another tab. */
  async #tellOfFolders({ operation, sources }: Work): Promise<void> {
    if (needsOf(operation).languageSteps.length > 0) {
      const folders = Object.entries(sources).filter(([, { kind }]) => kind === 'folder');
      await Promise.all(folders.map(([ref, source]) => this.language.know(ref, source)));
    }
  }

  async #makeRoom(bytes: number): Promise<void> {
    if (this.#generator && !this.#generator.link.failure) {
      await this.#generator.link.call('makeRoom', bytes);
    }
  }

  async #secret(name: string): Promise<string> {
    const value = this.#secrets.get(name) ?? (await this.remembered(name));
    if (value === null) {
      throw new StudioError('invalid_operation', `The key "${name}" is not there; enter it, then try again.`);
    }
    return value;
  }

  async #taskLink(): Promise<WorkerLink<TaskApi>> {
    if (!this.#tasks || this.#tasks.link.failure) {
      const link = new WorkerLink<TaskApi>('The task worker', this.#make.task(), {
        calls: { execute: () => this.#patience.work.wasm },
      });
      const isConnected = this.#connect(link);
      isConnected.catch((error: unknown) => link.terminate(StudioError.from(error)));
      this.#tasks = { link, isConnected };
    }
    await this.#tasks.isConnected;
    return this.#tasks.link;
  }

  /** A way to the recorder for a worker that ends with it. */
  async #connect(link: WorkerLink<TaskApi>): Promise<void> {
    const { recorder } = this;
    void recorder.ended.then((reason) => link.terminate(reason));
    const { port1, port2 } = new MessageChannel();
    await recorder.call('connect', Comlink.transfer(port1, [port1]));
    await link.call('connect', Comlink.transfer(port2, [port2]));
  }

  async #start(link: WorkerLink<GenerationApi>): Promise<DeviceReport> {
    const { recorder } = this;
    // The generator would wait for ever for a recorder that has ended.
    void recorder.ended.then((reason) => link.terminate(reason));
    const { port1, port2 } = new MessageChannel();
    try {
      await recorder.call('connect', Comlink.transfer(port1, [port1]));
      const device = await link.call('start', Comlink.transfer({ ...this.options, recorder: port2 }, [port2]));
      this.#backend = device.backend;
      this.#listeners.forEach((listener) => listener(device));
      return device;
    } catch (error) {
      const failure = StudioError.from(error);
      link.terminate(failure);
      throw failure;
    }
  }
}

/** The port moves to whoever asked. */
function transferred(connection: LanguageConnection): LanguageConnection {
  return Comlink.transfer(connection, [connection.port]);
}
