/** The two workers, connected: the generator, which holds the GPU, and the recorder it writes to. Made anew when they end. */
import * as Comlink from 'comlink';
import { StudioError, cancelled } from '../core/errors.ts';
import type { DeviceReport, JobEvent } from '../core/job.ts';
import type { GenerationApi, RecorderApi, StartOptions } from '../../workers/protocol.ts';
import type { Engine, Work } from './runner.ts';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

/** After these a generator cannot be trusted, or its memory not be won back, so the next job gets a new one. */
const FATAL = new Set<StudioError['code']>(['gpu_lost', 'out_of_memory']);

export interface WorkerMaker {
  generation(): WorkerLike;
  recorder(): WorkerLike;
}

const bundled: WorkerMaker = {
  generation: () => new Worker(new URL('../../workers/generation.worker.ts', import.meta.url), { type: 'module' }),
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
  #generator: Generator | null = null;
  #recorder: WorkerLink<RecorderApi> | null = null;

  constructor(make: WorkerMaker = bundled) {
    this.#make = make;
  }

  /** The living generator; calls to it wait until it has loaded, not until it is started. */
  get generator(): Generator {
    if (!this.#generator || this.#generator.link.failure) {
      const link = new WorkerLink<GenerationApi>('generator', this.#make.generation());
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
      this.#recorder = new WorkerLink<RecorderApi>('recorder', this.#make.recorder());
    }
    return this.#recorder;
  }

  /** Called whenever a generator is started. */
  onStart(listener: (device: DeviceReport) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async execute(work: Work, onEvent: (event: JobEvent) => void, signal: AbortSignal): Promise<void> {
    const link = await this.started();
    if (signal.aborted) {
      throw cancelled();
    }
    const stop = () => {
      // A generator that cannot be asked has ended, and `execute` with it.
      link.call('cancel', work.jobId).catch(() => {});
    };
    signal.addEventListener('abort', stop);
    try {
      await link.call('execute', { ...work, inscribes: this.options.inscribes ?? true }, Comlink.proxy(onEvent));
    } catch (error) {
      const failure = StudioError.from(error);
      if (FATAL.has(failure.code)) {
        link.terminate(failure);
      }
      throw failure;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  async #start(link: WorkerLink<GenerationApi>): Promise<DeviceReport> {
    const { recorder } = this;
    // The generator would wait for ever for a recorder that has ended.
    void recorder.ended.then((reason) => link.terminate(reason));
    const { port1, port2 } = new MessageChannel();
    try {
      await recorder.call('connect', Comlink.transfer(port1, [port1]));
      const device = await link.call('start', Comlink.transfer({ ...this.options, recorder: port2 }, [port2]));
      this.#listeners.forEach((listener) => listener(device));
      return device;
    } catch (error) {
      const failure = StudioError.from(error);
      link.terminate(failure);
      throw failure;
    }
  }
}
