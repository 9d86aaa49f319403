/**
 * PNG files with the very bytes of a picture. A canvas keeps colours multiplied by their opacity, so what it writes has lost those of faint pixels.
 * Reference: PNG (Third Edition), https://www.w3.org/TR/png-3/, sections 5, 9 and 11.2.
 */
import type { PixelImage } from '../core/media.ts';
import { latin1Bytes, viewOf } from './bytes.ts';
import { crc32 } from './crc32.ts';
import { PNG_SIGNATURE } from './signatures.ts';

type Bytes = Uint8Array<ArrayBuffer>;

/** @param deflate gives a zlib stream */
export async function losslessPng(
  { width, height, data }: PixelImage,
  deflate: (bytes: Bytes) => Bytes | Promise<Bytes>,
): Promise<Blob> {
  const length = 4 * width;
  const rows = new Uint8Array((length + 1) * height);
  for (let y = 0; y < height; y++) {
    const at = y * (length + 1);
    // Every row is filtered by the one before it.
    rows[at] = 2;
    for (let x = 0; x < length; x++) {
      rows[at + 1 + x] = data[y * length + x] - (y > 0 ? data[(y - 1) * length + x] : 0);
    }
  }
  const header = new Uint8Array(13);
  const view = viewOf(header);
  view.setUint32(0, width);
  view.setUint32(4, height);
  // Eight bits a channel, RGBA.
  header.set([8, 6], 8);
  const parts = [
    PNG_SIGNATURE,
    chunk('IHDR', header),
    chunk('IDAT', await deflate(rows)),
    chunk('IEND', new Uint8Array()),
  ];
  return new Blob(parts, { type: 'image/png' });
}

/** The stream that {@link losslessPng} wants, as browsers make it. */
export async function deflated(bytes: Bytes): Promise<Bytes> {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(type: string, data: Bytes): Bytes {
  const bytes = new Uint8Array(12 + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, data.length);
  bytes.set(latin1Bytes(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}
