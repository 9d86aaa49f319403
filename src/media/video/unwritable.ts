import { StudioError } from '../../core/errors.ts';

/** Of a video that takes no recipe. */
export function unwritable(cause?: unknown): StudioError {
  return new StudioError(
    'media_unreadable',
    'The settings cannot be written into this video: it is damaged, or of a kind that is not rewritten here; save it as it is.',
    { cause },
  );
}
