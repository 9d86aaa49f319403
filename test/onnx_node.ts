/** Runs graphs on the CPU with onnxruntime-node, with the weights of a checkpoint folder. */
import { readFileSync, readdirSync } from 'node:fs';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import type { External, Graph, StoredTensor, StoredType, WeightIndex } from '../src/graphs/graph.ts';
import { FunctionProtoSchema, ModelProtoSchema } from '../src/graphs/onnx_pb.ts';
import type { ModelProto } from '../src/graphs/onnx_pb.ts';
import { mount } from '../src/weights/virtual_file.ts';

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

/** The locations of a network's tensors, and the files themselves. */
export interface NetworkWeights extends WeightIndex {
  blobs: Map<string, Blob>;
}

/** The weights of one folder of a checkpoint, such as `unet`. */
export class CheckpointFolder implements NetworkWeights {
  readonly config: unknown;
  readonly blobs = new Map<string, Blob>();
  readonly #tensors = new Map<string, StoredTensor>();

  constructor(folder: string) {
    this.config = JSON.parse(readFileSync(`${folder}/config.json`, 'utf8'));
    for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
      const bytes = readFileSync(`${folder}/${file}`);
      const { start, entries } = readHeader(bytes);
      this.blobs.set(file, new Blob([bytes]));
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
}

/** The bytes [begin, end) that an external location holds, all of them by default, read as the engine does. */
export async function readExternal(
  external: External,
  blobs: Map<string, Blob>,
  begin = 0,
  end?: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const {
    files: [{ data }],
  } = mount([external], blobs, 'jspi');
  return readVirtual((data as Blob).slice(begin, end));
}

/** All bytes of a virtual file, whose parts are only valid until the next one. */
export async function readVirtual(blob: Blob): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(blob.size);
  const reader = blob.stream().getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    bytes.set(part.value, at);
    at += part.value.length;
  }
  return bytes.subarray(0, at);
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

  static async open(graph: Graph, weights: NetworkWeights): Promise<CpuNetwork> {
    const mounted = graph.externals.map(async (external) => ({
      path: external.location,
      data: await readExternal(external, weights.blobs),
    }));
    const session = await InferenceSession.create(withCpuKernels(graph.bytes), {
      externalData: await Promise.all(mounted),
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
export async function run(graph: Graph, weights: NetworkWeights, inputs: Arrays) {
  const network = await CpuNetwork.open(graph, weights);
  try {
    return await network.run(inputs);
  } finally {
    await network.release();
  }
}

export const parseModel = (bytes: Uint8Array): ModelProto => fromBinary(ModelProtoSchema, bytes);

/**
 * The same model with operators that lack a CPU kernel in ONNX Runtime defined as functions of others.
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
