/** What the library needs from its surroundings, as interfaces, so that tests can replace and break each. */
import type { TransferProgress } from './library_api.ts';

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Resolves after the given milliseconds, or rejects as soon as `signal` is aborted. */
  wait(ms: number, signal: AbortSignal): Promise<void>;
}

export interface Network {
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** False only if the browser is certain that there is no connection. */
  isOnline(): boolean;
  /** Whether the page's policy admits this URL. */
  allows(url: URL): Promise<boolean>;
  /** Number of requests the policy has refused so far, the only sign of a redirect to a foreign host. */
  refusals(): number;
  /** At least 0, below 1. */
  random(): number;
}

/** One holder per name across all tabs; a lock ends with the tab holding it. */
export interface Locks {
  /** Runs `work` while holding the lock; rejects with `AbortError` if `signal` is aborted while waiting. */
  hold<T>(name: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
  /** Names of all held locks. */
  held(): Promise<Set<string>>;
}

/** Messages between tabs. */
export type LibraryMessage =
  | { type: 'progress'; ref: string; progress: TransferProgress }
  | { type: 'pause'; ref: string }
  | { type: 'changed'; ref: string };

/** Reaches the other tabs, not this one. */
export interface Channel {
  post(message: LibraryMessage): void;
  listen(listener: (message: LibraryMessage) => void): void;
}

export interface StorageEstimate {
  estimate(): Promise<{ usage?: number; quota?: number }>;
  persisted(): Promise<boolean>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  wait: (ms, signal) =>
    new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer);
        reject(new DOMException('The wait was stopped.', 'AbortError'));
      };
      if (signal.aborted) {
        reject(new DOMException('The wait was stopped.', 'AbortError'));
        return;
      }
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', stop);
        resolve();
      }, ms);
      signal.addEventListener('abort', stop, { once: true });
    }),
};
