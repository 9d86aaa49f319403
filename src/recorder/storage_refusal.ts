/** Turns storage errors into sentences a person can act on. */
import { StudioError } from '../core/errors.ts';

/** Does the work, turning storage errors into `storage_full` or `storage_unavailable`. */
export async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof StudioError) {
      throw error;
    }
    if (error instanceof DOMException && error.name === 'QuotaExceededError') {
      throw new StudioError(
        'storage_full',
        'The browser has no room left for recordings; delete some runs or free space on the disk, then try again. What is recorded so far is kept.',
        { retry: 'same', cause: error },
      );
    }
    throw new StudioError(
      'storage_unavailable',
      'The browser could not read or write the recordings; reload the page and try again. What is recorded so far is kept.',
      { retry: 'same', cause: error },
    );
  }
}

export function noSuchRun(run: string): StudioError {
  return new StudioError('invalid_operation', `There is no recorded run "${run}".`);
}
