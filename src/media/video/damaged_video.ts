import { StudioError } from '../../core/errors.ts';

/** Of a video that cannot be read, or whose pictures cannot be decoded. */
export function damagedVideo(cause?: unknown): StudioError {
  return new StudioError(
    'media_unreadable',
    'This video cannot be read: it is damaged, or this browser has no decoder for it; save it and open it in another program.',
    { cause },
  );
}
