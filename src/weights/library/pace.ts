/** A transfer's progress and speed. */
import type { TransferProgress } from './library_api.ts';
import type { Clock } from './surroundings.ts';

/** The speed is averaged over this many milliseconds. */
const WINDOW_MS = 8_000;
/** The shortest interval between reports. */
const INTERVAL_MS = 200;

export class Pace {
  readonly #clock: Clock;
  readonly #ref: string;
  readonly #tell: (progress: TransferProgress) => void;
  readonly #done = new Map<string, number>();
  #total: number;
  #samples: { at: number; done: number }[] = [];
  #toldAt = -Infinity;

  constructor(clock: Clock, ref: string, total: number, tell: (progress: TransferProgress) => void) {
    this.#clock = clock;
    this.#ref = ref;
    this.#total = total;
    this.#tell = tell;
  }

  set total(bytes: number) {
    this.#total = bytes;
  }

  /** Sets the bytes of a file already there, without counting them towards the speed. */
  begin(path: string, bytes: number): void {
    this.#done.set(path, bytes);
    this.#samples = [];
    this.#report(true);
  }

  /** More bytes of one file have come. */
  add(path: string, bytes: number): void {
    this.#done.set(path, (this.#done.get(path) ?? 0) + bytes);
    this.#report(false);
  }

  /** Reports the current state unconditionally. */
  finish(): void {
    this.#report(true);
  }

  #report(always: boolean): void {
    const at = this.#clock.now();
    const done = [...this.#done.values()].reduce((sum, bytes) => sum + bytes, 0);
    if (!always && at - this.#toldAt < INTERVAL_MS) {
      return;
    }
    this.#toldAt = at;
    this.#samples = [...this.#samples.filter((sample) => at - sample.at < WINDOW_MS), { at, done }];
    const [first] = this.#samples;
    const seconds = (at - first.at) / 1000;
    const bytesPerSecond = seconds > 0.5 && done > first.done ? (done - first.done) / seconds : null;
    this.#tell({
      ref: this.#ref,
      done,
      total: this.#total,
      bytesPerSecond,
      secondsLeft: bytesPerSecond === null ? null : (this.#total - done) / bytesPerSecond,
    });
  }
}
