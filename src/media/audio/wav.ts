/**
 * Reads and writes WAV files in plain TypeScript: the same in Node, in workers and in every browser.
 * Results are recorded as 32-bit float, the models' own type: nothing is rounded, and peaks above full scale survive to be turned down
 * later, whereas integers would clip them for good. Browsers, ffmpeg and every audio editor read it. For anything that reads only integers
 * (many hardware players, Python's `wave`), "save as" offers 16 bits and reports clipping.
 *
 * Reference: as for `riff.ts`; Microsoft, "Multiple channel audio data and WAVE files" (2001) for WAVE_FORMAT_EXTENSIBLE.
 */
import { StudioError } from '../../core/errors.ts';
import type { Sound } from '../../core/media.ts';
import { viewOf } from '../../formats/bytes.ts';
import { isWav } from '../../formats/signatures.ts';
import { chunksOf, damagedSound, wavOf } from './riff.ts';

const [PCM, FLOAT, EXTENSIBLE] = [1, 3, 0xfffe];
const MAX_CHANNELS = 64;
const MAX_RATE = 1_536_000;

/**
 * The sound as integers of the given bits, rounded to the nearest.
 * @param bits 16 or 24
 * @returns samples interleaved by frame, and how many were clipped
 */
export function quantised({ channels }: Sound, bits: 16 | 24): { samples: Int32Array<ArrayBuffer>; clipped: number } {
  const scale = 2 ** (bits - 1);
  const samples = new Int32Array(channels.length * channels[0].length);
  let clipped = 0;
  channels.forEach((plane, channel) => {
    for (let frame = 0; frame < plane.length; frame++) {
      const value = Math.round(plane[frame] * scale);
      const inside = Math.max(-scale, Math.min(scale - 1, value));
      // Full scale itself is one step beyond an integer's range, which is inaudible.
      clipped += value > scale || value < -scale ? 1 : 0;
      samples[frame * channels.length + channel] = inside;
    }
  });
  return { samples, clipped };
}

/** The sentence about clipping by {@link quantised}, if any. */
export function clippingNotice(clipped: number, sound: Sound): string[] {
  if (clipped === 0) {
    return [];
  }
  const [first] = sound.channels;
  const percent = (100 * clipped) / (first.length * sound.channels.length);
  const share = percent < 0.01 ? 'less than 0.01 %' : `${percent.toPrecision(2)} %`;
  return [
    `${share} of the samples were louder than this format can hold, and were clipped; the WAV in 32 bits has them whole.`,
  ];
}

/** @throws StudioError `media_unreadable` if it is too long for a WAV */
export function writeFloatWav(sound: Sound): Blob {
  const { channels } = sound;
  const frames = channels[0].length;
  const data = new Uint8Array(4 * frames * channels.length);
  const view = viewOf(data);
  channels.forEach((plane, channel) => {
    for (let frame = 0; frame < frames; frame++) {
      view.setFloat32(4 * (frame * channels.length + channel), plane[frame], true);
    }
  });
  const fact = new Uint8Array(4);
  viewOf(fact).setUint32(0, frames, true);
  // Readers of formats other than PCM expect the size of the (empty) extension, and the number of frames.
  return wavBlob([
    { id: 'fmt ', data: formatOf(sound, FLOAT, 32) },
    { id: 'fact', data: fact },
    { id: 'data', data },
  ]);
}

/** @returns the file, and how many samples were clipped */
export function writeIntegerWav(sound: Sound): { file: Blob; clipped: number } {
  const { samples, clipped } = quantised(sound, 16);
  const data = new Uint8Array(2 * samples.length);
  const view = viewOf(data);
  samples.forEach((sample, index) => view.setInt16(2 * index, sample, true));
  const file = wavBlob([
    { id: 'fmt ', data: formatOf(sound, PCM, 16) },
    { id: 'data', data },
  ]);
  return { file, clipped };
}

/**
 * @param bytes of a file that {@link isWav} knows
 * @returns null for samples that are neither integers nor floats (ADPCM, A-law), which are left to other decoders
 * @throws StudioError `media_unreadable`
 */
export function readWav(bytes: Uint8Array<ArrayBuffer>): Sound | null {
  const chunks = isWav(bytes) ? chunksOf(bytes) : [];
  const format = chunks.find(({ id }) => id === 'fmt ')?.data;
  const data = chunks.find(({ id }) => id === 'data')?.data;
  if (!format || format.length < 16 || !data) {
    throw damagedSound(data ? 'it does not say how its samples are written' : 'there are no samples in it');
  }
  const view = viewOf(format);
  const tag = view.getUint16(0, true);
  // The real format is the start of a GUID.
  const kind = tag === EXTENSIBLE && format.length >= 26 ? view.getUint16(24, true) : tag;
  const count = view.getUint16(2, true);
  const rate = view.getUint32(4, true);
  const bits = view.getUint16(14, true);
  if (count < 1 || count > MAX_CHANNELS || rate < 1 || rate > MAX_RATE) {
    throw damagedSound(`it says that it has ${count} channels of ${rate} samples per second`);
  }
  const read = reader(kind, bits);
  if (!read) {
    return null;
  }
  const width = Math.ceil(bits / 8);
  const frames = Math.floor(data.length / (width * count));
  const samples = viewOf(data);
  const channels = Array.from({ length: count }, (_, channel) => {
    const plane = new Float32Array(frames);
    for (let frame = 0; frame < frames; frame++) {
      plane[frame] = read(samples, (frame * count + channel) * width);
    }
    return plane;
  });
  return { rate, channels };
}

function reader(kind: number, bits: number): ((view: DataView, at: number) => number) | null {
  if (kind === FLOAT) {
    return bits === 32
      ? (view, at) => view.getFloat32(at, true)
      : bits === 64
        ? (view, at) => view.getFloat64(at, true)
        : null;
  }
  if (kind !== PCM) {
    return null;
  }
  const readers: Record<number, (view: DataView, at: number) => number> = {
    // The only unsigned one.
    8: (view, at) => (view.getUint8(at) - 128) / 2 ** 7,
    16: (view, at) => view.getInt16(at, true) / 2 ** 15,
    24: (view, at) => ((view.getInt8(at + 2) << 16) | view.getUint16(at, true)) / 2 ** 23,
    32: (view, at) => view.getInt32(at, true) / 2 ** 31,
  };
  return readers[bits] ?? null;
}

/** `fmt `: plain for mono and stereo, with a place for each channel where there are more. */
function formatOf({ rate, channels: { length: count } }: Sound, kind: number, bits: number): Uint8Array<ArrayBuffer> {
  const isExtensible = count > 2;
  const bytes = new Uint8Array(isExtensible ? 40 : kind === PCM ? 16 : 18);
  const view = viewOf(bytes);
  const frame = (count * bits) / 8;
  view.setUint16(0, isExtensible ? EXTENSIBLE : kind, true);
  view.setUint16(2, count, true);
  view.setUint32(4, rate, true);
  view.setUint32(8, rate * frame, true);
  view.setUint16(12, frame, true);
  view.setUint16(14, bits, true);
  if (isExtensible) {
    view.setUint16(16, 22, true);
    view.setUint16(18, bits, true);
    // Speaker positions are unknown.
    view.setUint32(20, 0, true);
    bytes.set([kind, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71], 24);
  }
  return bytes;
}

function wavBlob(chunks: { id: string; data: Uint8Array<ArrayBuffer> }[]): Blob {
  return new Blob(wavOf(chunks), { type: 'audio/wav' });
}

/** @throws StudioError `result_invalid` for a sound that cannot be stored */
export function checkSamples({ rate, channels }: Sound): void {
  if (!Number.isInteger(rate) || rate < 1 || rate > MAX_RATE || channels.length > MAX_CHANNELS) {
    throw new StudioError(
      'result_invalid',
      `The sound has ${channels.length} channels of ${rate} samples per second, which no file can hold.`,
    );
  }
  if (channels.some((plane) => plane.some((sample) => !Number.isFinite(sample)))) {
    throw new StudioError(
      'result_invalid',
      'The sound holds samples that are no numbers; try again with another seed, or in full precision.',
    );
  }
}
