/**
 * EXIF and XMP in WebP files. A picture without metadata is a "simple" file, which becomes an "extended" one to hold it.
 * Reference: RFC 9649, sections 2.3 to 2.7.
 */
import { join, latin1, latin1Bytes, utf8, utf8Bytes, viewOf } from './bytes.ts';
import { damaged } from './damage.ts';
import { readExif, writeExif } from './exif.ts';
import { MAX_PARTS, MAX_TEXT, emptyMetadata } from './metadata.ts';
import type { Inscription, Metadata } from './metadata.ts';
import { writeXmp } from './xmp.ts';

/** Flags of the extended header. */
export const ALPHA = 0x10;
export const ANIMATION = 0x02;
const EXIF = 0x08;
const XMP = 0x04;
/** Frames are parts, too, and there are more of them than of anything else. */
const MAX_FRAMES = 20_000;

export interface Chunk {
  type: string;
  data: Uint8Array<ArrayBuffer>;
}

/** @throws StudioError `image_unreadable` */
export function readWebp(bytes: Uint8Array<ArrayBuffer>): Metadata {
  const metadata = emptyMetadata();
  for (const { type, data } of chunksOf(bytes)) {
    if (type === 'EXIF') {
      metadata.exif = readExif(data);
    } else if (type === 'XMP ' && data.length <= MAX_TEXT) {
      metadata.xmp ??= utf8(data);
    }
  }
  return metadata;
}

/** @throws StudioError `image_unreadable` */
export function writeWebp(bytes: Uint8Array<ArrayBuffer>, inscription: Inscription | null): Uint8Array<ArrayBuffer> {
  const chunks = [...chunksOf(bytes)];
  const kept = chunks.filter(({ type }) => !['VP8X', 'EXIF', 'XMP '].includes(type));
  const before = chunks.find(({ type }) => type === 'VP8X');
  const header = before ? before.data.slice() : extendedHeader(kept);
  header[0] = (header[0] & ~(EXIF | XMP)) | (inscription ? EXIF | XMP : 0);
  const added = inscription
    ? [
        { type: 'EXIF', data: writeExif(inscription.software, inscription.parameters) },
        { type: 'XMP ', data: utf8Bytes(writeXmp(inscription)) },
      ]
    : [];
  // A simple file without new metadata stays simple.
  const first = before || inscription ? [{ type: 'VP8X', data: header }] : [];
  return webpOf([...first, ...kept, ...added]);
}

/** A file of these chunks. */
export function webpOf(chunks: Chunk[]): Uint8Array<ArrayBuffer> {
  const content = join(chunks.map(chunkBytes));
  const start = new Uint8Array(12);
  start.set(latin1Bytes('RIFF'));
  viewOf(start).setUint32(4, 4 + content.length, true);
  start.set(latin1Bytes('WEBP'), 8);
  return join([start, content]);
}

/** @throws StudioError `image_unreadable` */
export function* chunksOf(bytes: Uint8Array<ArrayBuffer>): Generator<Chunk> {
  const view = viewOf(bytes);
  const end = 8 + view.getUint32(4, true);
  if (end > bytes.length) {
    throw damaged('WebP', `it claims ${end} bytes and has ${bytes.length}`);
  }
  let [parts, frames] = [0, 0];
  for (let position = 12; position < end;) {
    if (position + 8 > end) {
      throw damaged('WebP', 'it ends too early');
    }
    const length = view.getUint32(position + 4, true);
    if (length > end - position - 8) {
      throw damaged('WebP', `a chunk claims ${length} bytes where ${end - position - 8} are left`);
    }
    const type = latin1(bytes.subarray(position, position + 4));
    if (type === 'ANMF' ? ++frames > MAX_FRAMES : ++parts > MAX_PARTS) {
      throw damaged('WebP', `it has more than ${type === 'ANMF' ? MAX_FRAMES : MAX_PARTS} chunks`);
    }
    const data = bytes.subarray(position + 8, position + 8 + length);
    if (type === 'VP8X' && length !== 10) {
      throw damaged('WebP', 'its header has the wrong length');
    }
    yield { type, data };
    // Chunks begin on even places.
    position += 8 + length + (length % 2);
  }
}

/** The header a simple file lacks: flags, and the size from its only chunk. */
function extendedHeader(chunks: Chunk[]): Uint8Array<ArrayBuffer> {
  const header = new Uint8Array(10);
  const [{ type, data }] = chunks.length > 0 ? chunks : [{ type: '', data: new Uint8Array(0) }];
  const view = viewOf(data);
  let [width, height] = [0, 0];
  if (type === 'VP8 ' && data.length >= 10) {
    width = view.getUint16(6, true) & 0x3fff;
    height = view.getUint16(8, true) & 0x3fff;
  } else if (type === 'VP8L' && data.length >= 5 && data[0] === 0x2f) {
    const bits = view.getUint32(1, true);
    width = (bits & 0x3fff) + 1;
    height = ((bits >>> 14) & 0x3fff) + 1;
    header[0] |= (bits >>> 28) & 1 ? ALPHA : 0;
  }
  if (width === 0 || height === 0) {
    throw damaged('WebP', 'it does not begin with a picture');
  }
  header.set(sideBytes(width, height), 4);
  return header;
}

/** How headers give the sides of a picture. */
export function sideBytes(width: number, height: number): number[] {
  return [width - 1, height - 1].flatMap((side) => [side & 0xff, (side >>> 8) & 0xff, side >>> 16]);
}

export function chunkBytes({ type, data }: Chunk): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(8 + data.length + (data.length % 2));
  bytes.set(latin1Bytes(type));
  viewOf(bytes).setUint32(4, data.length, true);
  bytes.set(data, 8);
  return bytes;
}
