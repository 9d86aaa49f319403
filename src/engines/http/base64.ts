/** Pictures within JSON: as base64, with or without the beginning of a data URL. */
import { StudioError } from '../../core/errors.ts';

/** In pieces: a call takes so many arguments at most. */
const PIECE = 0x8000;

export async function base64Of(file: Blob): Promise<string> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = '';
  for (let at = 0; at < bytes.length; at += PIECE) {
    text += String.fromCharCode(...bytes.subarray(at, at + PIECE));
  }
  return btoa(text);
}

/**
 * Its type is what its bytes are found to be later, not what is said here.
 * @throws StudioError `result_invalid` for what is no base64
 */
export function fileOf(base64: string): Blob {
  let text: string;
  try {
    text = atob(base64.replace(/^data:[^,]*,/, ''));
  } catch (cause) {
    throw new StudioError('result_invalid', 'A picture came damaged; try again.', { retry: 'same', cause });
  }
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) {
    bytes[at] = text.charCodeAt(at);
  }
  return new Blob([bytes]);
}
