/** Decompression with a limit, since a few bytes can expand to gigabytes. */
import { join } from './bytes.ts';

/** Input bytes per step: deflate expands a byte at most 1,032-fold, so the limit is barely exceeded. */
const SLICE = 1024;

/**
 * @returns null if the result is longer than `limit` bytes
 * @throws TypeError from the platform if the data is damaged
 */
export async function inflate(
  bytes: Uint8Array<ArrayBuffer>,
  format: 'deflate' | 'gzip',
  limit: number,
): Promise<Uint8Array<ArrayBuffer> | null> {
  let position = 0;
  const source = new ReadableStream<Uint8Array<ArrayBuffer>>({
    pull(controller) {
      if (position >= bytes.length) {
        controller.close();
      } else {
        controller.enqueue(bytes.slice(position, position + SLICE));
        position += SLICE;
      }
    },
  });
  const reader = source.pipeThrough(new DecompressionStream(format)).getReader();
  const pieces: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return join(pieces);
    }
    if (length + value.length > limit) {
      await reader.cancel();
      return null;
    }
    pieces.push(value);
    length += value.length;
  }
}
