/** What the graph builders of this folder take and give. */

export type StoredType = 'F32' | 'F16' | 'BF16';
export type FloatType = 'f32' | 'f16';

/** One tensor as it lies in a `.safetensors` file. */
export interface StoredTensor {
  name: string;
  dtype: StoredType;
  shape: number[];
  file: string;
  /** Absolute, in bytes. */
  offset: number;
  /** In bytes. */
  length: number;
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
}

/** One external location that the graph refers to. All offsets within it are those of its initializers. */
export type External =
  /** A checkpoint's file as it is, with the checkpoint's own offsets. */
  | { location: string; kind: 'file'; file: string }
  /** One tensor, converted while it streams; the location begins with its first byte. */
  | { location: string; kind: 'cast'; tensor: StoredTensor; to: FloatType; length: number }
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
}
