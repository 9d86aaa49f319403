/**
 * The texts of an EXIF block (a small TIFF file): image tools keep their settings in UserComment and a few others.
 * Reference: Exif 2.32 (CIPA DC-008), sections 4.5 and 4.6; the big-endian UTF-16 comment is how piexif writes and reads it.
 */
import { join, latin1, latin1Bytes, startsWith, utf8, utf8Bytes, viewOf } from './bytes.ts';
import { damaged } from './damage.ts';
import { MAX_PARTS, MAX_TEXT } from './metadata.ts';

export const ExifTag = {
  imageDescription: 0x010e,
  make: 0x010f,
  model: 0x0110,
  software: 0x0131,
  makerNote: 0x927c,
  userComment: 0x9286,
} as const;

const EXIF_IFD = 0x8769;
/** Bytes per value of each type, from type 1. */
const TYPE_BYTES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4];
const [BYTE, ASCII, LONG, UNDEFINED] = [1, 2, 4, 7];
/** Precedes the TIFF header in JPEG files, and in some WebP files. */
export const EXIF_PREFIX = latin1Bytes('Exif\0\0');

/**
 * Reads every text value of the first directory and of the EXIF directory.
 * @throws StudioError `image_unreadable`
 */
export function readExif(block: Uint8Array<ArrayBuffer>): Map<number, string> {
  const tiff = startsWith(block, EXIF_PREFIX) ? block.subarray(EXIF_PREFIX.length) : block;
  const view = viewOf(tiff);
  const order = latin1(tiff.subarray(0, 2));
  if (tiff.length < 8 || (order !== 'II' && order !== 'MM')) {
    throw damaged('picture', 'its EXIF block has no header');
  }
  const little = order === 'II';
  const texts = new Map<number, string>();
  const directories = [view.getUint32(4, little)];
  let entries = 0;
  // At most two: the first, and the EXIF directory that it points to.
  for (let n = 0; n < directories.length && n < 2; n++) {
    const start = directories[n];
    if (start + 2 > tiff.length) {
      throw damaged('picture', 'its EXIF block points beyond its end');
    }
    const count = view.getUint16(start, little);
    entries += count;
    if (entries > MAX_PARTS || start + 2 + 12 * count > tiff.length) {
      throw damaged('picture', `its EXIF block claims ${count} entries in one place`);
    }
    for (let i = 0; i < count; i++) {
      const at = start + 2 + 12 * i;
      const tag = view.getUint16(at, little);
      const type = view.getUint16(at + 2, little);
      const length = view.getUint32(at + 4, little) * (TYPE_BYTES[type] ?? 0);
      if (tag === EXIF_IFD && type === LONG) {
        directories.push(view.getUint32(at + 8, little));
      } else if ([BYTE, ASCII, UNDEFINED].includes(type) && length <= MAX_TEXT && !texts.has(tag)) {
        const from = length <= 4 ? at + 8 : view.getUint32(at + 8, little);
        if (from + length > tiff.length) {
          throw damaged('picture', 'a value of its EXIF block lies beyond its end');
        }
        const value = tiff.subarray(from, from + length);
        texts.set(tag, tag === ExifTag.userComment ? comment(value, little) : utf8(value).replace(/\0+$/, ''));
      }
    }
  }
  return texts;
}

/** Software and UserComment, big-endian as piexif writes them. */
export function writeExif(software: string, userComment: string): Uint8Array<ArrayBuffer> {
  const program = utf8Bytes(`${software.replaceAll('\0', '')}\0`);
  const text = new Uint8Array(2 * userComment.length);
  const characters = viewOf(text);
  for (let i = 0; i < userComment.length; i++) {
    characters.setUint16(2 * i, userComment.charCodeAt(i));
  }
  const value = join([latin1Bytes('UNICODE\0'), text]);

  // Header 8, first directory 2 + 2 · 12 + 4, EXIF directory 2 + 12 + 4, then the two values, the second on an even place.
  const [first, exif] = [8, 38];
  const programAt = exif + 18;
  const valueAt = programAt + program.length + (program.length % 2);
  const block = new Uint8Array(valueAt + value.length);
  const view = viewOf(block);
  block.set(latin1Bytes('MM\0*'));
  view.setUint32(4, first);
  const entry = (at: number, tag: number, type: number, count: number, where: number) => {
    view.setUint16(at, tag);
    view.setUint16(at + 2, type);
    view.setUint32(at + 4, count);
    view.setUint32(at + 8, where);
  };
  view.setUint16(first, 2);
  entry(first + 2, ExifTag.software, ASCII, program.length, programAt);
  entry(first + 14, EXIF_IFD, LONG, 1, exif);
  view.setUint16(exif, 1);
  entry(exif + 2, ExifTag.userComment, UNDEFINED, value.length, valueAt);
  block.set(program, programAt);
  block.set(value, valueAt);
  return block;
}

/** A comment starts with 8 bytes naming its encoding; some tools omit them. */
function comment(value: Uint8Array, little: boolean): string {
  const encoding = latin1(value.subarray(0, 8));
  const text = value.subarray(8);
  switch (encoding) {
    case 'UNICODE\0':
      return utf16(text, little);
    case 'ASCII\0\0\0':
    case '\0\0\0\0\0\0\0\0':
      return utf8(text).replace(/\0+$/, '');
    default:
      return utf8(value).replace(/\0+$/, '');
  }
}

/**
 * The byte order is unknown unless there is a byte order mark. Settings are mostly ASCII, so the position of the zero bytes tells; in a
 * tie the block's order decides. Some programs claim UTF-16 and write UTF-8.
 */
function utf16(bytes: Uint8Array, little: boolean): string {
  const mark = bytes.length > 1 ? 256 * bytes[0] + bytes[1] : 0;
  let bigger = mark === 0xfeff ? Infinity : mark === 0xfffe ? -Infinity : 0;
  for (let i = 0; i + 1 < bytes.length; i += 2) {
    const [first, second] = [bytes[i], bytes[i + 1]];
    bigger += (first === 0 && second < 0x80 ? 1 : 0) - (second === 0 && first < 0x80 ? 1 : 0);
  }
  if (bigger === 0 && bytes.length >= 8 && /^[\x20-\x7e]{4}/.test(latin1(bytes.subarray(0, 4)))) {
    return utf8(bytes).replace(/\0+$/, '');
  }
  const isLittle = bigger === 0 ? little : bigger < 0;
  return new TextDecoder(isLittle ? 'utf-16le' : 'utf-16be').decode(bytes).replace(/\0+$/, '');
}
