/**
 * The number of threads ONNX Runtime uses on the processor. It is fixed once the runtime is loaded, so each number is measured in a worker
 * of its own.
 */
import { chosenThreads, fastestThreads, keepFastestThreads } from '../storage/processor_threads.ts';
import type { Provider } from '../graphs/graph.ts';

/** The runtime creates all its threads at once; more than this help none of our layers. */
const MOST = 16;

/** More threads leave less of the machine to others, so each step up must be faster by this factor. */
const GAIN = 1.05;

/** What the machine and the page offer. */
export interface Machine {
  cores: number;
  /** Whether the page is cross-origin isolated, without which threads cannot share memory. */
  isolated: boolean;
  /** Whether the browser has no shared memory even then: old ones, and those where a setting or policy takes it away. */
  lacksSharedMemory?: boolean;
}

export function thisMachine(): Machine {
  return {
    cores: Math.max(1, navigator.hardwareConcurrency || 1),
    isolated: self.crossOriginIsolated,
    lacksSharedMemory: !('SharedArrayBuffer' in self),
  };
}

/**
 * @param asked the address's `?threads=`; null if absent
 * @returns the number, and a sentence if it is not what a person would expect
 */
export async function threadsFor(
  provider: Provider,
  asked: string | null,
  { cores, isolated, lacksSharedMemory = false }: Machine = thisMachine(),
): Promise<{ threads: number; note: string | null }> {
  const most = Math.min(cores, MOST);
  if (!isolated || lacksSharedMemory) {
    const why = isolated
      ? `This browser has no shared memory (SharedArrayBuffer), so only one of ${cores} processor cores computes and pictures take up to ${most} times as long; use a current Chrome, Edge, Firefox or Safari, or allow it where a setting or policy forbids it.`
      : `This page is not cross-origin isolated, so only one of ${cores} processor cores computes and pictures take up to ${most} times as long; reload it, and if that does not help, ask whoever serves it to send the headers that docs/serving.md names.`;
    return { threads: 1, note: provider === 'wasm' && most > 1 ? why : null };
  }
  const wanted = asked === null ? null : Number(asked);
  if (wanted !== null && Number.isInteger(wanted) && wanted >= 1 && wanted <= most) {
    return { threads: wanted, note: null };
  }
  const note =
    wanted === null
      ? null
      : `The address asks for "${asked}" threads, but this machine can use 1 to ${most}; Darkroom chose by itself.`;
  if (provider === 'webgpu') {
    // Only the few operators left on the processor use them.
    return { threads: Math.min(4, Math.max(1, cores >> 1)), note };
  }
  const threads = (await chosenThreads()) ?? (await fastestThreads(cores)) ?? most;
  return { threads: Math.min(threads, most), note };
}

/** Numbers of threads worth measuring, fewest first: half the cores (two may share one unit), all but one, and all. */
export function candidates(cores: number): number[] {
  const most = Math.min(cores, MOST);
  return [...new Set([most >> 1, most - 1, most])].filter((threads) => threads > 0).sort((a, b) => a - b);
}

/** Picks the number to use from the rates, fewest threads first. */
export function fastest(rates: readonly { threads: number; perSecond: number }[]): number {
  return rates.reduce((best, next) => (next.perSecond > GAIN * best.perSecond ? next : best)).threads;
}

/** How long the processor must have been idle before it is measured, in milliseconds. */
const QUIET = 5000;

/** The measurement: once per machine, in a pause after the first picture. Anything else that needs the processor aborts it until later. */
export class ThreadMeasurement {
  #attempt: AbortController | null = null;

  /**
   * @param rate measures operations per second with the given number of threads; stops early if the signal is aborted
   * @param pause resolves after the given milliseconds
   */
  constructor(
    readonly machine: Machine,
    readonly rate: (threads: number, signal: AbortSignal) => Promise<number>,
    readonly pause = (ms: number) => new Promise<void>((over) => setTimeout(over, ms)),
  ) {}

  /** Call when idle. @returns the fastest number of threads; null if nothing was measured */
  async rest(): Promise<number | null> {
    const { cores, isolated, lacksSharedMemory } = this.machine;
    const isAlone = !isolated || lacksSharedMemory === true || cores === 1;
    this.stir();
    const attempt = (this.#attempt = new AbortController());
    if (isAlone || (await chosenThreads()) !== null || (await fastestThreads(cores)) !== null) {
      return null;
    }
    await this.pause(QUIET);
    const rates: { threads: number; perSecond: number }[] = [];
    for (const threads of candidates(cores)) {
      const perSecond = attempt.signal.aborted ? null : await this.rate(threads, attempt.signal).catch(() => null);
      if (perSecond === null || attempt.signal.aborted) {
        return null;
      }
      rates.push({ threads, perSecond });
    }
    const found = fastest(rates);
    await keepFastestThreads(cores, found);
    return found;
  }

  /** Call when busy. */
  stir(): void {
    this.#attempt?.abort();
  }
}
