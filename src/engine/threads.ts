/**
 * With how many threads ONNX Runtime computes on the processor. They are settled when the runtime is loaded, so each number that is
 * measured gets a worker of its own.
 */
import { chosenThreads, fastestThreads, keepFastestThreads } from '../storage/processor_threads.ts';
import type { Provider } from '../graphs/graph.ts';

/** The runtime makes all its threads at once; more than this help no layer of ours. */
const MOST = 16;

/** More threads leave less of the machine to everybody else, so each step up has to be faster by this factor. */
const GAIN = 1.05;

/** What the machine and the page offer. */
export interface Machine {
  cores: number;
  /** Whether the page is cross-origin isolated: only then may threads share memory. */
  isolated: boolean;
}

export function thisMachine(): Machine {
  return { cores: Math.max(1, navigator.hardwareConcurrency || 1), isolated: self.crossOriginIsolated };
}

/**
 * @param asked as the address says, `?threads=`; null where it says nothing
 * @returns how many, and one sentence where that is not what somebody would expect
 */
export async function threadsFor(
  provider: Provider,
  asked: string | null,
  { cores, isolated }: Machine = thisMachine(),
): Promise<{ threads: number; note: string | null }> {
  const most = Math.min(cores, MOST);
  if (!isolated) {
    const note =
      provider === 'wasm' && most > 1
        ? `This page is not cross-origin isolated, so only one of ${cores} processor cores computes and pictures take up to ${most} times as long; reload it, and if that does not help, ask whoever serves it to send the headers that docs/serving.md names.`
        : null;
    return { threads: 1, note };
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
    // Only the few operators that stay on the processor use them.
    return { threads: Math.min(4, Math.max(1, cores >> 1)), note };
  }
  const threads = (await chosenThreads()) ?? (await fastestThreads(cores)) ?? most;
  return { threads: Math.min(threads, most), note };
}

/** Numbers of threads worth measuring, fewest first: half of the cores, where two share one unit, all but one, and all. */
export function candidates(cores: number): number[] {
  const most = Math.min(cores, MOST);
  return [...new Set([most >> 1, most - 1, most])].filter((threads) => threads > 0).sort((a, b) => a - b);
}

/** The number to use, of rates by number, fewest threads first. */
export function fastest(rates: readonly { threads: number; perSecond: number }[]): number {
  return rates.reduce((best, next) => (next.perSecond > GAIN * best.perSecond ? next : best)).threads;
}

/** How long nobody may have wanted anything of the processor before it is measured, in milliseconds. */
const QUIET = 5000;

/** The measurement: once per machine, after the first picture, in a pause. Whatever else wants the processor ends it, and it begins anew later. */
export class ThreadMeasurement {
  #attempt: AbortController | null = null;

  /**
   * @param rate operations per second with so many threads; ends early when the signal is aborted
   * @param pause resolves after so many milliseconds
   */
  constructor(
    readonly machine: Machine,
    readonly rate: (threads: number, signal: AbortSignal) => Promise<number>,
    readonly pause = (ms: number) => new Promise<void>((over) => setTimeout(over, ms)),
  ) {}

  /** Nothing is at work from now on. @returns how many threads were found to be fastest; null where nothing was measured */
  async rest(): Promise<number | null> {
    const { cores, isolated } = this.machine;
    this.stir();
    const attempt = (this.#attempt = new AbortController());
    if (!isolated || cores === 1 || (await chosenThreads()) !== null || (await fastestThreads(cores)) !== null) {
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

  /** Something is at work. */
  stir(): void {
    this.#attempt?.abort();
  }
}
