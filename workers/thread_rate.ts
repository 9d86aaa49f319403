import { cancelled } from '../src/core/errors.ts';
import { callsTo } from './connection.ts';
import type { StartOptions } from './generation_api.ts';
import type { ThreadsApi } from './threads.worker.ts';

/** Measures the processor's speed with the given number of threads, in a worker of its own, which ends with it. */
export function rateIn(
  makeWorker: () => Worker,
  runtimeFiles?: StartOptions['runtimeFiles'],
): (threads: number, signal: AbortSignal) => Promise<number> {
  return async (threads, signal) => {
    const worker = makeWorker();
    try {
      const ended = new Promise<never>((_, refuse) => {
        const end = () => {
          refuse(cancelled());
        };
        signal.addEventListener('abort', end);
        worker.addEventListener('error', end);
      });
      return await Promise.race([callsTo<ThreadsApi>(worker).rate(threads, runtimeFiles), ended]);
    } finally {
      worker.terminate();
    }
  };
}
