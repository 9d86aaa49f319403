/**
 * A FLAC encoder in plain TypeScript, since no browser's WebCodecs has one. It uses fixed predictors of order 0 to 4, partitioned Rice
 * codes and the four stereo modes; files are a few percent larger than libFLAC's, with bit-identical sound. Decoding is left to the browser.
 * Reference: RFC 9639.
 */
import { createMD5 } from 'hash-wasm';
import type { Sound } from '../../core/media.ts';
import { join, viewOf } from '../../formats/bytes.ts';
import { STREAMINFO, VENDOR, flacOf } from './flac_blocks.ts';
import { BitWriter } from './bit_writer.ts';
import { quantised } from './wav.ts';
import { writeVorbisComment } from './vorbis_comment.ts';

/** Frames of sound per block. */
const BLOCK = 4096;
/** Blocks per about ten milliseconds of work, after which it yields. */
const BLOCKS_AT_ONCE = 8;
const MAX_ORDER = 4;
const MAX_PARTITION_ORDER = 6;
/** Rice parameters of five bits; 31 would be an escape. */
const MAX_PARAMETER = 30;
/** FLAC's limit. */
export const MAX_CHANNELS = 8;

const RATE_CODES = new Map([
  [88200, 1],
  [176400, 2],
  [192000, 3],
  [8000, 4],
  [16000, 5],
  [22050, 6],
  [24000, 7],
  [32000, 8],
  [44100, 9],
  [48000, 10],
  [96000, 11],
]);
/** Stereo modes: left and right, left and side, side and right, mid and side. */
const [INDEPENDENT, LEFT_SIDE, SIDE_RIGHT, MIDDLE_SIDE] = [1, 8, 9, 10];

/**
 * Lossless for integers: 16 bits if every sample is exactly such an integer, else 24, whose rounding is 144 dB below full scale.
 * @param sound of at most {@link MAX_CHANNELS} channels
 * @returns the file, and how many samples were clipped
 */
export async function writeFlac(sound: Sound): Promise<{ file: Blob; clipped: number }> {
  const { rate, channels } = sound;
  const bits = channels.every((plane) => plane.every(isSixteenBits)) ? 16 : 24;
  const { samples, clipped } = quantised(sound, bits);
  const count = channels.length;
  const total = channels[0].length;
  const planes = channels.map((_, channel) =>
    Int32Array.from({ length: total }, (__, i) => samples[i * count + channel]),
  );
  const frames: Uint8Array<ArrayBuffer>[] = [];
  for (let start = 0; start < total; start += BLOCK) {
    const block = planes.map((plane) => plane.subarray(start, start + BLOCK));
    frames.push(frameOf(block, start / BLOCK, rate, bits));
    if (frames.length % BLOCKS_AT_ONCE === 0) {
      await otherTasks();
    }
  }
  const info = new Uint8Array(34);
  const view = viewOf(info);
  view.setUint16(0, BLOCK);
  view.setUint16(2, BLOCK);
  const sizes = frames.map(({ length }) => length);
  const smallest = sizes.reduce((a, b) => Math.min(a, b), sizes[0] ?? 0);
  const largest = sizes.reduce((a, b) => Math.max(a, b), 0);
  info.set([smallest >> 16, smallest >> 8, smallest], 4);
  info.set([largest >> 16, largest >> 8, largest], 7);
  // 20 bits of rate, 3 of channels − 1, 5 of bits − 1, 36 of the number of frames.
  view.setBigUint64(10, (BigInt(rate) << 44n) | (BigInt(count - 1) << 41n) | (BigInt(bits - 1) << 36n) | BigInt(total));
  info.set(await md5(samples, bits), 18);
  const blocks = [
    { type: STREAMINFO, data: info },
    { type: 4, data: writeVorbisComment(VENDOR, {}) },
  ];
  return { file: new Blob([flacOf(blocks), ...frames], { type: 'audio/flac' }), clipped };
}

function otherTasks(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve);
  });
}

function isSixteenBits(sample: number): boolean {
  return Number.isInteger(sample * 2 ** 15) && sample < 1;
}

/** Checksum of the interleaved little-endian integers, by which a decoder verifies that nothing was lost. */
async function md5(samples: Int32Array<ArrayBuffer>, bits: number): Promise<Uint8Array> {
  const width = bits / 8;
  const bytes = new Uint8Array(samples.length * width);
  samples.forEach((sample, index) => {
    for (let byte = 0; byte < width; byte++) {
      bytes[index * width + byte] = sample >> (8 * byte);
    }
  });
  return (await createMD5()).init().update(bytes).digest('binary');
}

function frameOf(planes: Int32Array[], number: number, rate: number, bits: number): Uint8Array<ArrayBuffer> {
  const length = planes[0].length;
  const { assignment, subframes } =
    planes.length === 2
      ? paired(planes[0], planes[1], bits)
      : { assignment: planes.length - 1, subframes: planes.map((plane) => subframeOf(plane, bits)) };
  const writer = new BitWriter();
  writer.write(0b11111111111110, 14);
  writer.write(0, 2);
  const isWhole = length === BLOCK;
  writer.write(isWhole ? 12 : 7, 4);
  writer.write(RATE_CODES.get(rate) ?? 0, 4);
  writer.write(assignment, 4);
  writer.write(bits === 16 ? 4 : 6, 3);
  writer.write(0, 1);
  writeNumber(writer, number);
  if (!isWhole) {
    writer.write(length - 1, 16);
  }
  writer.write(crc(writer.bytes(), CRC8, 8), 8);
  subframes.forEach((subframe) => writeSubframe(writer, subframe));
  const body = writer.bytes();
  const sum = crc(body, CRC16, 16);
  return join([body, Uint8Array.of(sum >> 8, sum)]);
}

/** Picks the stereo mode that takes the fewest bits. */
function paired(left: Int32Array, right: Int32Array, bits: number): { assignment: number; subframes: Subframe[] } {
  const side = left.map((value, i) => value - right[i]);
  const middle = left.map((value, i) => (value + right[i]) >> 1);
  // A difference needs one bit more.
  const [l, r, m, s] = [
    subframeOf(left, bits),
    subframeOf(right, bits),
    subframeOf(middle, bits),
    subframeOf(side, bits + 1),
  ];
  const ways = [
    { assignment: INDEPENDENT, subframes: [l, r] },
    { assignment: LEFT_SIDE, subframes: [l, s] },
    { assignment: SIDE_RIGHT, subframes: [s, r] },
    { assignment: MIDDLE_SIDE, subframes: [m, s] },
  ];
  const cost = ({ subframes }: { subframes: Subframe[] }) => subframes.reduce((sum, { size }) => sum + size, 0);
  return ways.reduce((best, way) => (cost(way) < cost(best) ? way : best));
}

/** One encoded signal of a block; `size` in bits. */
type Subframe = { size: number; bits: number; samples: Int32Array } & (
  | { kind: 'constant' | 'verbatim' }
  | { kind: 'fixed'; order: number; residual: Int32Array; partitionOrder: number; parameters: number[] }
);

function subframeOf(samples: Int32Array, bits: number): Subframe {
  const { length } = samples;
  if (samples.every((sample) => sample === samples[0])) {
    return { kind: 'constant', size: 8 + bits, bits, samples };
  }
  let best = { order: 0, residual: samples, sum: magnitude(samples) };
  let residual = samples;
  for (let order = 1; order <= Math.min(MAX_ORDER, length - 1); order++) {
    // Each order's residual is the difference of the one before.
    residual = differences(residual);
    const sum = magnitude(residual);
    if (sum < best.sum) {
      best = { order, residual, sum };
    }
  }
  const coded = riceCoded(best.residual, length, best.order);
  const size = 8 + best.order * bits + coded.size;
  return size < 8 + bits * length
    ? { kind: 'fixed', bits, samples, order: best.order, residual: best.residual, ...coded, size }
    : { kind: 'verbatim', size: 8 + bits * length, bits, samples };
}

function differences(values: Int32Array): Int32Array {
  const result = new Int32Array(values.length - 1);
  for (let i = 0; i < result.length; i++) {
    result[i] = values[i + 1] - values[i];
  }
  return result;
}

/** Estimates the bits of a residual. */
function magnitude(residual: Int32Array): number {
  let sum = 0;
  for (const value of residual) {
    sum += Math.abs(value);
  }
  return sum;
}

/** The cheapest partition of a residual, with a Rice parameter per part. */
function riceCoded(residual: Int32Array, length: number, order: number) {
  let best = { size: Infinity, partitionOrder: 0, parameters: [0] };
  for (let partitionOrder = 0; partitionOrder <= MAX_PARTITION_ORDER; partitionOrder++) {
    const parts = 2 ** partitionOrder;
    if (length % parts !== 0 || length / parts <= order) {
      break;
    }
    const parameters: number[] = [];
    let size = 2 + 4;
    for (let part = 0; part < parts; part++) {
      const { parameter, cost } = cheapest(partOf(residual, length, order, parts, part));
      parameters.push(parameter);
      size += 5 + cost;
    }
    if (size < best.size) {
      best = { size, partitionOrder, parameters };
    }
  }
  return best;
}

/** The first part lacks the predictor's warm-up samples. */
function partOf(residual: Int32Array, length: number, order: number, parts: number, part: number): Int32Array {
  const width = length / parts;
  return residual.subarray(Math.max(0, part * width - order), (part + 1) * width - order);
}

/** The mean determines the parameter to within one. */
function cheapest(part: Int32Array): { parameter: number; cost: number } {
  let sum = 0;
  for (const value of part) {
    sum += folded(value);
  }
  const guess = Math.max(0, Math.floor(Math.log2(Math.max(1, (sum / part.length) * Math.LN2))));
  let best = { parameter: 0, cost: Infinity };
  for (let parameter = guess; parameter <= Math.min(MAX_PARAMETER, guess + 1); parameter++) {
    let cost = part.length * (parameter + 1);
    for (const value of part) {
      cost += folded(value) >>> parameter;
    }
    if (cost < best.cost) {
      best = { parameter, cost };
    }
  }
  return best;
}

/** Zigzag coding: 0, −1, 1, −2 … become 0, 1, 2, 3 …; residuals of 25 bits and order 4 stay below 30 bits. */
function folded(value: number): number {
  return (value << 1) ^ (value >> 31);
}

function writeSubframe(writer: BitWriter, subframe: Subframe): void {
  const { bits, samples } = subframe;
  writer.write(0, 1);
  if (subframe.kind !== 'fixed') {
    const isConstant = subframe.kind === 'constant';
    writer.write(isConstant ? 0 : 1, 6);
    writer.write(0, 1);
    (isConstant ? samples.subarray(0, 1) : samples).forEach((sample) => writer.write(sample, bits));
    return;
  }
  const { order, residual, partitionOrder, parameters } = subframe;
  writer.write(8 + order, 6);
  writer.write(0, 1);
  samples.subarray(0, order).forEach((sample) => writer.write(sample, bits));
  // Rice parameters of five bits.
  writer.write(1, 2);
  writer.write(partitionOrder, 4);
  parameters.forEach((parameter, part) => {
    writer.write(parameter, 5);
    for (const value of partOf(residual, samples.length, order, parameters.length, part)) {
      const code = folded(value);
      writer.unary(code >>> parameter);
      writer.write(code, parameter);
    }
  });
}

/** UTF-8's coding of a number, up to 31 bits. */
function writeNumber(writer: BitWriter, number: number): void {
  if (number < 0x80) {
    writer.write(number, 8);
    return;
  }
  // n bytes hold 5n + 1 bits.
  const length = Math.ceil((32 - Math.clz32(number) - 1) / 5);
  writer.write((0xff << (8 - length)) | (number >>> (6 * (length - 1))), 8);
  for (let byte = length - 2; byte >= 0; byte--) {
    writer.write(0x80 | ((number >>> (6 * byte)) & 0x3f), 8);
  }
}

const CRC8 = crcTable(0x07, 8);
const CRC16 = crcTable(0x8005, 16);

/** Of one byte each, the highest bit first. */
function crcTable(polynomial: number, width: 8 | 16): Uint16Array {
  const top = 1 << (width - 1);
  return Uint16Array.from({ length: 256 }, (_, byte) => {
    let sum = byte << (width - 8);
    for (let bit = 0; bit < 8; bit++) {
      sum = sum & top ? (sum << 1) ^ polynomial : sum << 1;
    }
    return sum;
  });
}

/** Beginning with 0. */
function crc(bytes: Uint8Array, table: Uint16Array, width: 8 | 16): number {
  let sum = 0;
  for (const byte of bytes) {
    sum = ((sum << 8) ^ table[((sum >> (width - 8)) ^ byte) & 0xff]) & (2 ** width - 1);
  }
  return sum;
}
