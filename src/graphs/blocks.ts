/**
 * Cuts a graph into blocks that run one after another. Their weights become inputs, so that blocks that compute the same are one model, which is
 * run again and again with other weights: a transformer of sixty layers is three or four small sessions. What is equal is found by comparing the
 * models, in which nodes and values are numbered and no longer named, so no architecture has to say how its blocks differ.
 */
import { clone } from '@bufbuild/protobuf';
import { assert } from '../core/errors.ts';
import {
  onDevice,
  type Block,
  type BlockGraphs,
  type BlockWeight,
  type External,
  type Graph,
  type Port,
} from './graph.ts';
import { NodeProtoSchema, TensorProtoSchema, type NodeProto, type TensorProto } from './onnx_pb.ts';
import { BYTES, modelBytes, size, type Value } from './onnx_protos.ts';

/** A whole graph as its writer has it. */
export interface WrittenGraph {
  name: string;
  nodes: readonly NodeProto[];
  /** By name. */
  initializers: ReadonlyMap<string, { proto: TensorProto; value: Value }>;
  /** Inputs and nodes' results by name. */
  values: ReadonlyMap<string, Value>;
  inputs: readonly Port[];
  outputs: readonly Port[];
  externals: ReadonlyMap<string, External>;
  /** Before which nodes to cut. */
  cuts: readonly number[];
}

const WEIGHT_TYPES = { f32: 'float32', f16: 'float16', u8: 'uint8' } as const;

/** Whether a weight becomes an input of its block's model. */
type IsInput = (name: string, external: External) => boolean;

/**
 * Equal blocks that run as one where all weights are on the device. The runtime submits at the end of each run and plans within a session alone
 * which values share a buffer, so longer runs submit and clear less; beyond four there is little left to save.
 */
const TOGETHER = 4;

/** The graph in the pieces that its builder says. */
export function blocksOf(graph: WrittenGraph): BlockGraphs {
  const edges = edgesOf(graph, graph.cuts);
  const apart = cutAt(graph, graph.cuts, () => true);
  const cuts = edgesThatStay(edges, apart.blocks);
  return cuts.length === edges.length ? apart : { ...apart, joined: () => cutAt(graph, cuts, () => true) };
}

/** Where pieces begin and end when as many equal ones are one. */
function edgesThatStay(edges: readonly number[], blocks: readonly Block[]): number[] {
  let together = 0;
  return edges.filter((_, piece) => {
    const isSame = piece > 0 && piece < blocks.length && blocks[piece].kind === blocks[piece - 1].kind;
    together = isSame && together < TOGETHER ? together + 1 : 1;
    return together === 1;
  });
}

/** Inputs of nodes that are matrices, which the runtime uses as they lie, as constants and as inputs. */
const MATRICES: Readonly<Record<string, readonly number[]>> = { Gemm: [1], MatMul: [1], MatMulNBits: [1, 2] };

/**
 * The graph in one piece. Inputs are matrices and whatever has changes now. Convolutions without any are not: the runtime brings constant
 * kernels into its own order once, others at every run.
 * @param names weights that are to be inputs in any case
 */
export function adjustable(graph: WrittenGraph, names: ReadonlySet<string> = new Set()): BlockGraphs {
  const matrices = new Set(
    graph.nodes.flatMap(({ opType, input }) => (MATRICES[opType] ?? []).flatMap((place) => input[place] ?? [])),
  );
  const isChanged = (external: External) => 'tensor' in external && external.tensor.deltas !== undefined;
  return cutAt(graph, [], (name, external) => matrices.has(name) || names.has(name) || isChanged(external));
}

function cutAt(graph: WrittenGraph, cuts: readonly number[], isInput: IsInput): BlockGraphs {
  const edges = edgesOf(graph, cuts);
  const pieces = edges.slice(1).map((end, i) => graph.nodes.slice(edges[i], end));
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  const lastReader = new Map<string, number>(Array.from(outputs, (name) => [name, Infinity]));
  pieces.forEach((nodes, piece) => {
    for (const name of nodes.flatMap(({ input }) => input)) {
      lastReader.set(name, Math.max(piece, lastReader.get(name) ?? 0));
    }
  });

  const kinds: Pick<Graph, 'bytes' | 'externals'>[] = [];
  const values = new Map<string, readonly number[]>();
  const used = new UsedExternals();
  const blocks = pieces.map((nodes, piece): Block => {
    const cut = new Piece(graph, nodes, (name) => (lastReader.get(name) ?? 0) > piece, isInput);
    let kind = kinds.findIndex(({ bytes }) => areEqual(bytes, cut.model.bytes));
    if (kind < 0) {
      kind = kinds.push(cut.model) - 1;
    }
    for (const { value } of cut.outputs.filter((output) => !outputs.has(output.value))) {
      const { type, dims } = valueOf(graph, value);
      assert(type === 'f32', `${value} goes from block to block as f32`);
      values.set(value, dims);
    }
    for (const { location, offset, length } of cut.weights) {
      used.add(externalOf(graph, location), offset, length);
    }
    const weightBytes = cut.weights.reduce((sum, { length }) => sum + onDevice(length), 0);
    return { kind, inputs: cut.inputs, outputs: cut.outputs, weights: cut.weights, weightBytes };
  });
  return { kinds, blocks, values, externals: used.all, inputs: graph.inputs, outputs: graph.outputs };
}

function edgesOf({ nodes }: WrittenGraph, cuts: readonly number[]): number[] {
  return [...new Set([0, ...cuts, nodes.length])].sort((a, b) => a - b);
}

function areEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function valueOf(graph: WrittenGraph, name: string): Value {
  const value = graph.values.get(name);
  assert(value, `${name} is a value of the graph`);
  return value;
}

function externalOf(graph: WrittenGraph, location: string): External {
  const external = graph.externals.get(location);
  assert(external, `${location} is a location of the graph`);
  return external;
}

/** What is used of external locations. */
class UsedExternals {
  readonly #externals = new Map<string, External>();

  get all(): External[] {
    return [...this.#externals.values()];
  }

  add(external: External, offset: number, length: number): void {
    const { location } = external;
    const known = this.#externals.get(location);
    if (external.kind === 'file') {
      const ranges = (known?.kind === 'file' && known.ranges) || [];
      this.#externals.set(location, { ...external, ranges: [...ranges, [offset, offset + length]] });
    } else {
      this.#externals.set(location, external);
    }
  }
}

/** Some consecutive nodes as a model of their own. */
class Piece {
  readonly model: Pick<Graph, 'bytes' | 'externals'>;
  readonly inputs: { port: string; value: string }[] = [];
  readonly outputs: { port: string; value: string }[] = [];
  readonly weights: BlockWeight[] = [];
  readonly #graph: WrittenGraph;
  /** What the graph's names are called here. */
  readonly #names = new Map<string, string>();
  readonly #ports: Value[] = [];
  readonly #constants: TensorProto[] = [];
  readonly #externals = new UsedExternals();
  readonly #isInput: IsInput;

  /** @param outlives whether a value is needed after these nodes */
  constructor(graph: WrittenGraph, nodes: readonly NodeProto[], outlives: (name: string) => boolean, isInput: IsInput) {
    this.#graph = graph;
    this.#isInput = isInput;
    const renamed = nodes.map((node, index) => {
      const copy = clone(NodeProtoSchema, node);
      copy.name = `node.${index}`;
      copy.input = node.input.map((name) => this.#inputOf(name));
      copy.output = node.output.map((name) => (name === '' ? '' : this.#called(name, 'value')));
      return copy;
    });
    const results = nodes.flatMap(({ output }) => output).filter((name) => name !== '' && outlives(name));
    const outputs = results.map((name): Value => {
      const port = this.#called(name, 'value');
      this.outputs.push({ port, value: name });
      return { ...valueOf(graph, name), name: port };
    });
    this.model = {
      bytes: modelBytes({
        name: graph.name,
        nodes: renamed,
        initializers: this.#constants,
        inputs: this.#ports,
        outputs,
      }),
      externals: this.#externals.all,
    };
  }

  #called(name: string, kind: string): string {
    const known = this.#names.get(name);
    const called = known ?? `${kind}.${this.#names.size}`;
    this.#names.set(name, called);
    return called;
  }

  #inputOf(name: string): string {
    const known = name === '' ? '' : this.#names.get(name);
    if (known !== undefined) {
      return known;
    }
    const initializer = this.#graph.initializers.get(name);
    if (!initializer) {
      const port = this.#called(name, 'input');
      this.inputs.push({ port, value: name });
      this.#ports.push({ ...valueOf(this.#graph, name), name: port });
      return port;
    }
    const { proto, value } = initializer;
    const where = new Map(proto.externalData.map((entry) => [entry.key, entry.value]));
    const location = where.get('location');
    const external = location === undefined ? null : externalOf(this.#graph, location);
    const [offset, length] = [Number(where.get('offset')), size(value.dims) * BYTES[value.type]];
    // Buffers are written in whole words.
    const isBound = external && external.kind !== 'fill' && length % 4 === 0 && this.#isInput(name, external);
    if (location === undefined || !isBound) {
      const port = this.#called(name, 'constant');
      const copy = clone(TensorProtoSchema, proto);
      copy.name = port;
      this.#constants.push(copy);
      if (external) {
        this.#externals.add(external, offset, length);
      }
      return port;
    }
    const { type, dims } = value;
    assert(type === 'f32' || type === 'f16' || type === 'u8', `${name} is of a type that weights have`);
    const port = this.#called(name, 'weight');
    this.#ports.push({ name: port, type, dims });
    this.weights.push({
      port,
      name,
      type: WEIGHT_TYPES[type],
      dims,
      location,
      offset,
      length,
    });
    return port;
  }
}
