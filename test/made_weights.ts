/** Files of weights whose bytes come into being as they are read, so that models of any size take no room. */
import type { StoredTensor, WeightIndex } from '../src/graphs/graph.ts';
import { convert } from '../src/weights/conversion.ts';
import { writeSafetensorsHeader, type NewTensor } from '../src/weights/safetensors.ts';
import { hashed, hashedBytes } from './hashed_weights.ts';

/** A part of a file. */
export interface Piece {
  length: number;
  /** Its bytes [begin, end): whole numbers, where it consists of such. */
  make: (begin: number, end: number) => Uint8Array<ArrayBuffer>;
}

export class MadeFile extends File {
  readonly length: number;

  constructor(
    name: string,
    readonly pieces: readonly Piece[],
  ) {
    super([], name);
    this.length = pieces.reduce((sum, { length }) => sum + length, 0);
  }

  override get size(): number {
    return this.length;
  }

  override slice(begin = 0, end = this.length): Blob {
    const parts: Uint8Array<ArrayBuffer>[] = [];
    let at = 0;
    for (const { length, make } of this.pieces) {
      const [from, until] = [Math.max(0, begin - at), Math.min(length, end - at)];
      if (from < until) {
        parts.push(make(from, until));
      }
      at += length;
    }
    return new Blob(parts);
  }
}

/** A tensor given by the formula: see `about` in goldens/large_flows.json. */
export interface MadeTensor {
  name: string;
  shape: number[];
  scale: number;
  add?: number;
  /** Present if it lies in quantised blocks. */
  bits?: number;
}

/** Scales of quantised tensors are numbered from here. */
const SCALES = 5000;

const product = (shape: readonly number[]) => shape.reduce((all, dim) => all * dim, 1);

const elements = ({ shape }: MadeTensor) => product(shape);

/** The numbers of a tensor, f32. */
export function numbers(tensor: MadeTensor, number: number): Piece {
  const { scale, add = 0 } = tensor;
  return { length: 4 * elements(tensor), make: floats(number, scale, add) };
}

/** The blocks of a quantised tensor, and their scales. */
export function blocks(tensor: MadeTensor, number: number, scalesIn: 'F16' | 'F32'): [data: Piece, scales: Piece] {
  const { scale, bits = 0 } = tensor;
  const make = floats(SCALES + number, scale / 2, scale);
  return [
    { length: (elements(tensor) * bits) / 8, make: (begin, end) => hashedBytes(number, begin, end) },
    scalesIn === 'F32'
      ? { length: elements(tensor) / 8, make }
      : {
          length: elements(tensor) / 16,
          make: (begin, end) => convert(make(2 * begin, 2 * end), 'F32', 'F16'),
        },
  ];
}

const floats = (number: number, scale: number, add: number) => (begin: number, end: number) =>
  new Uint8Array(hashed(number, (end - begin) / 4, scale, add, begin / 4).buffer);

/** Tensors made by the formula, a file each. */
export function madeWeights(tensors: readonly MadeTensor[]): { blobs: Map<string, Blob>; index: WeightIndex } {
  const blobs = new Map<string, Blob>();
  const stored = new Map<string, StoredTensor>();
  tensors.forEach((tensor, number) => {
    const { name, shape, bits } = tensor;
    const file = `made/${name}`;
    const about = { name, dtype: 'F32' as const, shape, file, offset: 0 };
    if (bits === 4 || bits === 8) {
      const [data, scales] = blocks(tensor, number, 'F32');
      blobs.set(file, new MadeFile(file, [data, scales]));
      stored.set(name, {
        ...about,
        length: data.length,
        quantised: { bits, dataOffset: 0, scalesOffset: data.length },
      });
    } else {
      const all = numbers(tensor, number);
      blobs.set(file, new MadeFile(file, [all]));
      stored.set(name, { ...about, length: all.length });
    }
  });
  return { blobs, index: { get: (name) => stored.get(name), names: () => stored.keys() } };
}

/** A tensor of a file that has others, too. */
export type NumberedTensor = MadeTensor & { number: number };

/** A file as the library keeps it with weights of 4 bits. */
export function quantisedFile(path: string, tensors: readonly NumberedTensor[]): MadeFile {
  const entries: [string, NewTensor][] = [];
  const pieces: Piece[] = [];
  for (const tensor of tensors) {
    const { name, number, shape, bits } = tensor;
    if (bits === undefined) {
      entries.push([name, { dtype: 'F32', shape }]);
      pieces.push(numbers(tensor, number));
    } else {
      const [rows, columns] = shape;
      entries.push([`${name}.q${bits}`, { dtype: 'U8', shape: [rows, columns / 32, 4 * bits] }]);
      entries.push([`${name}.scales`, { dtype: 'F16', shape: [rows, columns / 32] }]);
      pieces.push(...blocks(tensor, number, 'F16'));
    }
  }
  const header = writeSafetensorsHeader(entries, { darkroom_quantised: 'q4' });
  const begin: Piece = { length: header.length, make: (from, until) => header.slice(from, until) };
  return new MadeFile(path, [begin, ...pieces]);
}

/** Inputs are numbered from here. */
const FIRST_INPUT = 10_000;

export interface Input {
  dims: number[];
  data: Float32Array<ArrayBuffer>;
}

/** What a case of the reference was given, by the names of our graphs. */
export function madeInputs(shapes: Record<string, number[]>): Record<string, Input> {
  return Object.fromEntries(
    Object.entries(shapes).map(([name, dims], k) => [
      name,
      { dims, data: hashed(FIRST_INPUT + k, product(dims), 1, 0) },
    ]),
  );
}

export interface Expected {
  length: number;
  square: number;
  /** Those at {@link placeOf}. */
  values: number[];
}

export const placeOf = (n: number, length: number): number =>
  Number((BigInt(n) * 2654435761n + 12345n) % BigInt(length));
