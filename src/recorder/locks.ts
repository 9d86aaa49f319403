/** Who may write what, among all tabs of this page. A lock ends with the worker holding it. */
export interface Locks {
  /** Holds the lock until the returned function is called; null if somebody else does not release it within `patience` ms. */
  tryHold(name: string, patience?: number): Promise<(() => void) | null>;
  /** Does the work while holding the lock of this name. */
  within<T>(name: string, work: () => Promise<T>): Promise<T>;
}

/** The browser's Web Locks. */
export class WebLocks implements Locks {
  readonly #locks: LockManager;

  constructor(locks: LockManager) {
    this.#locks = locks;
  }

  tryHold(name: string, patience = 0): Promise<(() => void) | null> {
    const options = patience > 0 ? { signal: AbortSignal.timeout(patience) } : { ifAvailable: true };
    return new Promise((answer, failed) => {
      this.#locks
        .request(name, options, (lock) => {
          if (!lock) {
            answer(null);
            return null;
          }
          return new Promise<void>((release) => {
            answer(release);
          });
        })
        .catch((error: Error) => {
          if (error.name === 'TimeoutError') {
            answer(null);
          } else {
            failed(error);
          }
        });
    });
  }

  async within<T>(name: string, work: () => Promise<T>): Promise<T> {
    return await this.#locks.request(name, work);
  }
}

/** For a single worker that only writes to memory, and for several in tests. It never waits. */
export class MemoryLocks implements Locks {
  readonly #held = new Set<string>();
  readonly #last = new Map<string, Promise<unknown>>();

  tryHold(name: string): Promise<(() => void) | null> {
    if (this.#held.has(name)) {
      return Promise.resolve(null);
    }
    this.#held.add(name);
    return Promise.resolve(() => {
      this.#held.delete(name);
    });
  }

  within<T>(name: string, work: () => Promise<T>): Promise<T> {
    const result = (this.#last.get(name) ?? Promise.resolve()).then(work);
    this.#last.set(
      name,
      result.catch(() => {}),
    );
    return result;
  }
}
