/**
 * Writes animated GIFs: one palette for all frames, and of each frame only what changed.
 * Reference: CompuServe, "Graphics Interchange Format, Version 89a" (1990); the Netscape extension says how often it repeats.
 */
import { join, latin1Bytes, viewOf } from '../../formats/bytes.ts';
import { Dither, type Palette } from './palette.ts';

/** Colours beside the transparent one. */
export const MOST_COLOURS = 255;
/** The number of the colour that leaves what was there before. */
const TRANSPARENT = 255;
/** Bits of a colour's number. */
const DEPTH = 8;
const [CLEAR, END] = [1 << DEPTH, (1 << DEPTH) + 1];
const MOST_CODES = 4096;
/** Where the time of a frame lies in what {@link GifWriter.add} writes. */
const DELAY = 4;
const MOST_DELAY = 0xffff;

interface Area {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Frames in order; what it holds of them is their encoded form. */
export class GifWriter {
  readonly #width: number;
  readonly #height: number;
  readonly #dither: Dither;
  readonly #parts: Uint8Array<ArrayBuffer>[];
  readonly #dictionary = new Uint16Array(MOST_CODES << DEPTH);
  #shown: Uint8Array | null = null;

  /** @param palette of at most {@link MOST_COLOURS} colours */
  constructor(width: number, height: number, palette: Palette) {
    this.#width = width;
    this.#height = height;
    this.#dither = new Dither(palette);
    const colours = new Uint8Array(3 << DEPTH);
    colours.set(palette.colours);
    const screen = new Uint8Array(7);
    viewOf(screen).setUint16(0, width, true);
    viewOf(screen).setUint16(2, height, true);
    // A palette for all, eight bits of each channel and of a colour's number.
    screen[4] = 0x80 | (7 << 4) | (DEPTH - 1);
    const forever = [latin1Bytes('\x21\xff\x0bNETSCAPE2.0'), Uint8Array.of(3, 1, 0, 0, 0)];
    this.#parts = [latin1Bytes('GIF89a'), screen, colours, ...forever];
  }

  /** @param data RGBA of the whole picture */
  add(data: Uint8ClampedArray): void {
    const indices = this.#dither.indices(data, this.#width);
    const area = this.#changed(indices);
    const content = new Uint8Array(area.width * area.height);
    for (let y = 0; y < area.height; y++) {
      for (let x = 0; x < area.width; x++) {
        const at = (area.top + y) * this.#width + area.left + x;
        content[y * area.width + x] = this.#shown?.[at] === indices[at] ? TRANSPARENT : indices[at];
      }
    }
    this.#shown = indices;
    // The frame stays where it is when the next one comes, and has a transparent colour.
    const control = Uint8Array.of(0x21, 0xf9, 4, (1 << 2) | 1, 0, 0, TRANSPARENT, 0);
    const place = new Uint8Array(10);
    place[0] = 0x2c;
    [area.left, area.top, area.width, area.height].forEach((value, i) =>
      viewOf(place).setUint16(1 + 2 * i, value, true),
    );
    this.#parts.push(join([control, place, Uint8Array.of(DEPTH), this.#packed(content)]));
  }

  /** How long the last frame is shown, in hundredths of a second. */
  hold(hundredths: number): void {
    const last = this.#parts.at(-1);
    if (last) {
      viewOf(last).setUint16(DELAY, Math.min(MOST_DELAY, hundredths), true);
    }
  }

  finish(): Blob {
    return new Blob([...this.#parts, Uint8Array.of(0x3b)], { type: 'image/gif' });
  }

  /** The smallest rectangle around what is other than before; a frame needs at least one pixel. */
  #changed(indices: Uint8Array): Area {
    const [width, height] = [this.#width, this.#height];
    const before = this.#shown;
    if (!before) {
      return { left: 0, top: 0, width, height };
    }
    let [left, right, top, bottom] = [width, -1, height, -1];
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        if (indices[at] !== before[at]) {
          left = Math.min(left, x);
          right = Math.max(right, x);
          top = Math.min(top, y);
          bottom = y;
        }
      }
    }
    return right < 0
      ? { left: 0, top: 0, width: 1, height: 1 }
      : { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  /** LZW with codes of growing length, in blocks of at most 255 bytes. */
  #packed(content: Uint8Array): Uint8Array<ArrayBuffer> {
    const blocks = new Blocks();
    // The code of each known sequence, by the code of all but its last colour and that colour; 0 = unknown.
    const dictionary = this.#dictionary.fill(0);
    let bits = DEPTH + 1;
    let next = END + 1;
    blocks.code(CLEAR, bits);
    let sequence = content[0];
    for (let i = 1; i < content.length; i++) {
      const key = (sequence << DEPTH) | content[i];
      const known = dictionary[key];
      if (known !== 0) {
        sequence = known;
        continue;
      }
      blocks.code(sequence, bits);
      if (next === MOST_CODES) {
        blocks.code(CLEAR, bits);
        dictionary.fill(0);
        next = END + 1;
        bits = DEPTH + 1;
      } else {
        // A reader learns each sequence one code later.
        bits += next >= 1 << bits ? 1 : 0;
        dictionary[key] = next++;
      }
      sequence = content[i];
    }
    blocks.code(sequence, bits);
    blocks.code(END, bits);
    return blocks.finish();
  }
}

/** Bits from the lowest to the highest, in blocks that begin with their lengths. */
class Blocks {
  #bytes = new Uint8Array(1 << 16);
  #length = 0;
  /** Where the current block began. */
  #start = 0;
  #pending = 0;
  #pendingBits = 0;

  constructor() {
    this.#begin();
  }

  code(code: number, bits: number): void {
    this.#pending |= code << this.#pendingBits;
    this.#pendingBits += bits;
    while (this.#pendingBits >= 8) {
      this.#byte(this.#pending & 0xff);
      this.#pending >>>= 8;
      this.#pendingBits -= 8;
    }
  }

  finish(): Uint8Array<ArrayBuffer> {
    if (this.#pendingBits > 0) {
      this.#byte(this.#pending);
    }
    this.#close();
    // An empty block is the end; one that was only begun is that already.
    return this.#bytes.slice(0, this.#length);
  }

  #byte(byte: number): void {
    if (this.#length - this.#start === 256) {
      this.#close();
    }
    this.#put(byte);
  }

  #begin(): void {
    this.#start = this.#length;
    this.#put(0);
  }

  #close(): void {
    this.#bytes[this.#start] = this.#length - this.#start - 1;
    this.#begin();
  }

  #put(byte: number): void {
    if (this.#length === this.#bytes.length) {
      const longer = new Uint8Array(2 * this.#length);
      longer.set(this.#bytes);
      this.#bytes = longer;
    }
    this.#bytes[this.#length++] = byte;
  }
}
