/** Whose turn it is to use the GPU: among all tabs, the one holding a Web Lock. */
import { GPU_LOCK } from './stored_jobs.ts';

export class Turn {
  readonly #locks: LockManager | null;
  readonly #listeners = new Set<() => void>();
  #waiting = new AbortController();
  #token: string | null = null;
  #wasTaken = false;

  /** @param locks null if there are none; then every tab has a turn */
  constructor(locks: LockManager | null) {
    this.#locks = locks;
  }

  /** The unique id of this turn; null while it is somebody else's. */
  get token(): string | null {
    return this.#token;
  }

  /** Whether the turn was taken from a tab that may still be busy. */
  get wasTaken(): boolean {
    return this.#wasTaken;
  }

  /** Called whenever the turn begins or ends here. */
  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  /** Waits for the turn, and again whenever it is taken away. */
  enter(): void {
    void this.#hold({ signal: this.#waiting.signal });
  }

  /** Starts a turn that is nobody else's business. */
  enterAlone(): void {
    this.#begin(false);
  }

  /** Takes the turn from whoever has it. */
  take(): void {
    if (this.#token === null) {
      // Otherwise this tab would queue behind itself.
      this.#waiting.abort();
      this.#waiting = new AbortController();
      void this.#hold({ steal: true });
    }
  }

  async #hold(options: LockOptions): Promise<void> {
    if (!this.#locks) {
      this.enterAlone();
      return;
    }
    try {
      await this.#locks.request(GPU_LOCK, options, () => {
        this.#begin(options.steal === true);
        return new Promise<never>(() => {});
      });
    } catch {
      if (options.signal?.aborted) {
        // It never stood first.
        return;
      }
      this.#token = null;
      this.#tell();
      this.enter();
    }
  }

  #begin(wasTaken: boolean): void {
    this.#token = crypto.randomUUID();
    this.#wasTaken = wasTaken;
    this.#tell();
  }

  #tell(): void {
    this.#listeners.forEach((listener) => listener());
  }
}
