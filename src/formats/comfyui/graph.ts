/**
 * ComfyUI's graphs in one form: nodes by id, each input a value or a link to another node's output. Graphs come from anywhere, with
 * arbitrary nodes and cycles, so every walk over them is bounded.
 */
import { isObject, own, textOf } from '../json.ts';

export interface Link {
  node: string;
  output: number;
}

export type Input = { link: Link } | { value: unknown };

/** A node's description of one of its outputs; '' if the file does not say. */
export interface Output {
  name: string;
  type: string;
}

export interface Node {
  id: string;
  type: string;
  /** The author's name for it; null if it only has its type. */
  title: string | null;
  inputs: Map<string, Input>;
  /** Only known from the editor's form. */
  outputs: readonly Output[];
}

export type Graph = Map<string, Node>;

/** A node as reached through one of its outputs; −1 for the first one of a walk. */
export interface Place {
  node: Node;
  output: number;
}

/** Of one graph, subgraphs included. */
export const MAX_NODES = 5_000;
/** Nodes on one walk, and inputs of one node. */
export const MAX_WALK = 200;

/** The API form. @returns null when the object holds no node */
export function apiGraph(json: Record<string, unknown> | null): Graph | null {
  const graph: Graph = new Map();
  for (const [id, node] of Object.entries(nodesOf(json)).slice(0, MAX_NODES)) {
    const type = own(node, 'class_type');
    const inputs = own(node, 'inputs');
    if (typeof type === 'string' && isObject(inputs)) {
      graph.set(id, {
        id,
        type,
        title: textOf(own(own(node, '_meta'), 'title')) ?? null,
        inputs: new Map(Object.entries(inputs).map(([name, value]) => [name, inputOf(value)])),
        outputs: [],
      });
    }
  }
  return graph.size > 0 ? graph : null;
}

/** Other programs wrap the nodes: `{"prompt": {…}}`, `{"output": {…}}`, or the queue's list of number, id and nodes. */
function nodesOf(json: Record<string, unknown> | null): Record<string, unknown> {
  for (const name of ['prompt', 'output']) {
    const inner = own(json, name);
    const nodes: unknown = Array.isArray(inner) ? inner.find(isObject) : inner;
    if (isObject(nodes) && !own(nodes, 'class_type')) {
      return nodes;
    }
  }
  return json ?? {};
}

function inputOf(value: unknown): Input {
  if (Array.isArray(value) && value.length === 2 && textOf(value[0]) !== undefined && typeof value[1] === 'number') {
    return { link: { node: String(value[0]), output: value[1] } };
  }
  // Lists are wrapped, because a plain one means a link.
  return { value: own(value, '__value__') ?? value };
}

/** Adds the output names from the editor's form of the same graph to nodes of the API form. */
export function nameOutputs(graph: Graph, editor: Graph | null): void {
  for (const node of graph.values()) {
    const drawn = editor?.get(node.id);
    if (drawn?.type === node.type) {
      node.outputs = drawn.outputs;
    }
  }
}

export function follow(graph: Graph, input: Input | undefined): Place | null {
  const node = input && 'link' in input ? graph.get(input.link.node) : undefined;
  return node && input && 'link' in input ? { node, output: input.link.output } : null;
}

/** The names of the inputs that are links. */
export function linkNames({ inputs }: Node): string[] {
  return [...inputs].flatMap(([name, input]) => ('link' in input ? [name] : [])).slice(0, MAX_WALK);
}

export function literal(node: Node, name: string): unknown {
  const input = node.inputs.get(name);
  return input && 'value' in input ? input.value : undefined;
}

/** A node's mode as a word; also true and false, and '' if there is none. */
export function word(node: Node, name: string): string {
  const value = literal(node, name);
  return typeof value === 'string' || typeof value === 'boolean' ? String(value) : '';
}

/** All nodes upstream of these, including themselves. */
export function upstreamOf(graph: Graph, starts: Iterable<Node>): Set<Node> {
  const seen = new Set<Node>(starts);
  for (const node of seen) {
    for (const input of node.inputs.values()) {
      const place = follow(graph, input);
      if (place) {
        seen.add(place.node);
      }
    }
  }
  return seen;
}
