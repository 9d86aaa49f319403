/**
 * Vorbis comments, the tags of FLAC and Ogg files. Reference: Xiph.Org, "Ogg Vorbis I format specification: comment field and header
 * specification"; RFC 9639, section 8.6.
 */
import { join, utf8, utf8Bytes, viewOf } from '../../formats/bytes.ts';
import { MAX_PARTS, MAX_TEXT } from '../../formats/metadata.ts';

/** Texts by name in lower case, the first of each; what is cut off is left out. */
export function readVorbisComment(bytes: Uint8Array): Map<string, string> {
  const texts = new Map<string, string>();
  const view = viewOf(bytes);
  let position = 0;
  const next = (): Uint8Array | null => {
    if (position + 4 > bytes.length) {
      return null;
    }
    const length = view.getUint32(position, true);
    const start = position + 4;
    position = start + length;
    return position <= bytes.length ? bytes.subarray(start, position) : null;
  };
  if (!next() || position + 4 > bytes.length) {
    return texts;
  }
  const count = Math.min(MAX_PARTS, view.getUint32(position, true));
  position += 4;
  for (let index = 0; index < count; index++) {
    const entry = next();
    if (!entry) {
      break;
    }
    const text = entry.length <= MAX_TEXT ? utf8(entry) : '';
    const equals = text.indexOf('=');
    const name = text.slice(0, equals).toLowerCase();
    if (equals > 0 && !texts.has(name)) {
      texts.set(name, text.slice(equals + 1));
    }
  }
  return texts;
}

export function writeVorbisComment(vendor: string, texts: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  const entries = Object.entries(texts).map(([name, text]) => utf8Bytes(`${name.toUpperCase()}=${text}`));
  const counted = (bytes: Uint8Array) => [uint32(bytes.length), bytes];
  return join([...counted(utf8Bytes(vendor)), uint32(entries.length), ...entries.flatMap(counted)]);
}

function uint32(value: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value, true);
  return bytes;
}
