/**
 * A ready-made `.onnx` file, read without its weights: numbers that lie inside of it are left where they are, and the model that is
 * handed to the runtime points at them, as it does at those of external data files. So weights of gigabytes stream to the device,
 * whichever way a repository keeps them, and a file can be looked at in a few reads.
 *
 * These files come from anywhere: every length is checked against the file, and weights are only taken from files of the checkpoint.
 */
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { StudioError } from '../core/errors.ts';
import {
  GraphProtoSchema,
  ModelProtoSchema,
  TensorProtoSchema,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
} from '../graphs/onnx_pb.ts';
import type { GraphProto, ModelProto, TensorProto, ValueInfoProto } from '../graphs/onnx_pb.ts';
import type { External } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';

/** An input or output as the file declares it; null where it declares no shape, a string names a dimension that is free. */
export interface DeclaredPort {
  name: string;
  /** `TensorProto.DataType` of onnx.proto. */
  type: number;
  dims: (number | string | null)[] | null;
}

export interface OnnxFile {
  path: string;
  /** The model without weights; its external locations are paths of the checkpoint. */
  bytes: Uint8Array<ArrayBuffer>;
  externals: External[];
  inputs: DeclaredPort[];
  outputs: DeclaredPort[];
  /** Names of nodes that must not run on a GPU: sinusoids of timesteps and positions, and what leads to them. */
  cpuNodes: string[];
  /** Of all initializers that lie outside of `bytes`. */
  elements: number;
  weightBytes: number;
  largestTensorBytes: number;
  /** Where the last byte of weights in any file ends. */
  furthestByte: number;
}

/** Field numbers of onnx.proto. */
const MODEL_GRAPH = 7;
const GRAPH_INITIALIZER = 5;
const TENSOR_RAW_DATA = 9;

/** Shapes and the like stay inside: the runtime wants to see their values when it plans. */
const SMALLEST_OUTSIDE = 1024;
/** Bytes that are read at once while looking for fields. */
const WINDOW = 64 * 2 ** 10;
/** A tag and a length. */
const LONGEST_HEAD = 20;
/** Nodes that lead to a sinusoid of a timestep; more of them belong to a picture, which stays where it is. */
const LONGEST_WAY_TO_SINE = 64;
/** What nodes and constants may take; graphs of the largest networks have some 10 MB. */
const LARGEST_MODEL = 256 * 2 ** 20;

const BITS: Partial<Record<DataType, number>> = {
  [DataType.FLOAT]: 32,
  [DataType.UINT8]: 8,
  [DataType.INT8]: 8,
  [DataType.UINT16]: 16,
  [DataType.INT16]: 16,
  [DataType.INT32]: 32,
  [DataType.INT64]: 64,
  [DataType.BOOL]: 8,
  [DataType.FLOAT16]: 16,
  [DataType.DOUBLE]: 64,
  [DataType.UINT32]: 32,
  [DataType.UINT64]: 64,
  [DataType.BFLOAT16]: 16,
  [DataType.UINT4]: 4,
  [DataType.INT4]: 4,
};

/**
 * @throws StudioError `checkpoint_incomplete` (a file is missing), `checkpoint_damaged` (not ONNX, cut short, or naming weights outside
 *   of the checkpoint)
 */
export async function readOnnxFile(files: CheckpointFiles, path: string): Promise<OnnxFile> {
  const blob = await files.blob(path);
  let model: ModelProto;
  try {
    model = await modelWithoutWeights(blob, path);
  } catch (cause) {
    throw damaged(`${path} of "${files.name}" is not an ONNX model that can be read`, cause);
  }
  const { graph } = model;
  if (!graph || graph.node.length === 0) {
    throw damaged(`${path} of "${files.name}" is not an ONNX model that can be read`);
  }
  const weights = await pointIntoCheckpoint(graph, files, path);
  const cpuNodes = waysToSines(graph);
  const initializers = new Set(graph.initializer.map(({ name }) => name));
  return {
    path,
    bytes: toBinary(ModelProtoSchema, model),
    // Old exporters list weights among the inputs.
    inputs: graph.input.filter(({ name }) => !initializers.has(name)).map(port),
    outputs: graph.output.map(port),
    cpuNodes,
    ...weights,
  };
}

/** The model with each large tensor's bytes replaced by where in the file they are. */
async function modelWithoutWeights(blob: Blob, path: string): Promise<ModelProto> {
  const reader = new FieldReader(blob);
  const graphParts: Uint8Array[] = [];
  const modelParts: Uint8Array[] = [];
  const initializers: TensorProto[] = [];
  for await (const field of reader.fields(0, blob.size)) {
    if (field.number !== MODEL_GRAPH) {
      modelParts.push(await reader.keep(field.at, field.end));
      continue;
    }
    for await (const part of reader.fields(field.content, field.end)) {
      if (part.number === GRAPH_INITIALIZER) {
        initializers.push(await tensorWithoutBytes(reader, part, path));
      } else {
        graphParts.push(await reader.keep(part.at, part.end));
      }
    }
  }
  const model = fromBinary(ModelProtoSchema, joined(modelParts));
  model.graph = fromBinary(GraphProtoSchema, joined(graphParts));
  model.graph.initializer.push(...initializers);
  return model;
}

async function tensorWithoutBytes(reader: FieldReader, tensor: Field, path: string): Promise<TensorProto> {
  const parts: Uint8Array[] = [];
  let outside: Field | undefined;
  for await (const field of reader.fields(tensor.content, tensor.end)) {
    if (field.number === TENSOR_RAW_DATA && field.end - field.content >= SMALLEST_OUTSIDE) {
      outside = field;
    } else {
      parts.push(await reader.keep(field.at, field.end));
    }
  }
  const proto = fromBinary(TensorProtoSchema, joined(parts));
  if (outside) {
    const begin = path.lastIndexOf('/') + 1;
    const place = { location: path.slice(begin), offset: outside.content, length: outside.end - outside.content };
    const bare = fromBinary(TensorProtoSchema, new Uint8Array());
    proto.rawData = bare.rawData;
    proto.dataLocation = DataLocation.EXTERNAL;
    proto.externalData = Object.entries(place).map(([key, value]) => ({
      $typeName: 'onnx.StringStringEntryProto',
      key,
      value: String(value),
    }));
  }
  return proto;
}

/** Turns locations beside the model into paths of the checkpoint, and checks that the bytes are there. */
async function pointIntoCheckpoint(
  graph: GraphProto,
  files: CheckpointFiles,
  path: string,
): Promise<Pick<OnnxFile, 'externals' | 'elements' | 'weightBytes' | 'largestTensorBytes' | 'furthestByte'>> {
  const folder = path.slice(0, path.lastIndexOf('/') + 1);
  const sizes = new Map<string, number>();
  const facts = { elements: 0, weightBytes: 0, largestTensorBytes: 0, furthestByte: 0 };
  for (const tensor of graph.initializer) {
    if (tensor.dataLocation !== DataLocation.EXTERNAL) {
      continue;
    }
    const entries = new Map(tensor.externalData.map(({ key, value }) => [key, value]));
    const location = (entries.get('location') ?? '').replace(/^(\.\/)+/, '');
    // The name comes from the file: it may only name a file of this checkpoint beside or below it.
    if (!/^[^\\/:]+(\/[^\\/:]+)*$/.test(location) || location.split('/').includes('..')) {
      throw damaged(`${path} of "${files.name}" takes weights from "${location}", which is not a file beside it`);
    }
    const file = `${folder}${location}`;
    if (!files.has(file)) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${files.name}" lacks ${file}, in which the weights of ${path} are; add the missing file.`,
      );
    }
    const size = sizes.get(file) ?? (await files.blob(file)).size;
    sizes.set(file, size);
    const elements = tensor.dims.reduce((product, dim) => product * Number(dim), 1);
    const offset = count(entries.get('offset') ?? '0');
    const length = count(entries.get('length') ?? String((elements * (BITS[tensor.dataType as DataType] ?? 0)) / 8));
    if (!(length > 0) || !(offset + length <= size)) {
      throw damaged(`${file} of "${files.name}" is too short for the weights of ${path}`);
    }
    tensor.externalData = Object.entries({ location: file, offset, length }).map(([key, value]) => ({
      $typeName: 'onnx.StringStringEntryProto',
      key,
      value: String(value),
    }));
    facts.elements += elements;
    facts.weightBytes += length;
    facts.largestTensorBytes = Math.max(facts.largestTensorBytes, length);
    facts.furthestByte = Math.max(facts.furthestByte, offset + length);
  }
  return { externals: [...sizes.keys()].map((file) => ({ location: file, kind: 'file', file })), ...facts };
}

/**
 * Sines on GPUs are imprecise (WGSL promises 2^-11, and that near zero only), and a timestep of 801 is far from zero. These few numbers are
 * computed on the CPU; as all that leads to them is too, nothing has to come back from the GPU. Gives every node a name.
 */
function waysToSines({ node: nodes }: GraphProto): string[] {
  const makers = new Map<string, number>();
  nodes.forEach((node, index) => {
    node.name ||= `node ${index}`;
    for (const output of node.output) {
      makers.set(output, index);
    }
  });
  const all = new Set<string>();
  for (const [index, { opType }] of nodes.entries()) {
    if (opType === 'Sin' || opType === 'Cos') {
      const way = new Set([index]);
      for (const at of way) {
        for (const input of nodes[at].input) {
          const maker = makers.get(input);
          if (maker !== undefined && way.size <= LONGEST_WAY_TO_SINE) {
            way.add(maker);
          }
        }
      }
      if (way.size <= LONGEST_WAY_TO_SINE) {
        for (const at of way) {
          all.add(nodes[at].name);
        }
      }
    }
  }
  return [...all];
}

/** A whole number in decimal, else NaN. */
function count(text: string): number {
  return /^\d{1,15}$/.test(text) ? Number(text) : NaN;
}

function port({ name, type }: ValueInfoProto): DeclaredPort {
  const tensor = type?.value.case === 'tensorType' ? type.value.value : undefined;
  const dims = tensor?.shape?.dim.map(({ value }) => {
    switch (value.case) {
      case 'dimValue':
        return Number(value.value);
      case 'dimParam':
        return value.value;
      default:
        return null;
    }
  });
  return { name, type: tensor?.elemType ?? 0, dims: dims ?? null };
}

function damaged(what: string, cause?: unknown): StudioError {
  return new StudioError('checkpoint_damaged', `${what}; get the file again.`, { cause });
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** One field of a message, as byte positions in the file. */
interface Field {
  number: number;
  at: number;
  content: number;
  end: number;
}

/** Walks the fields of protobuf messages in a file, reading only a window around them. */
class FieldReader {
  #window: Uint8Array = new Uint8Array();
  #begin = 0;
  #kept = 0;

  constructor(readonly blob: Blob) {}

  async *fields(begin: number, end: number): AsyncGenerator<Field> {
    for (let at = begin; at < end;) {
      const head = new BinaryReader(await this.#bytes(at, Math.min(at + LONGEST_HEAD, end)));
      const [number, wireType] = head.tag();
      if (wireType === WireType.LengthDelimited) {
        const length = head.uint32();
        const content = at + head.pos;
        if (content + length > end) {
          throw new RangeError(`A field at byte ${at} ends behind what it is part of.`);
        }
        yield { number, at, content, end: content + length };
        at = content + length;
      } else {
        const content = at + head.pos;
        head.skip(wireType, number);
        yield { number, at, content, end: at + head.pos };
        at += head.pos;
      }
    }
  }

  /** Bytes that go into the model. */
  async keep(begin: number, end: number): Promise<Uint8Array> {
    this.#kept += end - begin;
    if (this.#kept > LARGEST_MODEL) {
      throw new RangeError('There is too much beside the weights.');
    }
    return (await this.#bytes(begin, end)).slice();
  }

  async #bytes(begin: number, end: number): Promise<Uint8Array> {
    if (begin < this.#begin || end > this.#begin + this.#window.length) {
      const until = Math.min(Math.max(end, begin + WINDOW), this.blob.size);
      this.#window = new Uint8Array(await this.blob.slice(begin, until).arrayBuffer());
      this.#begin = begin;
    }
    return this.#window.subarray(begin - this.#begin, end - this.#begin);
  }
}
