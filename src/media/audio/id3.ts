/**
 * ID3v2 tags: at the beginning of MP3 files, and in the `id3 ` chunk of WAV files. Reference: id3.org, "ID3 tag version 2.4.0" (main
 * structure, native frames) and 2.3.0. Unsynchronised, encrypted and compressed frames are left out.
 */
import { join, latin1, latin1Bytes, startsWith, utf8Bytes, viewOf } from '../../formats/bytes.ts';
import { MAX_PARTS, MAX_TEXT } from '../../formats/metadata.ts';

const SIGNATURE = latin1Bytes('ID3');
const HEADER = 10;
const UTF8 = 3;

/** Bytes of the tag at the beginning of these, header included; 0 where there is none. */
export function id3Length(bytes: Uint8Array): number {
  return startsWith(bytes, SIGNATURE) && bytes.length >= HEADER ? HEADER + synchsafe(bytes, 6) : 0;
}

/** Texts by name: of user-defined frames (TXXX) the person's own name, of comments `comment`, of others the frame's id. */
export function readId3(bytes: Uint8Array<ArrayBuffer>): Map<string, string> {
  const texts = new Map<string, string>();
  const version = bytes[3];
  const end = Math.min(bytes.length, id3Length(bytes));
  const isReadable = (version === 3 || version === 4) && bytes[5] === 0;
  for (let position = HEADER, parts = 0; isReadable && position + HEADER <= end && parts < MAX_PARTS; parts++) {
    const id = latin1(bytes.subarray(position, position + 4));
    const length = version === 4 ? synchsafe(bytes, position + 4) : viewOf(bytes).getUint32(position + 4);
    const content = bytes.subarray(position + HEADER, position + HEADER + length);
    if (!/^[A-Z0-9]{4}$/.test(id) || content.length < length) {
      // Padding, or a broken tag: what came before it counts.
      break;
    }
    // The second byte of flags says how a frame is packed.
    if (bytes[position + 9] === 0 && length <= MAX_TEXT) {
      const [name, text] = textOf(id, content);
      if (text !== null && !texts.has(name)) {
        texts.set(name, text);
      }
    }
    position += HEADER + length;
  }
  return texts;
}

/**
 * A tag of version 2.4 in UTF-8.
 * @param own texts by names of our own; `comment` and `software` have frames of their own
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

function textOf(id: string, content: Uint8Array<ArrayBuffer>): [name: string, text: string | null] {
  const encoding = content[0];
  if (id === 'TXXX') {
    const [description, text] = strings(content.subarray(1), encoding);
    return [(description ?? '').toLowerCase(), text ?? null];
  }
  if (id === 'COMM') {
    return ['comment', strings(content.subarray(4), encoding)[1] ?? null];
  }
  return [id, id.startsWith('T') ? (strings(content.subarray(1), encoding)[0] ?? null) : null];
}

/** Strings that end in zeros. */
function strings(bytes: Uint8Array<ArrayBuffer>, encoding: number): string[] {
  const isWide = encoding === 1 || encoding === 2;
  const text =
    encoding === 0
      ? latin1(bytes)
      : encoding === UTF8
        ? new TextDecoder().decode(bytes)
        : // A mark before the first string says the order of all of them.
          new TextDecoder(encoding === 2 || (bytes[0] === 0xfe && bytes[1] === 0xff) ? 'utf-16be' : 'utf-16le').decode(
            bytes,
          );
  return text.split('\0').map((part) => (isWide ? part.replace(/^\ufeff/, '') : part));
}

/** Four bytes of seven bits. */
function synchsafe(bytes: Uint8Array, at: number): number {
  return [0, 1, 2, 3].reduce((sum, index) => sum * 128 + (bytes[at + index] & 0x7f), 0);
}

function synchsafeBytes(value: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from([21, 14, 7, 0], (shift) => (value >>> shift) & 0x7f);
}
