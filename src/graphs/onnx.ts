/**
 * Writes ONNX models whose weights stay in place: each initializer names a byte range of a checkpoint's own file.
 *
 * Shapes are static, so every value carries its dimensions and mistakes surface while the graph is built. Node names are the
 * reference implementation's module paths, so that a graph and the PyTorch module can be read side by side.
 */
import { create } from '@bufbuild/protobuf';
import { assert, StudioError } from '../core/errors.ts';
import { adjustable, blocksOf, type WrittenGraph } from './blocks.ts';
import type {
  Bits,
  External,
  FloatType,
  Graph,
  GraphOptions,
  Port,
  StoredTensor,
  StoredType,
  WeightIndex,
} from './graph.ts';
import type { NodeProto, TensorProto } from './onnx_pb.ts';
import { NodeProtoSchema, TensorProto_DataType as DataType, TensorProtoSchema } from './onnx_pb.ts';
import {
  BYTES,
  DATA_TYPES,
  attribute,
  external,
  modelBytes,
  portValue,
  size,
  type Attributes,
  type ElementType,
  type Value,
} from './onnx_protos.ts';
import { BLOCK, bitsOnDevice } from './quantisation.ts';

export { MICROSOFT, float, size, type Attributes, type ElementType, type Value } from './onnx_protos.ts';

export interface OutputShape {
  dims: readonly number[];
  type?: ElementType;
}

/** ONNX Runtime's asyncify build truncates offsets to 32 bits. */
const OFFSET_LIMIT = 2 ** 32;

const STORED: Partial<Record<StoredType, FloatType>> = { F32: 'f32', F16: 'f16' };

/** A weight [N, K] in quantised blocks. */
export interface QuantisedWeight {
  bits: Bits;
  /** [N, K/32, 4·bits] bytes. */
  data: Value;
  /** [N·K/32]. */
  scales: Value;
}

/** Device memory of a value; a reshaped one shares its source's. */
interface Occupation {
  bytes: number;
}

export class OnnxWriter {
  readonly options: GraphOptions;
  readonly #weights: WeightIndex;
  readonly #name: string;
  readonly #nodes: NodeProto[] = [];
  readonly #initializers = new Map<string, { proto: TensorProto; value: Value }>();
  readonly #inputs: Port[] = [];
  readonly #outputs: Port[] = [];
  readonly #externals = new Map<string, External>();
  readonly #names = new Set<string>();
  /** Device memory of node results; none for those known when the session is created. */
  readonly #occupied = new Map<string, Occupation>();
  /** Names of initializers and of values that depend on initializers alone. */
  readonly #constants = new Set<string>();
  /** Bytes of those constants that nodes read at each run, by name. */
  readonly #held = new Map<string, number>();
  /** How many convolutions on a GPU read a kernel, by its name. */
  readonly #kernels = new Map<string, number>();
  /** Nodes' results by name. */
  readonly #results = new Map<string, Value>();
  /** Before which nodes the graph may be cut. */
  readonly #cuts: number[] = [];
  #flops = 0;
  /** How many times each node added now counts. */
  #times = 1;
  #weightBytes = 0;

  /** @param name of the graph: the network's class and, if it has several graphs, its part */
  constructor(name: string, weights: WeightIndex, options: GraphOptions) {
    this.#name = name;
    this.#weights = weights;
    this.options = options;
  }

  /** Declares an input; the caller casts float32 inputs of an f16 graph. */
  input(name: string, dtype: Port['dtype'], dims: readonly number[]): Value {
    this.#inputs.push({ name, dtype, dims: [...dims] });
    this.#names.add(name);
    return { name, type: dtype === 'float32' ? 'f32' : 'i32', dims };
  }

  /** Makes `value` an output called `name`, cast to float32 if necessary. */
  output(name: string, value: Value): void {
    assert(!this.#names.has(name), `only one value is called ${name}`);
    this.#names.add(name);
    const result =
      value.type === 'f32'
        ? value
        : this.node(`${name}/cast`, 'Cast', [value], value.dims, { type: 'f32', attributes: { to: DataType.FLOAT } });
    for (const node of this.#nodes) {
      node.input = node.input.map((input) => (input === result.name ? name : input));
      node.output = node.output.map((output) => (output === result.name ? name : output));
    }
    const occupied = this.#occupied.get(result.name);
    if (occupied) {
      this.#occupied.set(name, occupied);
    }
    this.#results.set(name, { name, type: 'f32', dims: value.dims });
    this.#outputs.push({ name, dtype: 'float32', dims: [...value.dims] });
  }

  /**
   * Here a block begins that can run in a session of its own, see {@link Graph.blocks}. To be called before each of the blocks that follow one
   * another, and after the last.
   */
  cut(): void {
    this.#cuts.push(this.#nodes.length);
  }

  /** Leaves out changes of shape that nothing reads, as the runtime would compute them; when all outputs are named, of a graph without cuts. */
  dropUnread(): void {
    assert(this.#cuts.length === 0, 'cuts count nodes');
    const read = new Set(this.#outputs.map(({ name }) => name));
    for (let at = this.#nodes.length - 1; at >= 0; at--) {
      const { opType, input, output } = this.#nodes[at];
      if ((opType === 'Transpose' || opType === 'Reshape') && !output.some((name) => read.has(name))) {
        this.#nodes.splice(at, 1);
      } else {
        input.forEach((name) => read.add(name));
      }
    }
    for (const [key, { proto, value }] of this.#initializers) {
      // Weights count whether read or not.
      if (proto.rawData.length > 0 && !read.has(value.name)) {
        this.#initializers.delete(key);
      }
    }
  }

  /** Whether the checkpoint has this tensor. */
  has(name: string): boolean {
    return this.#weights.get(name) !== undefined;
  }

  /**
   * The initializer for a tensor of the checkpoint.
   * @param dims the architecture's expected shape, or another with as many elements (only bytes count)
   * @throws StudioError `checkpoint_incomplete` when the tensor is missing, `checkpoint_damaged` when it has another size
   */
  weight(name: string, dims: readonly number[], type: FloatType = this.options.dtype): Value {
    const tensor = this.#tensor(name, dims);
    return this.#initializer(`${name} ${type}[${dims.join(',')}]`, name, dims, type, () =>
      this.#externalWeight(tensor, type, size(dims)),
    );
  }

  /** The kernel [out, channels, frames, height, width] as [out, frames · channels, height, width], see `framesFirst`. Throws as {@link weight}. */
  framesFirst(name: string, dims: readonly [number, number, number, number, number]): Value {
    const tensor = { ...this.#tensor(name, dims), shape: [...dims], framesFirst: dims[2] };
    const { dtype } = this.options;
    const [out, channels, frames, ...kernel] = dims;
    const turned = [out, frames * channels, ...kernel];
    return this.#initializer(`${name}/frames_first/${dtype}`, name, turned, dtype, () =>
      this.#externalWeight(tensor, dtype, size(dims)),
    );
  }

  /** The first `count` rows of the tensor [rows, width]. Throws as {@link weight}. */
  firstRows(name: string, [rows, width]: readonly [number, number], count: number): Value {
    const tensor = this.#tensor(name, [rows, width]);
    const { dtype } = this.options;
    return this.#initializer(`${name}[:${count}] ${dtype}`, name, [count, width], dtype, () =>
      this.#externalWeight(tensor, dtype, count * width),
    );
  }

  /**
   * The initializers for a matrix [N, K] that the file stores quantised or that is quantised on the way to the device; null for others.
   * Throws like {@link weight}.
   */
  quantised(name: string, dims: readonly [number, number], type: FloatType): QuantisedWeight | null {
    const tensor = this.#tensor(name, dims);
    const bits = bitsOnDevice(tensor, dims, this.options.weights ?? 'full');
    if (bits === null || dims[1] % BLOCK !== 0) {
      return null;
    }
    const [n, k] = [dims[0], dims[1] / BLOCK];
    const location = `${tensor.file}#${name}.q${bits}`;
    return {
      bits,
      data: this.#initializer(location, `${name}.q${bits}`, [n, k, (BLOCK * bits) / 8], 'u8', () =>
        this.#quantisedPart(tensor, bits, 'data', type, location),
      ),
      scales: this.#initializer(`${location} ${type}`, `${name}.scales`, [n * k], type, () =>
        this.#quantisedPart(tensor, bits, 'scales', type, `${location}.scales.${type}`),
      ),
    };
  }

  #tensor(name: string, dims: readonly number[]): StoredTensor {
    const tensor = this.#weights.get(name);
    if (!tensor) {
      throw new StudioError(
        'checkpoint_incomplete',
        `The checkpoint lacks the tensor "${name}" of its ${this.#name}; download or copy it again, or choose another checkpoint.`,
      );
    }
    if (size(tensor.shape) !== size(dims)) {
      throw new StudioError(
        'checkpoint_damaged',
        `The tensor "${name}" has the shape [${tensor.shape.join(', ')}], but config.json asks for [${dims.join(', ')}]; the files do not belong together.`,
      );
    }
    return tensor;
  }

  /** An initializer of equal numbers that is not stored in the model. */
  fill(value: number, dims: readonly number[], type: FloatType = this.options.dtype): Value {
    const length = size(dims) * BYTES[type];
    const location = `fill/${value}.${type}.${length}`;
    return this.#initializer(`${location}[${dims.join(',')}]`, location, dims, type, () => {
      this.#externals.set(location, { location, kind: 'fill', value, type, length });
      return external(location, 0, length);
    });
  }

  /** A small inline initializer, such as the target of a Reshape. */
  constant(values: readonly number[], type: 'i64' | 'f32' = 'i64'): Value {
    const raw = type === 'i64' ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
    const key = `constant ${type}[${values.join(',')}]`;
    return this.#initializer(key, key, [values.length], type, () => ({ rawData: new Uint8Array(raw.buffer) }));
  }

  /** Counts what `make` adds this many times; for graphs that are only planned. */
  protected counted<T>(times: number, make: () => T): T {
    const before = this.#times;
    this.#times *= times;
    try {
      return make();
    } finally {
      this.#times = before;
    }
  }

  /** Adds a node with one output, which has the node's name. */
  node(
    name: string,
    op: string,
    inputs: readonly (Value | null)[],
    dims: readonly number[],
    more: { type?: ElementType; domain?: string; attributes?: Attributes; flops?: number } = {},
  ): Value {
    const [value] = this.nodes(name, op, inputs, [{ dims, ...(more.type ? { type: more.type } : {}) }], more);
    assert(value, 'a node has an output');
    return value;
  }

  /**
   * Adds a node with several outputs; `null` omits an optional input or output.
   * @param more.flops in place of what the operator takes, where a layer computes in another way than the reference
   */
  nodes(
    name: string,
    op: string,
    inputs: readonly (Value | null)[],
    outputs: readonly (OutputShape | null)[],
    more: { domain?: string; attributes?: Attributes; flops?: number } = {},
  ): (Value | null)[] {
    const unique = this.#unique(name);
    const values = outputs.map((output, index): Value | null =>
      output
        ? {
            name: index === 0 ? unique : `${unique}:${index}`,
            type: output.type ?? this.options.dtype,
            dims: output.dims,
          }
        : null,
    );
    this.#account(op, inputs, values, more.flops);
    values.forEach((value) => value && this.#results.set(value.name, value));
    this.#nodes.push(
      create(NodeProtoSchema, {
        name: unique,
        opType: op,
        domain: more.domain ?? '',
        input: inputs.map((value) => value?.name ?? ''),
        output: values.map((value) => value?.name ?? ''),
        attribute: Object.entries(more.attributes ?? {}).map(([key, value]) => attribute(key, value)),
      }),
    );
    return values;
  }

  /** The finished model. */
  graph(): Graph {
    const parts = {
      name: this.#name,
      nodes: this.#nodes,
      initializers: Array.from(this.#initializers.values(), ({ proto }) => proto),
    };
    const inputs = this.#inputs.map(portValue);
    const written = (): WrittenGraph => ({
      name: this.#name,
      nodes: this.#nodes,
      initializers: new Map(Array.from(this.#initializers.values(), (one) => [one.value.name, one])),
      values: new Map([...inputs.map((input) => [input.name, input] as const), ...this.#results]),
      inputs: this.#inputs,
      outputs: this.#outputs,
      externals: this.#externals,
      cuts: this.#cuts,
    });
    return {
      bytes: modelBytes({ ...parts, inputs, outputs: this.#outputs.map(portValue) }),
      externals: [...this.#externals.values()],
      inputs: this.#inputs,
      outputs: this.#outputs,
      nodes: this.#nodes.length,
      flops: this.#flops,
      ...this.#activations(),
      weightBytes: this.#weightBytes,
      heldBytes: [...this.#held.values()].reduce((sum, bytes) => sum + bytes, 0),
      largestBytes: Math.max(
        0,
        ...Array.from(this.#initializers.values(), ({ value }) => size(value.dims) * BYTES[value.type]),
      ),
      repeated: this.#repeated(),
      ...(this.#cuts.length > 0 && { blocks: () => blocksOf(written()) }),
      adjustable: (names) => adjustable(written(), names),
    };
  }

  #repeated(): ReadonlySet<string> {
    const names = Array.from(this.#initializers.values(), ({ value }) => value.name);
    return new Set(names.filter((name) => (this.#kernels.get(name) ?? 0) > 1));
  }

  /** Records a node's computation and its results' memory. */
  #account(op: string, inputs: readonly (Value | null)[], outputs: readonly (Value | null)[], flops?: number): void {
    const given = inputs.flatMap((input) => (input ? [input] : []));
    const results = outputs.flatMap((output) => (output ? [output] : []));
    if (given.every(({ name }) => this.#constants.has(name))) {
      // Folded when the session is created.
      results.forEach(({ name }) => this.#constants.add(name));
      return;
    }
    for (const { name, type, dims } of given.filter((input) => this.#constants.has(input.name))) {
      this.#held.set(name, size(dims) * BYTES[type]);
    }
    const [, kernel] = given;
    if (op === 'Conv' && this.options.provider === 'webgpu' && this.#constants.has(kernel.name)) {
      this.#kernels.set(kernel.name, (this.#kernels.get(kernel.name) ?? 0) + 1);
    }
    for (const { name, type, dims } of results) {
      const same = op === 'Reshape' ? this.#occupied.get(given[0].name) : undefined;
      const bytes = op === 'Reshape' && !same ? 0 : size(dims) * BYTES[type];
      this.#occupied.set(name, same ?? { bytes });
    }
    this.#flops += this.#times * (flops ?? flopsOf(op, given, results[0]));
  }

  /** A walk over the nodes: results live from their node to their last reader, outputs to the end. */
  #activations(): Pick<Graph, 'activationBytes' | 'activationSizes'> {
    const lastUse = new Map<Occupation, number>();
    this.#nodes.forEach((node, index) => {
      for (const name of [...node.input, ...node.output]) {
        const occupied = this.#occupied.get(name);
        if (occupied) {
          lastUse.set(occupied, index);
        }
      }
    });
    for (const { name } of this.#outputs) {
      const occupied = this.#occupied.get(name);
      if (occupied) {
        lastUse.set(occupied, Infinity);
      }
    }
    const live = new Set<Occupation>();
    const counts = new Map<number, { now: number; most: number }>();
    const count = (size: number, change: 1 | -1) => {
      const { now, most } = counts.get(size) ?? { now: 0, most: 0 };
      counts.set(size, { now: now + change, most: Math.max(most, now + change) });
    };
    let [bytes, most] = [0, 0];
    this.#nodes.forEach((node, index) => {
      const touched = new Set([...node.input, ...node.output].flatMap((name) => this.#occupied.get(name) ?? []));
      for (const occupied of touched) {
        if (!live.has(occupied)) {
          live.add(occupied);
          bytes += occupied.bytes;
          count(occupied.bytes, 1);
        }
      }
      most = Math.max(most, bytes);
      for (const occupied of touched) {
        if (lastUse.get(occupied) === index) {
          live.delete(occupied);
          bytes -= occupied.bytes;
          count(occupied.bytes, -1);
        }
      }
    });
    const activationSizes = new Map(Array.from(counts, ([size, { most }]) => [size, most]));
    // One of each size in the runtime's order, while its convolution runs.
    for (const bytes of new Set(Array.from(this.#repeated(), (name) => this.#held.get(name) ?? 0))) {
      activationSizes.set(bytes, (activationSizes.get(bytes) ?? 0) + 1);
    }
    return { activationBytes: most, activationSizes };
  }

  /** @param count of elements from the tensor's first one on */
  #externalWeight(tensor: StoredTensor, type: FloatType, count: number) {
    const { file, name, offset } = tensor;
    const asStored =
      STORED[tensor.dtype] === type &&
      !tensor.quantised &&
      !tensor.blocks &&
      !tensor.deltas &&
      !tensor.gains &&
      !tensor.framesFirst;
    if (asStored && offset + tensor.length <= OFFSET_LIMIT) {
      return this.#inPlace(file, offset, count * BYTES[type]);
    }
    const location = `${file}#${name}.${tensor.framesFirst ? 'frames.' : ''}${type}`;
    const length = size(tensor.shape) * BYTES[type];
    this.#externals.set(location, { location, kind: 'cast', tensor, to: type, length });
    return external(location, 0, count * BYTES[type]);
  }

  /** Bytes of a checkpoint's file that are used unchanged. */
  #inPlace(file: string, offset: number, length: number) {
    const known = this.#externals.get(file);
    const ranges = (known?.kind === 'file' && known.ranges) || [];
    ranges.push([offset, offset + length]);
    this.#externals.set(file, { location: file, kind: 'file', file, ranges });
    return external(file, offset, length);
  }

  #quantisedPart(tensor: StoredTensor, bits: Bits, part: 'data' | 'scales', type: FloatType, location: string) {
    const elements = size(tensor.shape);
    const length = part === 'data' ? (elements * bits) / 8 : (elements / BLOCK) * BYTES[type];
    const { file, quantised, deltas } = tensor;
    if (quantised && !deltas && (part === 'data' || STORED[tensor.dtype] === type)) {
      const offset = part === 'data' ? quantised.dataOffset : quantised.scalesOffset;
      if (offset + length <= OFFSET_LIMIT) {
        return this.#inPlace(file, offset, length);
      }
    }
    this.#externals.set(location, { location, kind: 'quantised', tensor, bits, part, type, length });
    return external(location, 0, length);
  }

  /** @param key identifies bytes and shape, so that equal initializers are shared */
  #initializer(
    key: string,
    name: string,
    dims: readonly number[],
    type: ElementType,
    data: () => Pick<TensorProto, 'rawData'> | ReturnType<typeof external>,
  ): Value {
    let entry = this.#initializers.get(key);
    if (!entry) {
      const value: Value = { name: this.#unique(name), type, dims };
      const bytes = data();
      const proto = create(TensorProtoSchema, {
        name: value.name,
        dims: dims.map(BigInt),
        dataType: DATA_TYPES[type],
        ...bytes,
      });
      this.#constants.add(value.name);
      this.#weightBytes += 'rawData' in bytes ? 0 : size(dims) * BYTES[type];
      entry = { proto, value };
      this.#initializers.set(key, entry);
    }
    return entry.value;
  }

  #unique(name: string): string {
    let unique = name;
    for (let count = 2; this.#names.has(unique); count++) {
      unique = `${name}~${count}`;
    }
    this.#names.add(unique);
    return unique;
  }
}

/** Counts the operators that do nearly all of the work; 2 per multiply-add. */
function flopsOf(op: string, [x, y, , past]: readonly Value[], result: Value): number {
  switch (op) {
    case 'Conv':
      return 2 * size(result.dims) * size(y.dims.slice(1));
    case 'ConvTranspose':
      return 2 * size(x.dims) * size(y.dims.slice(1));
    case 'Gemm':
    case 'MatMulNBits':
      return 2 * size(x.dims) * result.dims[result.dims.length - 1];
    case 'MultiHeadAttention': {
      const [batch, queries, width] = x.dims;
      // Scores, then the weighted sum of values.
      return 4 * batch * queries * y.dims[1] * width;
    }
    case 'GroupQueryAttention': {
      // Of one position to as many as there is room for.
      const [batch, , width] = x.dims;
      return 4 * batch * width * past.dims[2];
    }
    case 'MatMul':
      return 2 * size(result.dims) * x.dims[x.dims.length - 1];
    default:
      return 0;
  }
}
