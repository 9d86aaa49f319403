import { StudioError } from '../core/errors.ts';

/** @param what completes "…, because"; no full stop */
export function damaged(format: string, what: string): StudioError {
  return new StudioError(
    'image_unreadable',
    `What is written in this ${format} file cannot be read, because ${what}; use an undamaged copy of it.`,
  );
}
