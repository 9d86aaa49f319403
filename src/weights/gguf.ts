/**
 * The GGUF container: magic, version, metadata, the tensors' names, shapes, types and places, then their bytes, each tensor at a multiple
 * of the alignment. Files come from anywhere, so nothing of a header is taken that does not hold; of the rest nothing is read.
 * Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { StudioError } from '../core/errors.ts';
import type { BlockType, StoredTensor, StoredType } from '../graphs/graph.ts';
import { BYTES } from './conversion.ts';
import { BLOCKS } from './gguf_blocks.ts';

/** GGML's types by their numbers. */
const TYPES: Record<number, string> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  6: 'Q5_0',
  7: 'Q5_1',
  8: 'Q8_0',
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  12: 'Q4_K',
  13: 'Q5_K',
  14: 'Q6_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  30: 'BF16',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
  40: 'NVFP4',
};

const MAGIC = 'GGUF';
const VERSIONS = [2, 3];
const ALIGNMENT = 32;
/** A header with a vocabulary has some megabytes. */
const FIRST_READ = 2 ** 18;
const LONGEST_HEADER = 2 ** 28;
const MOST_TENSORS = 20_000;
const MOST_DIMENSIONS = 8;

export type GgufValue = string | number | boolean | GgufValue[];

export interface GgufTensor {
  name: string;
  /** As GGML calls it; one that is newer than this code is `type 99`. */
  type: string;
  /** As torch has it, the rows first. */
  shape: number[];
  /** First byte, counted from the start of the file. */
  offset: number;
}

export interface GgufHeader {
  metadata: ReadonlyMap<string, GgufValue>;
  tensors: GgufTensor[];
  fileSize: number;
}

/** What the metadata call what the file holds, such as `flux`; null where they do not say. */
export function architectureOf({ metadata }: GgufHeader): string | null {
  const architecture = metadata.get('general.architecture');
  return typeof architecture === 'string' ? architecture : null;
}

/**
 * Reads only the header of a file.
 * @param file its name, for the message
 * @throws StudioError `checkpoint_damaged` | `checkpoint_unsupported` (a version that is not known)
 */
export async function readGgufHeader(blob: Blob, file: string): Promise<GgufHeader> {
  // How long it is stands nowhere: more of the file is read until all of it is there.
  for (let length = FIRST_READ; ; length *= 4) {
    const bytes = new Uint8Array(await blob.slice(0, Math.min(length, LONGEST_HEADER)).arrayBuffer());
    try {
      return parseGgufHeader(bytes, blob.size, file);
    } catch (error) {
      if (!(error instanceof OutOfBytes)) {
        throw error;
      }
      if (bytes.length >= blob.size) {
        throw damaged(file, `it ends after ${blob.size} bytes, in the middle of its list of tensors`);
      }
      if (bytes.length >= LONGEST_HEADER) {
        throw damaged(file, `its list of tensors is longer than ${LONGEST_HEADER} bytes`);
      }
    }
  }
}

/** That what is read of a file does not hold its whole header. */
class OutOfBytes extends Error {}

/**
 * @param bytes the beginning of the file
 * @throws OutOfBytes where the header goes on behind them
 */
function parseGgufHeader(bytes: Uint8Array, fileSize: number, file: string): GgufHeader {
  const reader = new HeaderReader(bytes, file);
  if (reader.ascii(4) !== MAGIC) {
    throw damaged(file, 'it does not begin as a GGUF file does');
  }
  const version = reader.uint32();
  if (!VERSIONS.includes(version)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} is of ${version > 0xffff ? 'the big-endian kind of GGUF' : `version ${version} of GGUF`}, and Darkroom reads versions 2 and 3; get a newer file of this model.`,
    );
  }
  const [tensorCount, valueCount] = [reader.uint64(), reader.uint64()];
  if (tensorCount > MOST_TENSORS) {
    throw damaged(file, `it claims ${tensorCount} tensors, more than ${MOST_TENSORS}`);
  }
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < valueCount; i++) {
    const key = reader.text();
    metadata.set(key, reader.value(reader.uint32()));
  }
  const infos = Array.from({ length: tensorCount }, () => tensorInfo(reader, file));
  const said = metadata.get('general.alignment');
  const alignment = said ?? ALIGNMENT;
  if (typeof alignment !== 'number' || !Number.isSafeInteger(alignment) || alignment < 1) {
    throw damaged(file, 'its alignment is no whole number');
  }
  const start = Math.ceil(reader.at / alignment) * alignment;
  const names = new Set<string>();
  const tensors = infos.map(({ name, type, shape, offset }) => {
    if (names.has(name)) {
      throw damaged(file, `it has the tensor ${quoted(name)} twice`);
    }
    names.add(name);
    if (offset % alignment !== 0) {
      throw damaged(file, `${quoted(name)} does not begin at a multiple of ${alignment} bytes`);
    }
    const own = { name, type, shape: originalShape(metadata, name, shape), offset: start + offset };
    const end = own.offset + (bytesOf(own) ?? 0);
    if (end > fileSize) {
      throw damaged(file, `it ends after ${fileSize} bytes, but ${quoted(name)} reaches to ${end}`);
    }
    return own;
  });
  return { metadata, tensors, fileSize };
}

function tensorInfo(reader: HeaderReader, file: string): GgufTensor {
  const name = reader.text();
  const rank = reader.uint32();
  if (rank > MOST_DIMENSIONS) {
    throw damaged(file, `${quoted(name)} has ${rank} dimensions`);
  }
  // The innermost comes first there.
  const shape = Array.from({ length: rank }, () => reader.uint64()).reverse();
  const number = reader.uint32();
  const type = TYPES[number] ?? `type ${number}`;
  if (shape.reduce((all, side) => all * side, 1) > Number.MAX_SAFE_INTEGER) {
    throw damaged(file, `${quoted(name)} has a shape too large for any file`);
  }
  const row = isBlockType(type) ? BLOCKS[type].elements : 1;
  if ((shape.at(-1) ?? 1) % row !== 0) {
    throw damaged(file, `the rows of ${quoted(name)} are no whole blocks of ${row}`);
  }
  return { name, type, shape, offset: reader.uint64() };
}

/** Tools for ComfyUI lay tensors whose rows fit no block out anew, and keep the shape in the metadata. */
function originalShape(metadata: ReadonlyMap<string, GgufValue>, name: string, shape: number[]): number[] {
  const said = metadata.get(`comfy.gguf.orig_shape.${name}`);
  const product = (dims: readonly number[]) => dims.reduce((all, side) => all * side, 1);
  const isShape = Array.isArray(said) && said.every((side) => typeof side === 'number');
  return isShape && product(said) === product(shape) ? said : shape;
}

/**
 * The weights of a file.
 * @param file by which the graphs' externals name it
 * @returns without those of types that cannot be read; {@link unreadableOf} names them
 */
export function ggufTensors({ tensors }: GgufHeader, file: string): StoredTensor[] {
  return tensors.flatMap((tensor): StoredTensor[] => {
    const { name, type, shape, offset } = tensor;
    const place = { name, shape, file, offset, length: bytesOf(tensor) ?? 0 };
    if (isBlockType(type)) {
      return [{ ...place, dtype: 'F32', blocks: type }];
    }
    return isFloat(type) ? [{ ...place, dtype: type }] : [];
  });
}

/** The first tensor of a type that is none of weights, or not known here. */
export function unreadableOf({ tensors }: GgufHeader, isWeight: (name: string) => boolean): GgufTensor | undefined {
  return tensors.find(({ name, type }) => !isBlockType(type) && !isFloat(type) && isWeight(name));
}

/** Null where the type's width is not known. */
function bytesOf({ type, shape }: GgufTensor): number | null {
  const elements = shape.reduce((all, side) => all * side, 1);
  if (isBlockType(type)) {
    return (elements / BLOCKS[type].elements) * BLOCKS[type].bytes;
  }
  return isFloat(type) ? elements * BYTES[type] : null;
}

function isBlockType(type: string): type is BlockType {
  return Object.hasOwn(BLOCKS, type);
}

function isFloat(type: string): type is StoredType {
  return Object.hasOwn(BYTES, type);
}

/** Sizes of numbers in the metadata, and how they are read. */
const NUMBERS: Record<number, { bytes: number; read: (view: DataView, at: number) => number | boolean }> = {
  0: { bytes: 1, read: (view, at) => view.getUint8(at) },
  1: { bytes: 1, read: (view, at) => view.getInt8(at) },
  2: { bytes: 2, read: (view, at) => view.getUint16(at, true) },
  3: { bytes: 2, read: (view, at) => view.getInt16(at, true) },
  4: { bytes: 4, read: (view, at) => view.getUint32(at, true) },
  5: { bytes: 4, read: (view, at) => view.getInt32(at, true) },
  6: { bytes: 4, read: (view, at) => view.getFloat32(at, true) },
  7: { bytes: 1, read: (view, at) => view.getUint8(at) !== 0 },
  10: { bytes: 8, read: (view, at) => Number(view.getBigUint64(at, true)) },
  11: { bytes: 8, read: (view, at) => Number(view.getBigInt64(at, true)) },
  12: { bytes: 8, read: (view, at) => view.getFloat64(at, true) },
};
const TEXT = 8;
const LIST = 9;
const DEEPEST = 4;

class HeaderReader {
  at = 0;
  readonly #view: DataView;
  readonly #decoder = new TextDecoder();

  constructor(
    readonly bytes: Uint8Array,
    readonly file: string,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  uint64(): number {
    const value = this.#view.getBigUint64(this.#take(8), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw damaged(this.file, `it claims a size of ${value.toString()}`);
    }
    return Number(value);
  }

  ascii(length: number): string {
    const at = this.#take(length);
    return String.fromCharCode(...this.bytes.subarray(at, at + length));
  }

  text(): string {
    const length = this.uint64();
    const at = this.#take(length);
    return this.#decoder.decode(this.bytes.subarray(at, at + length));
  }

  value(type: number, depth = 0): GgufValue {
    if (type === TEXT) {
      return this.text();
    }
    if (type === LIST && depth < DEEPEST) {
      const inner = this.uint32();
      const count = this.uint64();
      const values: GgufValue[] = [];
      for (let i = 0; i < count; i++) {
        values.push(this.value(inner, depth + 1));
      }
      return values;
    }
    if (!Object.hasOwn(NUMBERS, type)) {
      throw damaged(this.file, `a value of its metadata has the unknown type ${type}`);
    }
    const { bytes, read } = NUMBERS[type];
    return read(this.#view, this.#take(bytes));
  }

  /** @returns where the next `count` bytes begin */
  #take(count: number): number {
    const { at } = this;
    if (at + count > this.bytes.length) {
      if (count > LONGEST_HEADER) {
        throw damaged(this.file, `it claims a text of ${count} bytes`);
      }
      throw new OutOfBytes();
    }
    this.at += count;
    return at;
  }
}

/** Names come from the file: as much of them as a sentence can bear. */
function quoted(text: string): string {
  return `"${text.length > 60 ? `${text.slice(0, 60)}…` : text}"`;
}

function damaged(file: string, what: string): StudioError {
  return new StudioError('checkpoint_damaged', `The file ${file} is damaged: ${what}; get it again.`);
}
