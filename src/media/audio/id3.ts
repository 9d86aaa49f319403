/**
 * Writes ID3v2 tags, for the `id3 ` chunk of WAV files. `src/formats/media/id3.ts` reads anybody's.
 * Reference: id3.org, "ID3 tag version 2.4.0", main structure and native frames.
 */
import { join, latin1Bytes, utf8Bytes } from '../../formats/bytes.ts';

const SIGNATURE = latin1Bytes('ID3');
const UTF8 = 3;

/**
 * A tag of version 2.4 in UTF-8.
 * @param own texts by custom names; `comment` and `software` have frames of their own
 */
export function writeId3(own: Readonly<Record<string, string>>): Uint8Array<ArrayBuffer> {
  const frames = Object.entries(own).map(([name, value]) => {
    // A zero ends a text.
    const text = utf8Bytes(value.replaceAll('\0', '\ufffd'));
    if (name === 'comment') {
      // Of no language, without a description.
      return frame('COMM', join([Uint8Array.of(UTF8), latin1Bytes('XXX\0'), text]));
    }
    return name === 'software'
      ? frame('TSSE', join([Uint8Array.of(UTF8), text]))
      : frame('TXXX', join([Uint8Array.of(UTF8), utf8Bytes(`${name}\0`), text]));
  });
  const content = join(frames);
  return join([SIGNATURE, Uint8Array.of(4, 0, 0), synchsafeBytes(content.length), content]);
}

function frame(id: string, content: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return join([latin1Bytes(id), synchsafeBytes(content.length), new Uint8Array(2), content]);
}

/** Four bytes of seven bits. */
function synchsafeBytes(value: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from([21, 14, 7, 0], (shift) => (value >>> shift) & 0x7f);
}
