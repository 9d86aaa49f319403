/** Computes briefly with the given number of threads and reports the speed; see `src/engine/threads.ts`. */
import { Engine, type EngineOptions } from '../src/engine/engine.ts';
import { measureRate, workloads } from '../src/engine/self_measurement.ts';
import { serve } from './connection.ts';

class ThreadsWorker {
  async rate(threads: number, runtimeFiles?: EngineOptions['runtimeFiles']): Promise<number> {
    const options = {
      backend: 'wasm',
      precision: 'f32',
      countLaunches: false,
      threads: String(threads),
      runtimeFiles,
    } as const;
    const engine = await Engine.start(options);
    return measureRate('f32', workloads(engine), () => performance.now() / 1000);
  }
}

export type ThreadsApi = ThreadsWorker;

await serve(new ThreadsWorker(), self);
