/** Files of weights whose bytes come into being as they are read, so that models of any size take no room. */
import { convert } from '../src/weights/conversion.ts';
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

const elements = ({ shape }: MadeTensor) => shape.reduce((product, side) => product * side, 1);

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
