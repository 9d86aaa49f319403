/** Inputs and outputs of this folder's graph builders. */
import type { WeightVariant } from '../core/model.ts';

export type StoredType = 'F64' | 'F32' | 'F16' | 'BF16' | 'F8_E4M3' | 'F8_E5M2';
export type FloatType = 'f32' | 'f16';

export type Bits = 4 | 8;

/** GGUF's types in blocks; see `weights/gguf_blocks.ts`. */
export type BlockType =
  'Q4_0' | 'Q4_1' | 'Q5_0' | 'Q5_1' | 'Q8_0' | 'Q2_K' | 'Q3_K' | 'Q4_K' | 'Q5_K' | 'Q6_K' | 'IQ4_NL' | 'IQ4_XS';

/** The elements of one tensor in a `.safetensors` or `.gguf` file. */
export interface StoredTensor {
  name: string;
  /** Type of the elements; of the scales if quantised; of the result of decoding `blocks`. */
  dtype: StoredType;
  shape: number[];
  file: string;
  /** Absolute, in bytes; of the data if the tensor is quantised. */
  offset: number;
  /** In bytes; of the data if the tensor is quantised. */
  length: number;
  /** Present if the file stores it in quantised blocks. */
  quantised?: QuantisedBytes;
  /** Present if the file stores it in GGUF's blocks, one after another; `length` is theirs. */
  blocks?: BlockType;
  /** What its numbers are multiplied by on their way to the device: one number, or one for each row. Only of 8-bit types. */
  scale?: StoredTensor;
  /** What is added to it on its way to the device. */
  deltas?: readonly WeightDelta[];
  /** The length to scale each row to on the way to the device (torch's `weight_norm`); such a tensor has no deltas. */
  gains?: StoredTensor;
  /**
   * Frames of a kernel [out, channels, frames, height, width] that come before its channels on the way to the device, [out, frames · channels, height,
   * width]: then it convolves a picture whose channels are those of one frame after another. Such a tensor has no gains.
   */
  framesFirst?: number;
  /**
   * Of rows for heads whose elements are turned in pairs (rotary embedding): the two of a pair lie beside each other, as llama.cpp keeps them;
   * absent = half a head apart, as in transformers.
   */
  pairs?: 'neighbours';
}

/** A matrix [N, K] in blocks of 32 elements along its rows, see `quantisation.ts`. Offsets are absolute, in bytes. */
export interface QuantisedBytes {
  bits: Bits;
  /** N · K · bits / 8 bytes. */
  dataOffset: number;
  /** N · K / 32 scales. */
  scalesOffset: number;
}

/** A low-rank matrix, scale · up @ down; a convolution's kernel positions count as columns. */
export interface LowRankDelta {
  /** [N, rank], not quantised; further dimensions are 1. */
  up: StoredTensor;
  /** [rank, K], or [rank, inputs, height, width] with K = inputs · height · width; not quantised. */
  down: StoredTensor;
  scale: number;
  lengths?: Lengths;
}

/**
 * DoRA: weight and change together keep their direction and get these lengths.
 *
 * PEFT scales the change by the strength and gives the result its lengths. Files of LyCORIS are read as AUTOMATIC1111 and ComfyUI do: the
 * weight goes a share of the way to what the whole change would make of it.
 */
export interface Lengths {
  /** One for each row, or for each input, whose elements in all rows (of a convolution with its kernel) are one vector. */
  tensor: StoredTensor;
  of: 'rows' | 'inputs';
  /** How much of the way is gone; absent = as PEFT does. */
  share?: number;
}

/**
 * A change computed from several small tensors by a formula: `hadamard` (LoHa), `kronecker` (LoKr), `tucker` (a convolution through a
 * core), `whole` (the difference itself), `scaled` and `scaled_columns` ((IA)³: the weight's rows, or its columns, times factors),
 * `generalised` (GLoRA: the weight times a product of matrices, and another product).
 */
export interface FactoredDelta {
  kind: 'hadamard' | 'kronecker' | 'tucker' | 'whole' | 'scaled' | 'scaled_columns' | 'generalised';
  /** By their names in the file; not quantised. */
  parts: Readonly<Record<string, StoredTensor | undefined>>;
  scale: number;
  lengths?: Lengths;
}

export type WeightDelta = LowRankDelta | FactoredDelta;

/** All tensors that a change is read from. */
export function tensorsOf(delta: WeightDelta): StoredTensor[] {
  const { lengths } = delta;
  const parts =
    'kind' in delta ? Object.values(delta.parts).filter((part) => part !== undefined) : [delta.up, delta.down];
  return lengths ? [...parts, lengths.tensor] : parts;
}

/** The headers of a network's weight files. */
export interface WeightIndex {
  get(name: string): StoredTensor | undefined;
  names(): Iterable<string>;
}

export type Provider = 'webgpu' | 'wasm';

export interface GraphOptions {
  provider: Provider;
  /** The type that the network computes in; inputs and outputs of every graph are float32 regardless. */
  dtype: FloatType;
  batch: number;
  /** Latent size (UNet, decoder) or pixel size (encoder); 0 for networks without a picture. */
  height: number;
  width: number;
  /** Tokens per prompt; by default the text encoder's own limit. */
  sequence?: number;
  /**
   * What linear layers stored unquantised become on the way to the device; by default `full`. Those that the file stores quantised stay as
   * they are.
   */
  weights?: WeightVariant;
  /** Whether 3×3 convolutions on the processor leave their weights as they are, where memory is short: see `short_convolution.ts`. */
  plainConvolutions?: boolean;
  /** What the windows of several frames of a video may take as one value on a GPU, in bytes; absent = as `frame_layers.ts` has it. */
  togetherBytes?: number;
  /** Whether it is built to be counted and never run: then what repeats itself with the length of a video stands in it once. */
  isPlanned?: boolean;
}

/** One external location that the graph refers to. Its initializers' offsets are relative to it. */
export type External =
  /** A checkpoint's file as it is, with its own offsets; `ranges` [begin, end) are the used parts, if known. */
  | { location: string; kind: 'file'; file: string; ranges?: [begin: number, end: number][] }
  /** One tensor, widened or narrowed and with its deltas added while it streams; the location starts at its first byte. */
  | { location: string; kind: 'cast'; tensor: StoredTensor; to: FloatType; length: number }
  /** The blocks of one tensor, or their scales in `type`: as stored in the file, or quantised while they stream. */
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
  /** Per run: two for each multiply-add of convolutions, linear layers and attention. */
  flops: number;
  /**
   * Peak bytes of the values between nodes, in node order; includes outputs, excludes inputs and kernels' own workspace.
   */
  activationBytes: number;
  /**
   * Byte size of those values → the most values of that size alive at one time. ONNX Runtime reuses a buffer only for values of exactly its
   * size, so this predicts what stays on the device better than their sum.
   */
  activationSizes: ReadonlyMap<number, number>;
  /** Bytes of all initializers outside the model. */
  weightBytes: number;
  /** What becomes of them when the session is created, in bytes: what it computes from constants takes their place and may be larger. */
  heldBytes: number;
  /** Of the largest initializer on the device, in bytes. */
  largestBytes: number;
  /**
   * Kernels that several convolutions on a GPU read. As constants each of these would have a copy of its own, in the runtime's order; they are to be
   * inputs, which are brought into it at every run.
   */
  repeated: ReadonlySet<string>;
  /** The same network in pieces that run one after another; absent for those whose builder does not say where to cut. */
  blocks?: () => BlockGraphs;
  /**
   * The whole network as one block whose matrices are inputs, so that they can be written again when LoRAs change them.
   * @param names further weights that are to be inputs
   */
  adjustable: (names?: ReadonlySet<string>) => BlockGraphs;
}

/** A weight that a block is given as an input, and where its bytes lie. */
export interface BlockWeight {
  /** The input of its kind's model. */
  port: string;
  /** The initializer that it is in the whole graph. */
  name: string;
  type: 'float32' | 'float16' | 'uint8';
  dims: readonly number[];
  /** Of {@link BlockGraphs.externals}. */
  location: string;
  /** In bytes, from the beginning of that location. */
  offset: number;
  length: number;
}

/** One piece of a network: a model that others share, run with values and weights of its own. */
export interface Block {
  /** Index of its model in {@link BlockGraphs.kinds}. */
  kind: number;
  /** Each input or output of the model that is no weight, and which of the network's values it is. */
  inputs: readonly { port: string; value: string }[];
  outputs: readonly { port: string; value: string }[];
  weights: readonly BlockWeight[];
  /** Of all its weights, each rounded up as {@link onDevice} says. */
  weightBytes: number;
}

/** What a buffer for so many bytes takes: ONNX Runtime rounds its own buffers up, and expects the same of others. */
export const onDevice = (length: number): number => Math.ceil(length / 16) * 16;

export interface BlockGraphs {
  /** Models whose weights are inputs; their externals are what stays an initializer. */
  kinds: readonly Pick<Graph, 'bytes' | 'externals'>[];
  /** In the order in which they run. */
  blocks: readonly Block[];
  /** What goes from block to block, without the network's own inputs and outputs; all f32. */
  values: ReadonlyMap<string, readonly number[]>;
  /** What the blocks' weights are read from. */
  externals: readonly External[];
  /** Those of the whole network. */
  inputs: readonly Port[];
  outputs: readonly Port[];
  /** The same with equal blocks that follow one another run several at a time, for where no weights are streamed; absent where that changes nothing. */
  joined?: () => BlockGraphs;
}

/** The files that an external location is built from. */
export function filesOf(external: External): string[] {
  switch (external.kind) {
    case 'fill':
      return [];
    case 'file':
      return [external.file];
    case 'cast':
    case 'quantised': {
      const { file, deltas = [], gains, scale } = external.tensor;
      const others = [...deltas.flatMap(tensorsOf), ...(gains ? [gains] : []), ...(scale ? [scale] : [])];
      return [...new Set([file, ...others.map((one) => one.file)])];
    }
  }
}
