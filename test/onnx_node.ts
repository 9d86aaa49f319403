/** Runs graphs on the CPU with onnxruntime-node, with the weights of a checkpoint folder. */
import { readFileSync, readdirSync } from 'node:fs';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { External, Graph, StoredTensor, StoredType, WeightIndex } from '../src/graphs/graph.ts';
import { FunctionProtoSchema, ModelProtoSchema } from '../src/graphs/onnx_pb.ts';
import type { ModelProto } from '../src/graphs/onnx_pb.ts';
import { convert } from '../src/weights/conversion.ts';

export type Tensors = Map<string, { dims: number[]; data: Float32Array | Int32Array }>;

interface Header {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

function readHeader(bytes: Buffer): { start: number; entries: [string, Header][] } {
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, Header>;
  return { start: 8 + length, entries: Object.entries(header).filter(([name]) => name !== '__metadata__') };
}

/** All tensors of a golden file (f32 and i32 only). */
export function readTensors(path: string): Tensors {
  const bytes = readFileSync(path);
  const { start, entries } = readHeader(bytes);
  return new Map(
    entries.map(([name, { dtype, shape, data_offsets }]) => {
      const raw = Uint8Array.from(bytes.subarray(start + data_offsets[0], start + data_offsets[1])).buffer;
      return [name, { dims: shape, data: dtype === 'I32' ? new Int32Array(raw) : new Float32Array(raw) }];
    }),
  );
}

/** The weights of one folder of a checkpoint, such as `unet`. */
export class CheckpointFolder implements WeightIndex {
  readonly config: unknown;
  readonly #folder: string;
  readonly #tensors = new Map<string, StoredTensor>();

  constructor(folder: string) {
    this.#folder = folder;
    this.config = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8'));
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
      const { start, entries } = readHeader(readFileSync(`${folder}/${file}`));
      for (const [name, { dtype, shape, data_offsets: range }] of entries.filter(([, { dtype }]) => /F/.test(dtype))) {
        const length = range[1] - range[0];
        this.#tensors.set(name, { name, dtype: dtype as StoredType, shape, file, offset: start + range[0], length });
      }
    }
  }

  get(name: string): StoredTensor | undefined {
    return this.#tensors.get(name);
  }

  names(): Iterable<string> {
    return this.#tensors.keys();
  }

  /** What an external location holds. */
  bytes(external: External): Uint8Array {
    switch (external.kind) {
      case 'file':
        return readFileSync(`${this.#folder}/${external.file}`);
      case 'cast': {
        const { file, offset, length, dtype } = external.tensor;
        const stored = readFileSync(`${this.#folder}/${file}`).subarray(offset, offset + length);
        return convert(Uint8Array.from(stored), dtype, external.to === 'f32' ? 'F32' : 'F16');
      }
      case 'fill': {
        const width = external.type === 'f32' ? 4 : 2;
        const ones = new Float32Array(external.length / width).fill(external.value);
        return convert(new Uint8Array(ones.buffer), 'F32', external.type === 'f32' ? 'F32' : 'F16');
      }
    }
  }
}

type Arrays = Record<string, Float32Array | Int32Array>;

/** A graph in a session; on one thread, as the networks are tiny. */
export class CpuNetwork {
  readonly #graph: Graph;
  readonly #session: InferenceSession;

  private constructor(graph: Graph, session: InferenceSession) {
    this.#graph = graph;
    this.#session = session;
  }

  static async open(graph: Graph, weights: CheckpointFolder): Promise<CpuNetwork> {
    const session = await InferenceSession.create(withCpuKernels(graph.bytes), {
      externalData: graph.externals.map((external) => ({ path: external.location, data: weights.bytes(external) })),
      intraOpNumThreads: 1,
      graphOptimizationLevel: 'basic',
      logSeverityLevel: 3,
    });
    return new CpuNetwork(graph, session);
  }

  /** Inputs and outputs by name. */
  async run(inputs: Arrays): Promise<Record<string, Float32Array>> {
    const feeds = this.#graph.inputs.map(({ name, dtype, dims }) => [name, new Tensor(dtype, inputs[name], dims)]);
    const results = await this.#session.run(Object.fromEntries(feeds) as Record<string, Tensor>);
    return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, data as Float32Array]));
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}

/** Runs `graph` once. */
export async function run(graph: Graph, weights: CheckpointFolder, inputs: Arrays) {
  const network = await CpuNetwork.open(graph, weights);
  try {
    return await network.run(inputs);
  } finally {
    await network.release();
  }
}

export const parseModel = (bytes: Uint8Array): ModelProto => fromBinary(ModelProtoSchema, bytes);

/**
 * The same model with what ONNX Runtime has no CPU kernel for spelled out as a function of other operators.
 * Only `com.microsoft.BiasSplitGelu` (graphs for WebGPU) is.
 */
function withCpuKernels(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const model = parseModel(bytes);
  const gated = model.graph?.node.filter(({ opType }) => opType === 'BiasSplitGelu') ?? [];
  if (gated.length === 0) {
    return bytes;
  }
  for (const node of gated) {
    node.domain = 'test';
  }
  const int = (name: string, i: number) => ({ name, type: 2 as const, i: BigInt(i) });
  const attribute = [int('axis', -1), int('num_outputs', 2)];
  model.opsetImport.push({ ...model.opsetImport[0], domain: 'test', version: 1n });
  model.functions.push(
    create(FunctionProtoSchema, {
      name: 'BiasSplitGelu',
      domain: 'test',
      input: ['x', 'bias'],
      output: ['y'],
      opsetImport: [model.opsetImport[0]],
      node: [
        { opType: 'Add', input: ['x', 'bias'], output: ['sum'] },
        { opType: 'Split', input: ['sum'], output: ['value', 'gate'], attribute },
        { opType: 'Gelu', input: ['gate'], output: ['gelu'] },
        { opType: 'Mul', input: ['value', 'gelu'], output: ['y'] },
      ],
    }),
  );
  return toBinary(ModelProtoSchema, model);
}
