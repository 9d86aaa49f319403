/** Picture files with embedded texts, in the shapes that tools write. The pixels were written by Pillow. */
import { readFileSync } from 'node:fs';
import { join, latin1Bytes, utf8Bytes, viewOf } from '../src/formats/bytes.ts';
import { crc32 } from '../src/formats/crc32.ts';

export type Bytes = Uint8Array<ArrayBuffer>;

/** A file of test/goldens/formats. */
export function golden(name: string): Bytes {
  return new Uint8Array(readFileSync(new URL(`goldens/formats/${name}`, import.meta.url)));
}

export function chunk(type: string, data: Uint8Array): Bytes {
  const bytes = join([new Uint8Array(4), latin1Bytes(type), data, new Uint8Array(4)]);
  viewOf(bytes).setUint32(0, data.length);
  viewOf(bytes).setUint32(bytes.length - 4, crc32(bytes.subarray(4, -4)));
  return bytes;
}

/** The plain picture with these chunks after its header. */
export function png(...chunks: Uint8Array[]): Bytes {
  const plain = golden('plain.png');
  const afterHeader = 8 + 25;
  return join([plain.subarray(0, afterHeader), ...chunks, plain.subarray(afterHeader)]);
}

export function tEXt(keyword: string, text: string): Bytes {
  return chunk('tEXt', latin1Bytes(`${keyword}\0${text}`));
}

export function iTXt(keyword: string, text: string): Bytes {
  return chunk('iTXt', join([latin1Bytes(`${keyword}\0\0\0\0\0`), utf8Bytes(text)]));
}

/** A PNG with these texts, as tools write them: ASCII as tEXt, other text as iTXt. */
export function pngOf(texts: Record<string, unknown>): Bytes {
  return png(
    ...Object.entries(texts).map(([keyword, value]) => {
      const text = typeof value === 'string' ? value : JSON.stringify(value);
      return [...text].every((character) => character < '\x80') ? tEXt(keyword, text) : iTXt(keyword, text);
    }),
  );
}

export function segment(marker: number, data: Uint8Array): Bytes {
  const bytes = join([Uint8Array.of(0xff, marker, 0, 0), data]);
  viewOf(bytes).setUint16(2, data.length + 2);
  return bytes;
}

/** The plain JPEG with these segments after its start. */
export function jpegOf(...segments: Uint8Array[]): Bytes {
  const plain = golden('plain.jpg');
  return join([plain.subarray(0, 2), ...segments, plain.subarray(2)]);
}

/** A little-endian EXIF block with ASCII values in its first directory, as ComfyUI's WebP has them. */
export function exifOf(values: Record<number, string>): Bytes {
  const entries = Object.entries(values).map(([tag, text]) => ({ tag: Number(tag), text: utf8Bytes(`${text}\0`) }));
  const start = 8 + 2 + 12 * entries.length + 4;
  const block = join([latin1Bytes('II*\0'), new Uint8Array(start - 4), ...entries.map(({ text }) => text)]);
  const view = viewOf(block);
  view.setUint32(4, 8, true);
  view.setUint16(8, entries.length, true);
  let at = start;
  entries.forEach(({ tag, text }, i) => {
    view.setUint16(10 + 12 * i, tag, true);
    view.setUint16(12 + 12 * i, 2, true);
    view.setUint32(14 + 12 * i, text.length, true);
    view.setUint32(18 + 12 * i, at, true);
    at += text.length;
  });
  return block;
}

export function riff(...chunks: [type: string, data: Uint8Array][]): Bytes {
  const content = join(
    chunks.map(([type, data]) => {
      const head = new Uint8Array(8);
      head.set(latin1Bytes(type));
      viewOf(head).setUint32(4, data.length, true);
      return join([head, data, new Uint8Array(data.length % 2)]);
    }),
  );
  const head = join([latin1Bytes('RIFF\0\0\0\0WEBP')]);
  viewOf(head).setUint32(4, 4 + content.length, true);
  return join([head, content]);
}
