/**
 * Comments in GIF files: the infotext in one that any program shows, our JSON in another one behind it.
 * Reference: CompuServe, "Graphics Interchange Format, Version 89a" (1990), section 24 (Comment Extension).
 */
import { join, latin1, latin1Bytes, utf8, utf8Bytes } from './bytes.ts';
import { damaged } from './damage.ts';
import { MAX_PARTS, MAX_TEXT, emptyMetadata } from './metadata.ts';
import type { Inscription, Metadata } from './metadata.ts';

const [EXTENSION, PICTURE, END] = [0x21, 0x2c, 0x3b];
const COMMENT = 0xfe;
/** Of a comment that is ours to read. */
const OURS = 'darkroom ';
/** Bytes before the first palette, and what a picture says of itself. */
const [HEADER, PICTURE_HEADER] = [13, 10];
const MOST_OF_A_BLOCK = 255;
/** Frames and what belongs to them are parts, too, and there are more of them than of anything else. */
const MAX_BLOCKS = 20 * MAX_PARTS;

/** Where a part of the file lies. */
interface Part {
  start: number;
  end: number;
  /** Of a comment. */
  text: string | null;
}

/** @throws StudioError `image_unreadable` */
export function readGif(bytes: Uint8Array<ArrayBuffer>): Metadata {
  const metadata = emptyMetadata();
  for (const { text } of partsOf(bytes)) {
    if (text?.startsWith(OURS)) {
      metadata.texts.set('darkroom', text.slice(OURS.length));
    } else if (text !== null) {
      metadata.comment ??= text;
    }
  }
  return metadata;
}

/** Comments that are there already make way. @throws StudioError `image_unreadable` */
export function writeGif(bytes: Uint8Array<ArrayBuffer>, inscription: Inscription | null): Uint8Array<ArrayBuffer> {
  const parts = partsOf(bytes);
  const first = parts.at(0)?.start ?? bytes.length;
  const kept = parts.filter(({ text }) => text === null).map(({ start, end }) => bytes.subarray(start, end));
  const added = inscription ? [comment(inscription.parameters), comment(OURS + inscription.darkroom)] : [];
  // Version 87a has none.
  const signature = latin1Bytes(inscription ? 'GIF89a' : latin1(bytes.subarray(0, 6)));
  return join([signature, bytes.subarray(6, first), ...added, ...kept]);
}

function comment(text: string): Uint8Array<ArrayBuffer> {
  const all = utf8Bytes(text);
  const blocks: Uint8Array<ArrayBuffer>[] = [];
  for (let at = 0; at < all.length; at += MOST_OF_A_BLOCK) {
    const block = all.slice(at, at + MOST_OF_A_BLOCK);
    blocks.push(Uint8Array.of(block.length), block);
  }
  return join([Uint8Array.of(EXTENSION, COMMENT), ...blocks, Uint8Array.of(0)]);
}

/** Everything behind the first palette, the end included. @throws StudioError `image_unreadable` */
function partsOf(bytes: Uint8Array<ArrayBuffer>): Part[] {
  const byte = (at: number): number => {
    if (at >= bytes.length) {
      throw damaged('GIF', 'it ends too early');
    }
    return bytes[at];
  };
  const palette = (flags: number) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  /** @returns where the blocks from here end */
  const blocksEnd = (from: number): number => {
    let at = from;
    while (byte(at) > 0) {
      at += byte(at) + 1;
    }
    return at + 1;
  };
  const parts: Part[] = [];
  let at = HEADER + palette(byte(10));
  while (byte(at) !== END) {
    const start = at;
    let text: string | null = null;
    if (byte(at) === EXTENSION) {
      at = blocksEnd(start + 2);
      text = byte(start + 1) === COMMENT && at - start <= MAX_TEXT ? textOf(bytes, start + 2) : null;
    } else if (byte(at) === PICTURE) {
      // Behind its own palette, if it has one, it says with how many bits its colours begin.
      at = blocksEnd(start + PICTURE_HEADER + palette(byte(start + PICTURE_HEADER - 1)) + 1);
    } else {
      throw damaged('GIF', 'there is something in it that is none of its parts');
    }
    parts.push({ start, end: at, text });
    if (parts.length > MAX_BLOCKS) {
      throw damaged('GIF', 'it has too many parts');
    }
  }
  return [...parts, { start: at, end: at + 1, text: null }];
}

function textOf(bytes: Uint8Array<ArrayBuffer>, from: number): string {
  const blocks: Uint8Array<ArrayBuffer>[] = [];
  for (let at = from; bytes[at] > 0; at += bytes[at] + 1) {
    blocks.push(bytes.subarray(at + 1, at + 1 + bytes[at]));
  }
  return utf8(join(blocks));
}
