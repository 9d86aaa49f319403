/** Transfers: a lock per checkpoint allows one at a time across all tabs. Any tab sees its progress and can stop it. */
import type { TransferProgress } from './library_api.ts';
import { StudioError } from '../../core/errors.ts';
import { storageError } from './key_values.ts';
import type { Channel, Locks } from './surroundings.ts';

export type OnProgress = (progress: TransferProgress) => void;

/** A transfer of this tab. */
interface Transfer {
  readonly ref: string;
  readonly abort: AbortController;
  readonly onProgress: OnProgress;
}

export class Transfers {
  readonly #locks: Locks;
  readonly #channel: Channel;
  readonly #running = new Set<Transfer>();

  constructor(locks: Locks, channel: Channel) {
    this.#locks = locks;
    this.#channel = channel;
    channel.listen((message) => {
      for (const transfer of this.#of(message.ref)) {
        if (message.type === 'pause') {
          transfer.abort.abort();
        } else if (message.type === 'progress') {
          // Another tab holds the lock, which ours is waiting for.
          transfer.onProgress(message.progress);
        }
      }
    });
  }

  /**
   * Runs `work` once no other tab is busy with this checkpoint.
   * @throws StudioError `cancelled` if it was paused, and whatever `work` throws
   */
  async run<T>(
    ref: string,
    onProgress: OnProgress,
    work: (signal: AbortSignal, tell: OnProgress) => Promise<T>,
  ): Promise<T> {
    const transfer: Transfer = { ref, abort: new AbortController(), onProgress };
    const { signal } = transfer.abort;
    const tell = (progress: TransferProgress) => {
      onProgress(progress);
      this.#channel.post({ type: 'progress', ref, progress });
    };
    this.#running.add(transfer);
    try {
      return await this.#locks.hold(lockOf(ref), signal, () => work(signal, tell));
    } catch (error) {
      throw signal.aborted ? stopped() : asStudioError(error);
    } finally {
      this.#running.delete(transfer);
    }
  }

  /** Stops the current transfer, in any tab, then runs `work`. */
  async pause(ref: string, work: () => Promise<void> = () => Promise.resolve()): Promise<void> {
    this.#of(ref).forEach(({ abort }) => abort.abort());
    this.#channel.post({ type: 'pause', ref });
    await this.#locks.hold(lockOf(ref), new AbortController().signal, work);
  }

  /** Whether any tab is busy with it. */
  async underWay(): Promise<(ref: string) => boolean> {
    const held = await this.#locks.held();
    return (ref) => held.has(lockOf(ref));
  }

  #of(ref: string): Transfer[] {
    return [...this.#running].filter((transfer) => transfer.ref === ref);
  }
}

function lockOf(ref: string): string {
  return `darkroom:library:${ref}`;
}

export function stopped(): StudioError {
  return new StudioError('cancelled', 'The transfer was paused; what has arrived is kept.', { retry: 'same' });
}

function asStudioError(error: unknown): StudioError {
  if (error instanceof StudioError) {
    return error;
  }
  return error instanceof DOMException ? storageError(error) : StudioError.from(error);
}
