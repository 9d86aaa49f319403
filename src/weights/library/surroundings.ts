/** What the library needs of the world around it, as interfaces: tests stand in for each and break it. */
import type { TransferProgress } from './library_api.ts';

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
  /** Resolves after so many milliseconds, or rejects at once when `signal` is aborted. */
  wait(ms: number, signal: AbortSignal): Promise<void>;
}

export interface Network {
  fetch(url: string, init: RequestInit): Promise<Response>;
  /** False only when the browser is sure that there is no connection. */
  isOnline(): boolean;
  /** Whether the page's policy lets it speak to this address. */
  allows(url: URL): Promise<boolean>;
  /** How many requests the policy has refused so far; a redirect to a foreign host shows nowhere else. */
  refusals(): number;
  /** At least 0, below 1. */
  random(): number;
}

/** One holder per name, over all tabs; a lock ends with the tab that holds it. */
export interface Locks {
  /** Runs `work` while holding the lock; rejects with `AbortError` when `signal` is aborted while it waits. */
  hold<T>(name: string, signal: AbortSignal, work: () => Promise<T>): Promise<T>;
  /** Names of all locks that somebody holds. */
  held(): Promise<Set<string>>;
}

/** What tabs tell each other. */
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
