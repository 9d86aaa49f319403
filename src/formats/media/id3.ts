/**
 * ID3v2, the tags of MP3 files: texts of one's own (TXXX) and comments (COMM).
 * Reference: https://id3.org/id3v2.3.0 and https://id3.org/id3v2.4.0-structure.
 */
import { latin1, utf8, viewOf } from '../bytes.ts';
import { damaged } from '../damage.ts';
import { MAX_PARTS, MAX_TEXT } from '../metadata.ts';
import { ID3_HEADER, syncsafe } from '../signatures.ts';

const UNSYNCHRONISED = 0x80;

/** @param tag all of it. @throws StudioError `image_unreadable` */
export function readId3(tag: Uint8Array<ArrayBuffer>): Map<string, string> {
  const texts = new Map<string, string>();
  const [, , , version, , flags] = tag;
  const body = tag.subarray(ID3_HEADER);
  const bytes = flags & UNSYNCHRONISED && version < 4 ? synchronised(body) : body;
  const header = version === 2 ? 6 : 10;
  let at = flags & 0x40 && version > 2 ? extendedHeader(bytes, version) : 0;
  for (let n = 0; n < MAX_PARTS && at + header <= bytes.length && bytes[at] !== 0; n++) {
    const id = latin1(bytes.subarray(at, at + (version === 2 ? 3 : 4)));
    const length = frameLength(bytes, at, version);
    if (length > bytes.length - at - header) {
      throw damaged('sound', `a tag claims ${length} bytes where ${bytes.length - at - header} are left`);
    }
    const format = version === 4 ? bytes[at + 9] : 0;
    const raw = bytes.subarray(at + header + (format & 1 ? 4 : 0), at + header + length);
    // These tools write no compressed or encrypted frames.
    if (['TXXX', 'TXX', 'COMM', 'COM'].includes(id) && (format & 0x0c) === 0 && raw.length <= 2 * MAX_TEXT) {
      const [name, text] = described(format & 2 ? synchronised(raw) : raw, id.startsWith('COM'));
      const key = id.startsWith('COM') ? 'comment' : name.toLowerCase();
      if (!texts.has(key)) {
        texts.set(key, text);
      }
    }
    at += header + length;
  }
  return texts;
}

function frameLength(bytes: Uint8Array, at: number, version: number): number {
  if (version === 2) {
    return 65536 * bytes[at + 3] + 256 * bytes[at + 4] + bytes[at + 5];
  }
  return version === 4 ? syncsafe(bytes, at + 4) : viewOf(bytes).getUint32(at + 4);
}

function extendedHeader(bytes: Uint8Array, version: number): number {
  return bytes.length < 4 ? bytes.length : version === 4 ? syncsafe(bytes, 0) : 4 + viewOf(bytes).getUint32(0);
}

/** Encoding, a language where it is a comment, description, zero, text. */
function described(bytes: Uint8Array, isComment: boolean): [name: string, text: string] {
  const encoding = bytes.at(0) ?? 0;
  const content = bytes.subarray(isComment ? 4 : 1);
  const isWide = encoding === 1 || encoding === 2;
  let end = 0;
  while (end < content.length && (content[end] !== 0 || (isWide && content[end + 1] !== 0))) {
    end += isWide ? 2 : 1;
  }
  const decode = (part: Uint8Array) => decoded(part, encoding).replace(/\0+$/, '');
  return [decode(content.subarray(0, end)), decode(content.subarray(end + (isWide ? 2 : 1)))];
}

function decoded(bytes: Uint8Array, encoding: number): string {
  if (encoding === 3) {
    return utf8(bytes);
  }
  if (encoding === 0) {
    return latin1(bytes);
  }
  const isLittle = encoding === 1 && !(bytes[0] === 0xfe && bytes[1] === 0xff);
  return new TextDecoder(isLittle ? 'utf-16le' : 'utf-16be').decode(bytes);
}

/** Seven bits of each byte. */
/** Without the zeros that keep players from taking a tag for sound. */
function synchronised(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes.filter((byte, i) => byte !== 0 || i === 0 || bytes[i - 1] !== 0xff));
}
