/**
 * Writes Vorbis comments, the tags of FLAC and Ogg files. `src/formats/media/vorbis_comment.ts` reads anybody's.
 * Reference: Xiph.Org, "Ogg Vorbis I format specification: comment field"; RFC 9639, section 8.6.
 */
import { join, utf8Bytes, viewOf } from '../../formats/bytes.ts';

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
