/** What the graph builders of this folder take and give. */
import type { WeightVariant } from '../core/model.ts';

export type StoredType = 'F64' | 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'F8_E5M2';
export type FloatType = 'f32' | 'f16';

export type Bits = 4 | 8;

/** Elements of one tensor as they lie in a `.safetensors` file. */
export interface StoredTensor {
  name: string;
  /** Of the elements; where they are quantised, of the scales. */
  dtype: StoredType;
  shape: number[];
  file: string;
  /** Absolute, in bytes; where the tensor is quantised, of its data. */
  offset: number;
  /** In bytes; where the tensor is quantised, of its data. */
  length: number;
  /** Present where the file keeps it in quantised blocks. */
  quantised?: QuantisedBytes;
  /** What is added to it on the way to the device. */
  deltas?: readonly LowRankDelta[];
}

/** A matrix [N, K] in blocks of 32 elements along its rows, see `quantisation.ts`. Offsets are absolute, in bytes. */
export interface QuantisedBytes {
  bits: Bits;
  /** N · K · bits / 8 bytes. */
  dataOffset: number;
  /** N · K / 32 scales. */
  scalesOffset: number;
}

/** A matrix of low rank, scale · up @ down; a convolution's kernel counts as columns of its inputs. */
export interface LowRankDelta {
  /** [N, rank], not quantised; further dimensions are 1. */
  up: StoredTensor;
  /** [rank, K], or [rank, inputs, height, width] with K = inputs · height · width; not quantised. */
  down: StoredTensor;
  scale: number;
}

/** The headers of a network's weight files. */
export interface WeightIndex {
  get(name: string): StoredTensor | undefined;
  names(): Iterable<string>;
}

export type Provider = 'webgpu' | 'wasm';

export interface GraphOptions {
  provider: Provider;
  /** What the network computes in; inputs and outputs of every graph are float32 nevertheless. */
  dtype: FloatType;
  batch: number;
  /** Latent size (UNet, decoder) or pixel size (encoder); 0 for networks without a picture. */
  height: number;
  width: number;
  /** Tokens per prompt; the text encoder's own limit where it is not given. */
  sequence?: number;
  /**
   * What linear layers whose weights are whole in the file become on the way to the device; `full` where it is not given. Those
   * that the file keeps quantised stay as they are.
   */
  weights?: WeightVariant;
}

/** One external location that the graph refers to. All offsets within it are those of its initializers. */
export type External =
  /** A checkpoint's file as it is, with the checkpoint's own offsets; `ranges` [begin, end) are what is used of it, where that is known. */
  | { location: string; kind: 'file'; file: string; ranges?: [begin: number, end: number][] }
  /** One tensor, widened or narrowed and with its deltas added while it streams; the location begins with its first byte. */
  | { location: string; kind: 'cast'; tensor: StoredTensor; to: FloatType; length: number }
  /** The blocks of one tensor, or their scales in `type`: as the file keeps them, or quantised while they stream. */
  | {
      location: string;
      kind: 'quantised';
      tensor: StoredTensor;
      bits: Bits;
      part: 'data' | 'scales';
      type: FloatType;
      length: number;
    }
  /** A vector of equal numbers, such as the unit scale of a normalisation. */
  | { location: string; kind: 'fill'; value: number; type: FloatType; length: number };

/** An input or output of a graph, row-major. */
export interface Port {
  name: string;
  dtype: 'float32' | 'int32';
  dims: number[];
}

export interface Graph {
  /** An ONNX model without weights. */
  bytes: Uint8Array<ArrayBuffer>;
  externals: External[];
  inputs: Port[];
  outputs: Port[];
  nodes: number;
  /** Of one run: two for each multiplication and addition of convolutions, linear layers and attention. */
  flops: number;
  /**
   * The most bytes that values between the nodes take at one time, in the order of the nodes; outputs count, inputs and what
   * kernels need for themselves do not.
   */
  activationBytes: number;
  /**
   * Bytes of those values → the most of that size that are there at one time. ONNX Runtime keeps a buffer for the next value of its
   * very size, so this says better than their sum what stays on the device.
   */
  activationSizes: ReadonlyMap<number, number>;
  /** Of all initializers that lie outside the model. */
  weightBytes: number;
}

/** The files that an external location is made from. */
export function filesOf(external: External): string[] {
  switch (external.kind) {
    case 'fill':
      return [];
    case 'file':
      return [external.file];
    case 'cast':
    case 'quantised': {
      const { file, deltas = [] } = external.tensor;
      return [...new Set([file, ...deltas.flatMap(({ up, down }) => [up.file, down.file])])];
    }
  }
}
