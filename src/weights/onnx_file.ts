/**
 * Reads a ready-made `.onnx` file without its weights: embedded weights stay where they are, and the model passed to the runtime refers to
 * them like to external data files. So gigabytes of weights stream to the device however a repository stores them, and a file can be
 * inspected in a few reads.
 *
 * These files come from anywhere: every length is checked against the file, and weights are only read from the checkpoint's own files.
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

/** A declared input or output; null if it has no shape, and strings name dynamic dimensions. */
export interface DeclaredPort {
  name: string;
  /** `TensorProto.DataType` of onnx.proto. */
  type: number;
  dims: (number | string | null)[] | null;
}

export interface OnnxFile {
  path: string;
  /** The model without weights, whose external locations are paths in the checkpoint. */
  bytes: Uint8Array<ArrayBuffer>;
  externals: External[];
  inputs: DeclaredPort[];
  outputs: DeclaredPort[];
  /** Names of nodes that must not run on a GPU: sinusoids of timesteps and positions, and their inputs. */
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

/** Small tensors such as shapes stay inside, because the runtime needs their values for planning. */
const SMALLEST_OUTSIDE = 1024;
/** Bytes per read while searching for fields. */
const WINDOW = 64 * 2 ** 10;
/** A tag and a length. */
const LONGEST_HEAD = 20;
/** The most nodes leading to a timestep's sinusoid; a longer chain belongs to the picture and stays on the GPU. */
const LONGEST_WAY_TO_SINE = 64;
/** The most bytes of nodes and constants; the largest networks' graphs have some 10 MB. */
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
    // Old exporters also list weights as inputs.
    inputs: graph.input.filter(({ name }) => !initializers.has(name)).map(port),
    outputs: graph.output.map(port),
    cpuNodes,
    ...weights,
  };
}

/** The model with each large tensor's bytes replaced by their location in the file. */
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

/** Turns locations relative to the model into checkpoint paths, and checks that the bytes exist. */
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
    // The name comes from the file, so it may only refer to this checkpoint's files beside or below it.
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
 * Sines on GPUs are imprecise (WGSL only promises 2^-11, near zero), and a timestep of 801 is far from zero. These few numbers are
 * computed on the CPU along with everything they depend on, so nothing needs to come back from the GPU. Names every node.
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

/** A decimal integer, else NaN. */
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
