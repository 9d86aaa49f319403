/** The connected workers: the generator, which holds the GPU, the worker for jobs without it, and the recorder both write to. Recreated when they end. */
import * as Comlink from 'comlink';
import { StudioError, cancelled } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { DeviceReport, JobEvent, Offer, Stage } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { catalogue } from '../pipelines/catalogue.ts';
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

/** Errors after which a generator cannot be trusted, or its memory not reclaimed, so the next job gets a new one. */
const FATAL = new Set<StudioError['code']>(['gpu_lost', 'out_of_memory', 'internal']);

/** Timeouts in milliseconds. They are generous: a software GPU may take minutes per step. */
export interface PairPatience {
  /** Starting a generator: loading the runtime and a first computation. */
  start: number;
  /** Between two signs of progress of a running job, on a GPU and on the processor, which may take many minutes per step. */
  work: { webgpu: number; wasm: number };
  /** How long a cancelled job may take to reach its next step before its worker is ended. */
  cancel: number;
  /** How long a failed job waits for something smaller to be suggested. */
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
  language(): WorkerLike;
  /**
   * What reaches other machines, loaded by who first needs it.
   * @param connect gives a worker its way to the recorder
   */
  remote(connect: (link: WorkerLink<TaskApi>) => Promise<void>): Promise<RemoteWorkers>;
}

interface Generator {
  readonly link: WorkerLink<GenerationApi>;
  /** Resolves when it is started. */
  readonly device: Promise<DeviceReport>;
}

export class WorkerPair implements Engine {
  /** How to start generators from now on. */
  options: StartOptions = {};
  readonly #make: WorkerMaker;
  readonly #listeners = new Set<(device: DeviceReport) => void>();
  readonly #patience: PairPatience;
  #generator: Generator | null = null;
  #tasks: { link: WorkerLink<TaskApi>; isConnected: Promise<unknown> } | null = null;
  #remote: Promise<RemoteWorkers> | null = null;
  #recorder: WorkerLink<RecorderApi> | null = null;
  /** Language models and voices, which jobs use over connections of their own. */
  readonly language: LanguageEngines;
  /** Keys the person entered, in memory only. */
  readonly #secrets = new Map<string, string>();
  /** Finds a key kept from an earlier visit; null if there is none. */
  remembered: (name: string) => Promise<string | null> = () => Promise.resolve(null);
  #backend: DeviceReport['backend'] = 'wasm';
  /** The last report of a running job. */
  #secondsLeft = 0;

  constructor(
    make: WorkerMaker,
    patience: Partial<PairPatience> = {},
    language: LanguageEngines = new LanguageEngines(() => make.language()),
  ) {
    this.#make = make;
    this.#patience = { ...PATIENCE, ...patience };
    this.language = language;
    language.makeRoom = (bytes) => this.#makeRoom(bytes);
  }

  /** The current generator; calls wait until it has loaded, not until it is started. */
  get generator(): Generator {
    if (!this.#generator || this.#generator.link.failure) {
      const { start, work } = this.#patience;
      const link = new WorkerLink<GenerationApi>('The generator', this.#make.generation(), {
        calls: {
          start: () => start,
          // Many gigabytes of weights are loaded silently.
          prepare: () => work[this.#backend],
          // A job that needs hours may well be silent for one.
          execute: () => Math.max(work[this.#backend], 2000 * this.#secondsLeft),
        },
      });
      const device = this.#start(link);
      // Whoever asks for the device gets the error; until then a failed start must not be an unhandled rejection.
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

  /** Keeps a key while the page is open; null forgets it. */
  setSecret(name: string, value: string | null): void {
    if (value === null) {
      this.#secrets.delete(name);
    } else {
      this.#secrets.set(name, value);
    }
  }

  /** Called with every server that is entered, whenever that is known anew. */
  onServers: RemoteWorkers['onServers'] = () => Promise.resolve();

  /** Reaches other machines; loaded on first use. */
  get remote(): Promise<RemoteWorkers> {
    this.#remote ??= this.#make
      .remote((link) => this.#connect(link))
      .then((remote) => Object.assign(remote, { onServers: this.onServers }));
    return this.#remote;
  }

  /** Runs jobs without a checkpoint, creating a worker on first use. */
  get tasks(): Engine {
    return {
      execute: async (work, onEvent, signal) => {
        const isRemote = needsOf(work.operation).engines.length > 0;
        const link = isRemote ? (await this.remote).link() : this.#taskLink();
        await this.#execute(await link, work, onEvent, signal, isRemote);
      },
      smaller: () => Promise.resolve(null),
      closeRun: (...ended) => this.closeRun(...ended),
    };
  }

  async execute(work: Work, onEvent: (event: JobEvent) => void, signal: AbortSignal): Promise<void> {
    if (!needsOf(work.operation).graphs) {
      // The generator would only load a runtime this job does not use.
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

  /** @param isShared whether the worker also runs other jobs, which may have nothing to do with this failure */
  async #execute(
    link: WorkerLink<JobExecutor>,
    work: Work,
    onEvent: (event: JobEvent) => void,
    signal: AbortSignal,
    isShared = false,
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
      // A generator that does not respond is gone, and so is `execute`.
      link.call('cancel', work.jobId).catch(() => {});
      const reason = isShared
        ? new StudioError('worker_failed', 'Another job could not be stopped.', { retry: 'same' })
        : cancelled();
      grace = setTimeout(() => link.terminate(reason), this.#patience.cancel);
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
      if (FATAL.has(failure.code) && failure.engine === undefined && !isShared) {
        link.terminate(failure);
      }
      throw failure;
    } finally {
      clearTimeout(grace);
      signal.removeEventListener('abort', stop);
    }
  }

  async smaller(work: Work, stage: Stage | null): Promise<Offer | null> {
    if (!needsOf(work.operation).graphs) {
      return null;
    }
    // Whoever entered a server would rather have the same from there than less from here.
    return (await this.#elsewhere(work.operation).catch(() => null)) ?? this.#smallerHere(work, stage);
  }

  async #elsewhere(operation: Operation): Promise<Offer | null> {
    const servers = await (await this.remote).servers();
    if (servers.length === 0) {
      return null;
    }
    const { offerElsewhere } = await import('./elsewhere.ts');
    return offerElsewhere(
      operation,
      catalogue,
      servers.map(({ engine }) => engine),
    );
  }

  async #smallerHere({ operation, sources, point }: Work, stage: Stage | null): Promise<Offer | null> {
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

  async closeRun(
    { jobId, submittedAt, run: known }: Pick<Work, 'jobId' | 'submittedAt' | 'run'>,
    stage: RunEnd,
    error: StudioErrorData,
  ): Promise<void> {
    const { recorder } = this;
    // A worker that ended may have opened one without telling.
    const run = known ?? (await recorder.call('runOf', jobId, submittedAt));
    if (run === null) {
      return;
    }
    // A new recorder does not hold the run yet; one that does first finishes writing.
    await recorder.call('resumeRun', run);
    await recorder.call('closeRun', run, stage, error);
  }

  /** Ends every worker that runs pictures, words or sounds here, and the recorder. What is asked of it afterwards begins new ones. */
  end(): void {
    this.#generator?.link.terminate();
    this.#tasks?.link.terminate();
    this.language.end();
    const recorder = this.#recorder;
    this.#recorder = null;
    // What follows from the last run's end is written first.
    void recorder
      ?.call('settled')
      .catch(() => undefined)
      .finally(() => recorder.terminate());
  }

  /** What a worker may ask of the page while running a job. */
  get #page(): JobPage {
    return {
      secret: (name) => this.secret(name),
      servers: async (engine) => (await this.remote).serversOf(engine),
      develop: async (picture) => this.#generator?.link.call('show', picture),
      used: async (server, usage) => (await this.remote).addUsage(server, usage),
      write: async (...asked) => (await this.remote).write(...asked, this.#page),
      stopWriting: async (id) => (await this.remote).stopWriting(id),
      language: async () => transferred(await this.language.connection()),
      languageIfAlive: async () => {
        const connection = await this.language.connectionIfAlive();
        return connection && transferred(connection);
      },
      makeRoom: (bytes) => this.#makeRoom(bytes),
    };
  }

  /** Passes language models' folders to that engine with the job, as they may have been opened in another tab. */
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

  /** @throws StudioError `invalid_operation` when there is none of this name */
  async secret(name: string): Promise<string> {
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

  /** A connection to the recorder for a worker that ends with it. */
  async #connect(link: WorkerLink<TaskApi>): Promise<void> {
    const { recorder } = this;
    void recorder.ended.then((reason) => link.terminate(reason));
    const { port1, port2 } = new MessageChannel();
    await recorder.call('connect', Comlink.transfer(port1, [port1]));
    await link.call('connect', Comlink.transfer(port2, [port2]));
  }

  async #start(link: WorkerLink<GenerationApi>): Promise<DeviceReport> {
    const { recorder } = this;
    // The generator would wait forever for a recorder that is gone.
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

/** Transfers the port to the caller. */
function transferred(connection: LanguageConnection): LanguageConnection {
  return Comlink.transfer(connection, [connection.port]);
}
