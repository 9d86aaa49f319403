/** Moving pictures made of videos: what is written is read back by this test's own readers. Browsers decode them in `e2e/journeys/video.spec.ts`. */
import { describe, expect, test } from 'vitest';
import { viewOf } from '../src/formats/bytes.ts';
import { inscribe, readMetadata } from '../src/formats/container.ts';
import { chunksOf } from '../src/formats/webp.ts';
import { GifWriter, MOST_COLOURS } from '../src/media/video/gif.ts';
import { ColourCensus, Dither } from '../src/media/video/palette.ts';
import { WebpAnimation } from '../src/media/video/webp_animation.ts';

type Bytes = Uint8Array<ArrayBuffer>;

const [WIDTH, HEIGHT] = [90, 70];

function picture(colour: (x: number, y: number) => number[]): Uint8ClampedArray {
  return Uint8ClampedArray.from({ length: 4 * WIDTH * HEIGHT }, (_, i) => {
    const pixel = i >> 2;
    return [...colour(pixel % WIDTH, Math.floor(pixel / WIDTH)), 255][i & 3];
  });
}

/** Many colours, with a square that moves over them. */
function moving(frame: number): Uint8ClampedArray {
  return picture((x, y) =>
    x >= 10 * frame && x < 10 * frame + 8 && y >= 20 && y < 28 ? [250, 20, 30] : [2.8 * x, 3.6 * y, 255 - x - y],
  );
}

function gifOf(frames: Uint8ClampedArray[], times: number[]): Promise<Bytes> {
  const census = new ColourCensus();
  frames.forEach((data) => census.add(data));
  const writer = new GifWriter(WIDTH, HEIGHT, census.palette(MOST_COLOURS));
  frames.forEach((data, i) => {
    writer.add(data);
    writer.hold(times[i]);
  });
  return writer.finish().bytes();
}

interface Read {
  repeats: number | null;
  frames: { delay: number; pixels: number[][]; area: number }[];
}

/** As the specification reads; refuses whatever this repository does not write. */
function readGif(bytes: Bytes): Read {
  const view = viewOf(bytes);
  const text = (at: number, length: number) => String.fromCharCode(...bytes.subarray(at, at + length));
  expect(text(0, 6)).toBe('GIF89a');
  expect([view.getUint16(6, true), view.getUint16(8, true), bytes[10]]).toEqual([WIDTH, HEIGHT, 0xf7]);
  const colour = (index: number) => [...bytes.subarray(13 + 3 * index, 16 + 3 * index)];
  const screen: number[][] = Array.from({ length: WIDTH * HEIGHT }, () => [0, 0, 0]);
  const read: Read = { repeats: null, frames: [] };
  let at = 13 + 3 * 256;
  let [delay, clear] = [0, 256];
  const blocks = () => {
    const all: number[] = [];
    for (; bytes[at] > 0; at += bytes[at] + 1) {
      all.push(...bytes.subarray(at + 1, at + 1 + bytes[at]));
    }
    at += 1;
    return all;
  };
  while (bytes[at] !== 0x3b) {
    if (bytes[at] === 0x21 && bytes[at + 1] === 0xf9) {
      expect([bytes[at + 2], bytes[at + 3], bytes[at + 7]]).toEqual([4, 5, 0]);
      delay = view.getUint16(at + 4, true);
      clear = bytes[at + 6];
      at += 8;
    } else if (bytes[at] === 0x21) {
      expect(text(at + 3, 11)).toBe('NETSCAPE2.0');
      at += 14;
      const [one, low, high] = blocks();
      expect(one).toBe(1);
      read.repeats = low + 256 * high;
    } else {
      expect(bytes[at]).toBe(0x2c);
      const [left, top, width, height] = [1, 3, 5, 7].map((offset) => view.getUint16(at + offset, true));
      expect([bytes[at + 9], bytes[at + 10]]).toEqual([0, 8]);
      at += 11;
      const indices = unpacked(blocks());
      expect(indices).toHaveLength(width * height);
      indices.forEach((index, i) => {
        if (index !== clear) {
          screen[(top + Math.floor(i / width)) * WIDTH + left + (i % width)] = colour(index);
        }
      });
      read.frames.push({ delay, pixels: [...screen], area: width * height });
    }
  }
  expect(at).toBe(bytes.length - 1);
  return read;
}

/** LZW of eight bits. */
function unpacked(bytes: number[]): number[] {
  const pixels: number[] = [];
  let table: number[][] = [];
  let [bits, buffer, held] = [9, 0, 0];
  let before: number[] | null = null;
  const begin = () => {
    table = Array.from({ length: 258 }, (_, i) => (i < 256 ? [i] : []));
    [bits, before] = [9, null];
  };
  begin();
  for (const byte of bytes) {
    buffer |= byte << held;
    held += 8;
    if (held < bits) {
      continue;
    }
    const code = buffer & ((1 << bits) - 1);
    buffer >>>= bits;
    held -= bits;
    if (code === 257) {
      return pixels;
    }
    if (code === 256) {
      begin();
      continue;
    }
    expect(code).toBeLessThanOrEqual(table.length);
    const sequence: number[] = table[code] ?? [...(before ?? []), (before ?? [])[0]];
    pixels.push(...sequence);
    if (before && table.length < 4096) {
      table.push([...before, sequence[0]]);
      bits = Math.min(12, table.length === 1 << bits ? bits + 1 : bits);
    }
    before = sequence;
  }
  throw new Error('the frame does not end');
}

/** Of the means of squares of 8×8 pixels, which is what the eye sees of a dithered picture. */
function greatestDifference(pixels: number[][], data: Uint8ClampedArray): number {
  let greatest = 0;
  for (let top = 0; top + 8 <= HEIGHT; top += 8) {
    for (let left = 0; left + 8 <= WIDTH; left += 8) {
      for (const channel of [0, 1, 2]) {
        let sum = 0;
        for (let i = 0; i < 64; i++) {
          const at = (top + (i >> 3)) * WIDTH + left + (i & 7);
          sum += pixels[at][channel] - data[4 * at + channel];
        }
        greatest = Math.max(greatest, Math.abs(sum / 64));
      }
    }
  }
  return greatest;
}

describe('a GIF', () => {
  test('has every frame with its time, and of later ones only what changed', async () => {
    const given = [0, 1, 2, 2].map(moving);
    const { frames, repeats } = readGif(await gifOf(given, [6, 7, 6, 500]));
    expect(repeats).toBe(0);
    expect(frames.map(({ delay }) => delay)).toEqual([6, 7, 6, 500]);
    frames.forEach(({ pixels }, i) => expect(greatestDifference(pixels, given[i])).toBeLessThan(6));
    const [whole, second, , same] = frames.map(({ area }) => area);
    expect(whole).toBe(WIDTH * HEIGHT);
    expect(second).toBeLessThanOrEqual(18 * 8);
    expect(same).toBe(1);
  });

  test('keeps few colours as they are, and its code table begins anew when it is full', async () => {
    const colours = Array.from({ length: 216 }, (_, i) => [i % 6, Math.floor(i / 6) % 6, Math.floor(i / 36)]);
    let state = 1;
    const noise = picture(() => {
      state = (state * 48271) % 0x7fffffff;
      return colours[(state >> 8) % colours.length].map((level) => 51 * level);
    });
    const { frames } = readGif(await gifOf([noise], [10]));
    expect(frames[0].pixels.flat()).toEqual([...noise].filter((_, i) => i % 4 < 3));
  });

  test('a grey slope stays one, without bands', () => {
    const slope = picture((x) => [x / 2, x / 2, x / 2]);
    const census = new ColourCensus();
    census.add(slope);
    const palette = census.palette(8);
    expect(palette.colours.length).toBeLessThanOrEqual(24);
    const indices = new Dither(palette).indices(slope, WIDTH);
    const pixels = [...indices].map((index) => [...palette.colours.subarray(3 * index, 3 * index + 3)]);
    expect(greatestDifference(pixels, slope)).toBeLessThan(2.5);
  });
});

describe('an animated WebP', () => {
  /** A pixel without loss. */
  const still = new Uint8Array(Buffer.from('UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==', 'base64'));

  const settings = { darkroom: '{"a":1}', parameters: 'a fox', software: 'Darkroom', isComposite: false };

  test('has every frame as it was encoded, with its time, and takes settings', async () => {
    const writer = new WebpAnimation(1, 1);
    for (const time of [63, 62, 70_000]) {
      writer.add(still);
      writer.hold(time);
    }
    const plain = writer.finish();
    const inscribed = await inscribe(plain, settings);
    for (const [file, flags] of [
      [plain, 0x12],
      [inscribed, 0x1e],
    ] as const) {
      const chunks = [...chunksOf(await file.bytes())];
      expect(chunks.slice(0, 5).map(({ type }) => type)).toEqual(['VP8X', 'ANIM', 'ANMF', 'ANMF', 'ANMF']);
      expect([...chunks[0].data]).toEqual([flags, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
      expect([...chunks[1].data]).toEqual([0, 0, 0, 0, 0, 0]);
      const frames = chunks.filter(({ type }) => type === 'ANMF').map(({ data }) => data);
      expect(frames.map((data) => data[12] + 256 * data[13] + 65_536 * data[14])).toEqual([63, 62, 70_000]);
      frames.forEach((data) => {
        expect([...data.subarray(0, 12), data[15]]).toEqual([...Array.from({ length: 12 }, () => 0), 2]);
        expect(data.subarray(16)).toEqual(still.subarray(12));
      });
    }
    expect((await readMetadata(await inscribed.bytes()))?.xmp).toContain(settings.darkroom);
  });
});

describe('the settings in a GIF', () => {
  const settings = {
    darkroom: `{"a":"${'x'.repeat(700)}"}`,
    parameters: 'ein Fuchs, größer',
    software: 'Darkroom',
    isComposite: false,
  };

  test('are comments before its frames, which stay as they were, and are read back', async () => {
    const frames = [0, 1, 2].map(moving);
    const plain = await gifOf(frames, [6, 7, 6]);
    const inscribed = await (await inscribe(new Blob([plain]), settings)).bytes();
    const metadata = await readMetadata(inscribed);
    expect(metadata?.texts.get('darkroom')).toBe(settings.darkroom);
    expect(metadata?.comment).toBe(settings.parameters);
    // Frames begin where the comments end.
    const bare = (bytes: Bytes) =>
      Buffer.from(bytes)
        .subarray(13 + 3 * 256)
        .toString('latin1');
    expect(bare(inscribed).endsWith(bare(plain))).toBe(true);
    expect(bare(inscribed).length - bare(plain).length).toBeGreaterThan(700);
    // Written once more they are replaced, and gone where there are none.
    expect(await (await inscribe(new Blob([inscribed]), settings)).bytes()).toEqual(inscribed);
    expect(await (await inscribe(new Blob([inscribed]), null)).bytes()).toEqual(plain);
  });

  test.each([
    ['it ends too early', (bytes: Bytes) => bytes.slice(0, -20)],
    ['there is something in it', (bytes: Bytes) => bytes.with(13 + 3 * 256, 0x55)],
  ])('cannot be read because %s, which is said', async (what, damage) => {
    const damaged = damage(await gifOf([moving(0)], [6]));
    await expect(inscribe(new Blob([damaged]), settings)).rejects.toThrow(
      `What is written in this GIF file cannot be read, because ${what}`,
    );
  });

  test('a comment of another program is one', async () => {
    const plain = await gifOf([moving(0)], [6]);
    const theirs = Buffer.concat([plain.subarray(0, -1), Buffer.from('\x21\xfe\x05hello\0;', 'latin1')]);
    const metadata = await readMetadata(new Uint8Array(theirs));
    expect([metadata?.comment, metadata?.texts.size]).toEqual(['hello', 0]);
  });
});
