/**
 * Writes ONNX models whose weights stay where they are: each initializer names a byte range of a checkpoint's own file.
 *
 * Shapes are static, so every value carries its dimensions and mistakes surface while the graph is built. Node names are the
 * reference implementation's module paths, so that a graph and the PyTorch module can be read side by side.
 */
import { create, toBinary } from '@bufbuild/protobuf';
import { assert, StudioError } from '../core/errors.ts';
import type { External, FloatType, Graph, GraphOptions, Port, StoredTensor, StoredType, WeightIndex } from './graph.ts';
import type { AttributeProto, NodeProto, TensorProto, ValueInfoProto } from './onnx_pb.ts';
import {
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  TensorProtoSchema,
  ValueInfoProtoSchema,
} from './onnx_pb.ts';

export type ElementType = FloatType | 'i32' | 'i64';

/** A tensor that flows through the graph, or an initializer. */
export interface Value {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
}

/** Whole numbers become INT(S), text STRING; FLOAT has to be asked for with {@link float}. */
export type Attribute = number | string | readonly number[] | { float: number };
export type Attributes = Record<string, Attribute>;

export interface OutputShape {
  dims: readonly number[];
  type?: ElementType;
}

export const MICROSOFT = 'com.microsoft';

/** The newest opset whose operators all have WebGPU kernels in ONNX Runtime 1.30. */
const OPSET = 21n;
const IR_VERSION = 10n;
/** ONNX Runtime's asyncify build cuts offsets to 32 bits. */
const OFFSET_LIMIT = 2 ** 32;

const DATA_TYPES = {
  f32: DataType.FLOAT,
  f16: DataType.FLOAT16,
  i32: DataType.INT32,
  i64: DataType.INT64,
} as const;
const BYTES = { f32: 4, f16: 2 } as const;
const STORED: Record<StoredType, FloatType | null> = { F32: 'f32', F16: 'f16', BF16: null };

export const float = (value: number): { float: number } => ({ float: value });

export const size = (dims: readonly number[]): number => dims.reduce((product, dim) => product * dim, 1);

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

  /** @param name of the graph: the class of the network and, where it has several, its part */
  constructor(name: string, weights: WeightIndex, options: GraphOptions) {
    this.#name = name;
    this.#weights = weights;
    this.options = options;
  }

  /** Declares an input; float32 inputs of an f16 graph are to be cast by the caller. */
  input(name: string, dtype: Port['dtype'], dims: readonly number[]): Value {
    this.#inputs.push({ name, dtype, dims: [...dims] });
    this.#names.add(name);
    return { name, type: dtype === 'float32' ? 'f32' : 'i32', dims };
  }

  /** Makes `value` an output called `name`, casting it to float32 where it is not. */
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
    this.#outputs.push({ name, dtype: 'float32', dims: [...value.dims] });
  }

  /** Whether the checkpoint has this tensor. */
  has(name: string): boolean {
    return this.#weights.get(name) !== undefined;
  }

  /**
   * The initializer for a tensor of the checkpoint.
   * @param dims what the architecture expects, or another shape of as many elements (only bytes count)
   * @throws StudioError `checkpoint_incomplete` when the tensor is missing, `checkpoint_damaged` when it has another size
   */
  weight(name: string, dims: readonly number[], type: FloatType = this.options.dtype): Value {
    const tensor = this.#tensor(name, dims);
    return this.#initializer(`${name} ${type}[${dims.join(',')}]`, name, dims, type, () =>
      this.#externalWeight(tensor, type, size(dims)),
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

  /** Adds a node with one output, which has the node's name. */
  node(
    name: string,
    op: string,
    inputs: readonly (Value | null)[],
    dims: readonly number[],
    more: { type?: ElementType; domain?: string; attributes?: Attributes } = {},
  ): Value {
    const [value] = this.nodes(name, op, inputs, [{ dims, ...(more.type ? { type: more.type } : {}) }], more);
    assert(value, 'a node has an output');
    return value;
  }

  /** Adds a node with several outputs; `null` leaves an optional input or output out. */
  nodes(
    name: string,
    op: string,
    inputs: readonly (Value | null)[],
    outputs: readonly (OutputShape | null)[],
    more: { domain?: string; attributes?: Attributes } = {},
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
    const model = create(ModelProtoSchema, {
      irVersion: IR_VERSION,
      producerName: 'darkroom',
      opsetImport: [
        { domain: '', version: OPSET },
        { domain: MICROSOFT, version: 1n },
      ],
      graph: {
        name: this.#name,
        node: this.#nodes,
        initializer: Array.from(this.#initializers.values(), ({ proto }) => proto),
        input: this.#inputs.map(valueInfo),
        output: this.#outputs.map(valueInfo),
      },
    });
    return {
      bytes: toBinary(ModelProtoSchema, model),
      externals: [...this.#externals.values()],
      inputs: this.#inputs,
      outputs: this.#outputs,
      nodes: this.#nodes.length,
    };
  }

  /** @param count of elements from the tensor's first one on */
  #externalWeight(tensor: StoredTensor, type: FloatType, count: number) {
    const { file, name, offset } = tensor;
    if (STORED[tensor.dtype] === type && offset + tensor.length <= OFFSET_LIMIT) {
      this.#externals.set(file, { location: file, kind: 'file', file });
      return external(file, offset, count * BYTES[type]);
    }
    const location = `${file}#${name}.${type}`;
    const length = size(tensor.shape) * BYTES[type];
    this.#externals.set(location, { location, kind: 'cast', tensor, to: type, length });
    return external(location, 0, count * BYTES[type]);
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
      const proto = create(TensorProtoSchema, {
        name: value.name,
        dims: dims.map(BigInt),
        dataType: DATA_TYPES[type],
        ...data(),
      });
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

function external(location: string, offset: number, length: number) {
  return {
    dataLocation: DataLocation.EXTERNAL,
    externalData: [
      { key: 'location', value: location },
      { key: 'offset', value: String(offset) },
      { key: 'length', value: String(length) },
    ],
  };
}

function attribute(name: string, value: Attribute): AttributeProto {
  if (typeof value === 'number') {
    return create(AttributeProtoSchema, { name, type: AttributeType.INT, i: BigInt(value) });
  }
  if (typeof value === 'string') {
    const s = Uint8Array.from(value, (character) => character.charCodeAt(0));
    return create(AttributeProtoSchema, { name, type: AttributeType.STRING, s });
  }
  if ('float' in value) {
    return create(AttributeProtoSchema, { name, type: AttributeType.FLOAT, f: value.float });
  }
  return create(AttributeProtoSchema, { name, type: AttributeType.INTS, ints: value.map(BigInt) });
}

function valueInfo(port: Port): ValueInfoProto {
  return create(ValueInfoProtoSchema, {
    name: port.name,
    type: {
      value: {
        case: 'tensorType',
        value: {
          elemType: port.dtype === 'float32' ? DataType.FLOAT : DataType.INT32,
          shape: { dim: port.dims.map((dim) => ({ value: { case: 'dimValue' as const, value: BigInt(dim) } })) },
        },
      },
    },
  });
}
