/** Darkroom before it is used: nothing is loaded until something is asked of it, and of jobs that replace one another only the newest is begun. */
import { StudioError, cancelled } from '../core/errors.ts';
import type { Darkroom, DarkroomJob, Operation, Result, RunOptions } from './contract.ts';

/** Milliseconds, where `latest` says nothing else. */
const DEBOUNCE = 250;

/** What is loaded by the first use. */
export interface Opened extends Omit<Darkroom, 'run' | 'dispose'> {
  /** Rejects with `cancelled` when the signal is aborted. */
  run(operation: Operation, options: RunOptions & { signal: AbortSignal }): Promise<Result>;
  end(): Promise<void>;
}

/** @param open loads it; called again where it failed before */
export function lazyDarkroom(open: () => Promise<Opened>): Darkroom {
  let opening: Promise<Opened> | null = null;
  let isDisposed = false;
  const running = new Set<AbortController>();
  let newest: AbortController | null = null;

  const opened = (): Promise<Opened> => {
    if (isDisposed) {
      return Promise.reject(disposed());
    }
    opening ??= open().catch((error: unknown) => {
      opening = null;
      throw error;
    });
    return opening;
  };

  const run = async (operation: Operation, options: RunOptions, controller: AbortController): Promise<Result> => {
    const { signal } = controller;
    running.add(controller);
    const stop = () => controller.abort();
    options.signal?.addEventListener('abort', stop);
    try {
      if (options.signal?.aborted) {
        stop();
      }
      if (options.latest) {
        await pause(options.latest === true ? DEBOUNCE : options.latest.debounce, signal);
      }
      const darkroom = await opened();
      if (signal.aborted) {
        throw cancelled();
      }
      return await darkroom.run(operation, { ...options, signal });
    } catch (error) {
      throw isDisposed ? disposed() : error;
    } finally {
      running.delete(controller);
      options.signal?.removeEventListener('abort', stop);
    }
  };

  return {
    device: async () => (await opened()).device(),
    run(operation, options = {}): DarkroomJob {
      const controller = new AbortController();
      if (options.latest) {
        newest?.abort();
        newest = controller;
      }
      return { result: run(operation, options, controller), cancel: () => controller.abort() };
    },
    prepare: async (operation) => (await opened()).prepare(operation),
    unload: async () => {
      // Where nothing was loaded there is nothing to free.
      await (await opening)?.unload();
    },
    checkpoints: {
      list: async () => (await opened()).checkpoints.list(),
      look: async (origin) => (await opened()).checkpoints.look(origin),
      fetch: async (origin) => (await opened()).checkpoints.fetch(origin),
      remove: async (ref) => (await opened()).checkpoints.remove(ref),
    },
    async dispose() {
      if (isDisposed) {
        return;
      }
      isDisposed = true;
      running.forEach((controller) => controller.abort());
      await (await opening?.catch(() => null))?.end();
    },
  };
}

function disposed(): StudioError {
  return new StudioError('worker_failed', 'This Darkroom was disposed of; create another one.');
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((over, broken) => {
    const timer = setTimeout(over, ms);
    const stop = () => {
      clearTimeout(timer);
      broken(cancelled());
    };
    if (signal.aborted) {
      stop();
    }
    signal.addEventListener('abort', stop, { once: true });
  });
}
