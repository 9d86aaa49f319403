/** The parts of an ONNX model as protobuf messages, and the model that they make. */
import { create, toBinary } from '@bufbuild/protobuf';
import type { FloatType, Port } from './graph.ts';
import type { AttributeProto, NodeProto, TensorProto, ValueInfoProto } from './onnx_pb.ts';
import {
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  ModelProtoSchema,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  ValueInfoProtoSchema,
} from './onnx_pb.ts';

export type ElementType = FloatType | 'i32' | 'i64' | 'u8' | 'bool';

/** A tensor that flows through the graph, or an initializer. */
export interface Value {
  readonly name: string;
  readonly type: ElementType;
  readonly dims: readonly number[];
}

/** Integers become INT(S), text STRING; FLOAT must be requested with {@link float}. */
export type Attribute = number | string | readonly number[] | { float: number };
export type Attributes = Record<string, Attribute>;

export const MICROSOFT = 'com.microsoft';

/** The newest opset whose operators all have WebGPU kernels in ONNX Runtime 1.30. */
const OPSET = 21n;
const IR_VERSION = 10n;

export const DATA_TYPES = {
  f32: DataType.FLOAT,
  f16: DataType.FLOAT16,
  i32: DataType.INT32,
  i64: DataType.INT64,
  u8: DataType.UINT8,
  bool: DataType.BOOL,
} as const;
export const BYTES = { f32: 4, f16: 2, i32: 4, i64: 8, u8: 1, bool: 1 } as const;

export const float = (value: number): { float: number } => ({ float: value });

export const size = (dims: readonly number[]): number => dims.reduce((product, dim) => product * dim, 1);

/** An input or output as a value. */
export const portValue = ({ name, dtype, dims }: Port): Value => ({
  name,
  type: dtype === 'float32' ? 'f32' : 'i32',
  dims,
});

export interface ModelParts {
  name: string;
  nodes: NodeProto[];
  initializers: TensorProto[];
  inputs: readonly Value[];
  outputs: readonly Value[];
}

/** A whole model, serialised. */
export function modelBytes({ name, nodes, initializers, inputs, outputs }: ModelParts): Uint8Array<ArrayBuffer> {
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: IR_VERSION,
      producerName: 'darkroom',
      opsetImport: [
        { domain: '', version: OPSET },
        { domain: MICROSOFT, version: 1n },
      ],
      graph: {
        name,
        node: nodes,
        initializer: initializers,
        input: inputs.map(valueInfo),
        output: outputs.map(valueInfo),
      },
    }),
  );
}

/** Where an initializer's bytes lie outside the model. */
export function external(location: string, offset: number, length: number) {
  return {
    dataLocation: DataLocation.EXTERNAL,
    externalData: [
      { key: 'location', value: location },
      { key: 'offset', value: String(offset) },
      { key: 'length', value: String(length) },
    ],
  };
}

export function attribute(name: string, value: Attribute): AttributeProto {
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

function valueInfo({ name, type, dims }: Value): ValueInfoProto {
  return create(ValueInfoProtoSchema, {
    name,
    type: {
      value: {
        case: 'tensorType',
        value: {
          elemType: DATA_TYPES[type],
          shape: { dim: dims.map((dim) => ({ value: { case: 'dimValue' as const, value: BigInt(dim) } })) },
        },
      },
    },
  });
}
