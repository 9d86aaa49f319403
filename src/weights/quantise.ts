/**
 * Weights in blocks of 32 at 8 or 4 bits: computing them, converting a weight file into a stored file of blocks, and reading it.
 * `graphs/quantisation.ts` defines the blocks' layout.
 *
 * Symmetric, without zero points. Of the weights of `tiny-sd15` 4 bits leave a relative error (L2) of 8.2 % with the scale
 * searched as below, 8.6 % without the search, 9.7 % with the greatest magnitude at 7 and not at −8; zero points would give 7.8 %
 * for one bit in 37 more, which is not worth a third tensor per layer. 8 bits leave 0.5 % without any search.
 *
 * The stored file is a safetensors file in the order of the original. For each quantised tensor `x.weight` [N, K] (or
 * [N, K, 1, 1]) it has two, and not `x.weight` itself:
 *
 * - `x.weight.q8` or `x.weight.q4`: U8 [N, K/32, 32 or 16], the blocks;
 * - `x.weight.scales`: F16 [N, K/32].
 *
 * Its `__metadata__` says `darkroom_quantised: "q8"` or `"q4"`; single tensors of a q4 file may still have 8 bits.
 */
import { StudioError } from '../core/errors.ts';
import type { WeightVariant } from '../core/model.ts';
import type { Bits, StoredTensor } from '../graphs/graph.ts';
import { BLOCK, quantisedBits } from '../graphs/quantisation.ts';
import { mmditKind, mmditNames } from './mmdit_layout.ts';
import { isOriginalLayout, originalNames } from './original_layout.ts';
import { BYTES, convert, fromHalf, toHalf, type FloatType } from './conversion.ts';
import { requireUnpacked } from './packed_formats.ts';
import type { PieceTransform, TransformMaker, TransformMakers } from './library/piece_transform.ts';
import { parseSafetensorsHeader, writeSafetensorsHeader } from './safetensors.ts';
import { isBesideWeights, scaleOf } from './scaled_weights.ts';
import type { NewTensor, SafetensorsHeader } from './safetensors.ts';

const METADATA_KEY = 'darkroom_quantised';
const SCALES = '.scales';
const LONGEST_PIECE = 16 * 2 ** 20;

/**
 * Shares of the scale that puts the greatest magnitude of a block at −2^(bits − 1), of which the best is taken. A block's greatest
 * element may be clipped a little so that the others lie closer; at 8 bits that gains nothing worth the time.
 */
const SHARES: Record<Bits, readonly number[]> = { 8: [1], 4: [1, 0.95, 0.9, 0.85, 0.8, 1.05, 1.1] };

/** Of f16. */
const GREATEST_SCALE = 65504;

export interface QuantisedBlocks {
  /** values · bits / 8 bytes. */
  data: Uint8Array<ArrayBuffer>;
  /** One f16 per block, as bits. */
  scales: Uint16Array<ArrayBuffer>;
}

/**
 * Equal blocks give equal bytes at any position. A block with infinity, NaN or values beyond any f16 scale gets the scale NaN, so it
 * cannot pass for a good one.
 * @param values whole blocks of 32
 */
export function quantise(values: Float32Array, bits: Bits): QuantisedBlocks {
  const blocks = values.length / BLOCK;
  const data = new Uint8Array((values.length * bits) / 8);
  const scales = new Uint16Array(blocks);
  const half = 2 ** (bits - 1);
  const shares = SHARES[bits];
  for (let block = 0; block < blocks; block++) {
    const start = block * BLOCK;
    let extreme = 0;
    let poison = 0;
    for (let i = start; i < start + BLOCK; i++) {
      const value = values[i];
      poison += value * 0;
      if (Math.abs(value) > Math.abs(extreme)) {
        extreme = value;
      }
    }
    if (poison !== 0 || Math.abs(extreme) > half * GREATEST_SCALE) {
      scales[block] = toHalf(NaN);
      continue;
    }
    let best = 0;
    let least = Infinity;
    for (const share of shares) {
      const candidate = toHalf((extreme / -half) * share);
      const scale = fromHalf(candidate);
      if (scale === 0) {
        continue;
      }
      const inverse = 1 / scale;
      let error = 0;
      // A candidate is dropped as soon as it is worse; a single one needs no comparison.
      for (let i = start; shares.length > 1 && i < start + BLOCK && error < least; i++) {
        const difference = values[i] - scale * (level(values[i], inverse, half) - half);
        error += difference * difference;
      }
      if (error < least) {
        [best, least] = [candidate, error];
      }
    }
    scales[block] = best;
    const inverse = best === 0 ? 0 : 1 / fromHalf(best);
    for (let i = start; i < start + BLOCK; i++) {
      const q = level(values[i], inverse, half);
      if (bits === 8) {
        data[i] = q;
      } else {
        data[i >> 1] |= i & 1 ? q << 4 : q;
      }
    }
  }
  return { data, scales };
}

/** The level 0 … 2 · half − 1 nearest to value · inverse + half. */
function level(value: number, inverse: number, half: number): number {
  const q = (value * inverse + half + 0.5) | 0;
  return q < 0 ? 0 : q >= 2 * half ? 2 * half - 1 : q;
}

/**
 * What {@link quantise} kept.
 * @param data whole blocks
 * @param scales one for each block
 */
export function dequantise(data: Uint8Array, scales: Float32Array, bits: Bits): Float32Array<ArrayBuffer> {
  const values = new Float32Array((data.length * 8) / bits);
  const half = 2 ** (bits - 1);
  for (let i = 0; i < values.length; i++) {
    const q = bits === 8 ? data[i] : (data[i >> 1] >> (i & 1 ? 4 : 0)) & 15;
    values[i] = scales[Math.floor(i / BLOCK)] * (q - half);
  }
  return values;
}

/** Whole elements of a float type as numbers. */
export function asFloats(bytes: Uint8Array, dtype: FloatType): Float32Array<ArrayBuffer> {
  return new Float32Array(convert(bytes, dtype, 'F32').buffer);
}

/** For each variant, how the library quantises a weight file as it arrives. */
export const transformMakers: TransformMakers = { q8: quantisingTransform('q8'), q4: quantisingTransform('q4') };

/** A range of the original file and what it becomes: nothing, itself, or blocks. */
type Section = { begin: number; end: number } & (
  { kind: 'dropped' } | { kind: 'kept' } | { kind: 'quantised'; dtype: FloatType; bits: Bits }
);

/** The part of a section within one piece; offsets are relative to the piece. */
interface Fragment {
  section: Section;
  begin: number;
  end: number;
}

/** A range of what is stored of a piece. */
interface StoredRange {
  piece: number;
  begin: number;
  end: number;
}

/** @param longestPiece in bytes of the original file; at least a block, of 128 */
export function quantisingTransform(
  variant: Exclude<WeightVariant, 'full'>,
  longestPiece = LONGEST_PIECE,
): TransformMaker {
  return (path, header, fileSize) => {
    if (!path.endsWith('.safetensors')) {
      return null;
    }
    const { tensors, metadata } = parseSafetensorsHeader(header.subarray(8), fileSize, path);
    // What has scales of its own is in 8 bits as it is.
    if (metadata.has(METADATA_KEY) || [...tensors.values()].some((tensor) => scaleOf(tensors, tensor) !== null)) {
      return null;
    }
    const sections: Section[] = [{ kind: 'dropped', begin: 0, end: header.length }];
    // In a file of the original layout the kind of a layer shows in the name that it has in diffusers' modules.
    const meaningsOf = layoutOf(tensors);
    const stored: [name: string, tensor: NewTensor][] = [];
    for (const { name, dtype, shape, offset, length } of tensors.values()) {
      const range = { begin: offset, end: offset + length };
      const meant = meaningsOf(name);
      const bits = isReadable(dtype) && meant.length === 1 ? quantisedBits(meant[0].name, shape, variant) : null;
      if (bits === null) {
        stored.push([name, { dtype, shape, length }]);
        sections.push({ kind: 'kept', ...range });
        continue;
      }
      const [n, k] = [shape[0], shape[1] / BLOCK];
      stored.push([`${name}.q${bits}`, { dtype: 'U8', shape: [n, k, (BLOCK * bits) / 8] }]);
      stored.push([`${name}${SCALES}`, { dtype: 'F16', shape: [n, k] }]);
      sections.push({ kind: 'quantised', ...range, dtype: dtype as FloatType, bits });
    }
    if (!sections.some(({ kind }) => kind === 'quantised')) {
      return null;
    }
    if (new Set(stored.map(([name]) => name)).size < stored.length) {
      throw new StudioError(
        'checkpoint_unsupported',
        `The file ${path} already has tensors with the names that quantised ones get; keep this checkpoint as it is.`,
      );
    }
    return cut(
      sections,
      writeSafetensorsHeader(stored, { ...Object.fromEntries(metadata), [METADATA_KEY]: variant }),
      fileSize,
      longestPiece,
    );
  };
}

/** What the file's tensors are called in diffusers' modules; several names for one that holds several layers. */
function layoutOf(tensors: SafetensorsHeader['tensors']): (name: string) => readonly { name: string }[] {
  const has = (name: string) => tensors.has(name);
  if (isOriginalLayout(has)) {
    return originalNames(tensors.keys());
  }
  const mmdit = mmditKind(has);
  return mmdit ? mmditNames(mmdit, tensors.keys()) : (name) => [{ name }];
}

/** @param header of the file that is put together */
function cut(
  sections: Section[],
  header: Uint8Array<ArrayBuffer>,
  fileSize: number,
  longestPiece: number,
): PieceTransform {
  const cuts: number[] = [];
  const pieces: Fragment[][] = [];
  const layout: PieceTransform['layout'] = [{ bytes: header }];
  const scales: StoredRange[] = [];
  const append = (range: StoredRange) => {
    const last = layout.at(-1);
    if (last && 'piece' in last && last.piece === range.piece && last.end === range.begin) {
      last.end = range.end;
    } else if (range.end > range.begin) {
      layout.push({ ...range });
    }
  };

  let first = 0;
  for (let start = 0; start < fileSize; start = cuts.at(-1) as number) {
    const piece = cuts.length;
    const fragments: Fragment[] = [];
    let end = Math.min(start + longestPiece, fileSize);
    let stored = 0;
    for (; first < sections.length && sections[first].begin < end; first++) {
      const section = sections[first];
      const begin = Math.max(section.begin, start);
      if (section.kind === 'quantised' && section.end > end) {
        // Down to a whole block.
        end = begin + wholeBlocks(end - begin, section.dtype);
        if (end === begin) {
          break;
        }
      }
      const until = Math.min(section.end, end);
      fragments.push({ section, begin: begin - start, end: until - start });
      const { data, scales: scaleBytes } = storedBytes(section, until - begin);
      append({ piece, begin: stored, end: stored + data });
      scales.push({ piece, begin: stored + data, end: stored + data + scaleBytes });
      stored += data + scaleBytes;
      if (until < section.end) {
        break;
      }
      // A tensor's scales follow all of its data.
      scales.splice(0).forEach(append);
    }
    cuts.push(end);
    pieces.push(fragments);
  }
  return {
    cuts,
    layout,
    apply(n, bytes) {
      const fragments = pieces[n];
      const lengths = fragments.map(({ section, begin, end }) => storedBytes(section, end - begin));
      const result = new Uint8Array(lengths.reduce((sum, { data, scales }) => sum + data + scales, 0));
      let at = 0;
      fragments.forEach(({ section, begin, end }, index) => {
        const { data, scales } = lengths[index];
        if (section.kind === 'kept') {
          result.set(bytes.subarray(begin, end), at);
        } else if (section.kind === 'quantised') {
          const blocks = quantise(asFloats(bytes.subarray(begin, end), section.dtype), section.bits);
          result.set(blocks.data, at);
          result.set(new Uint8Array(blocks.scales.buffer), at + data);
        }
        at += data + scales;
      });
      return result;
    },
  };
}

/** The bytes of as many whole blocks as fit. */
function wholeBlocks(bytes: number, dtype: FloatType): number {
  return bytes - (bytes % (BLOCK * BYTES[dtype]));
}

/** How many bytes are stored for `length` bytes of a section. */
function storedBytes(section: Section, length: number): { data: number; scales: number } {
  if (section.kind !== 'quantised') {
    return { data: section.kind === 'kept' ? length : 0, scales: 0 };
  }
  const elements = length / BYTES[section.dtype];
  return { data: (elements * section.bits) / 8, scales: (elements / BLOCK) * BYTES.F16 };
}

/**
 * The weights of a file, those that it keeps quantised under their original names.
 * @throws StudioError `checkpoint_damaged` where what it says of quantised tensors does not hold
 */
export function storedTensors({ tensors, metadata }: SafetensorsHeader, file: string): StoredTensor[] {
  const variant = metadata.get(METADATA_KEY);
  const refuse = (what: string): never => {
    throw new StudioError('checkpoint_damaged', `The file ${file} is damaged: ${what}; add this checkpoint again.`);
  };
  if (variant !== undefined && variant !== 'q8' && variant !== 'q4') {
    refuse('it does not say how its weights are quantised');
  }
  const stored: StoredTensor[] = [];
  const scalesUsed = new Set<string>();
  for (const tensor of tensors.values()) {
    const [, name, digit] = (variant !== undefined && /^(.*\.weight)\.q([48])$/.exec(tensor.name)) || [];
    if (name === undefined) {
      continue;
    }
    const bits = Number(digit) as Bits;
    const scales = tensors.get(`${name}${SCALES}`);
    const [n, k, width] = tensor.shape;
    if (tensors.has(name) || scalesUsed.has(`${name}${SCALES}`)) {
      return refuse(`it has the weight "${name}" twice`);
    }
    if (tensor.dtype !== 'U8' || tensor.shape.length !== 3 || n * k === 0 || width !== (BLOCK * bits) / 8) {
      return refuse(`the blocks of "${name}" have the wrong type or shape`);
    }
    if (!scales || !isReadable(scales.dtype) || scales.shape.join() !== [n, k].join()) {
      return refuse(`the scales of "${name}" are missing or have the wrong type or shape`);
    }
    scalesUsed.add(scales.name);
    stored.push({
      name,
      dtype: scales.dtype,
      shape: [n, k * BLOCK],
      file,
      offset: tensor.offset,
      length: tensor.length,
      quantised: { bits, dataOffset: tensor.offset, scalesOffset: scales.offset },
    });
  }
  for (const { name, dtype, shape, offset, length } of tensors.values()) {
    // Integer tensors (position_ids) are bookkeeping of the reference and not weights.
    if (isReadable(dtype) && !scalesUsed.has(name) && !isBesideWeights(name)) {
      const scale = scaleOf(tensors, { name, dtype, shape, offset, length });
      const own = { name, dtype, shape, file, offset, length };
      const times = scale !== null && typeof scale !== 'string' && { ...scale, dtype: scale.dtype as FloatType, file };
      stored.push(times ? { ...own, scale: times } : own);
    }
  }
  return stored;
}

/**
 * @param isWeight whether this tensor is one that a network needs
 * @throws StudioError `checkpoint_unsupported` where a weight is of a type that cannot be read, by its name
 */
export function requireReadable(
  { tensors, metadata }: SafetensorsHeader,
  file: string,
  isWeight: (name: string) => boolean,
): void {
  const refuse = (what: string): never => {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} has its weights ${what}, which Darkroom cannot run; get this checkpoint in F16, BF16 or F32.`,
    );
  };
  requireUnpacked(tensors.keys(), file);
  const own = [...tensors.values()].filter(
    ({ name }) => !metadata.has(METADATA_KEY) && !isBesideWeights(name) && isWeight(name),
  );
  const unreadable = own.find(({ dtype }) => !isReadable(dtype));
  if (unreadable) {
    refuse(`stored as ${unreadable.dtype} (such as "${unreadable.name}")`);
  }
  const [scale] = own.map((tensor) => scaleOf(tensors, tensor)).filter((each) => typeof each === 'string');
  if (scale !== undefined) {
    refuse(`in 8 bits with scales of their own ("${scale}")`);
  }
}

/** Whether numbers of this type can be weights here. */
export function isReadable(dtype: string): dtype is FloatType {
  return Object.hasOwn(BYTES, dtype);
}
