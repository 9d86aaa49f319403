/**
 * Converts a workflow saved by ComfyUI's editor into the graph that a server takes, as its own frontend does. Only the server's node
 * definitions say what widgets mean, so they are fetched first.
 */
import * as v from 'valibot';
import type { ComfyGraph, ComfyLink } from './comfyui.ts';
import { StudioError } from './errors.ts';

const id = v.union([v.number(), v.string()]);

const inputSchema = v.object({
  name: v.fallback(v.string(), ''),
  type: v.fallback(v.unknown(), '*'),
  link: v.fallback(v.nullish(v.number()), null),
  widget: v.fallback(v.optional(v.object({ name: v.string() })), undefined),
});

const nodeSchema = v.object({
  id,
  type: v.string(),
  mode: v.fallback(v.number(), 0),
  title: v.optional(v.string()),
  inputs: v.fallback(v.array(inputSchema), []),
  outputs: v.fallback(v.array(v.object({ type: v.fallback(v.unknown(), '*') })), []),
  widgets_values: v.optional(v.unknown()),
  widgets_values_named: v.fallback(v.optional(v.record(v.string(), v.unknown())), undefined),
});

const linkSchema = v.union([
  v.pipe(
    v.looseTuple([v.number(), id, v.number(), id, v.number()]),
    v.transform(([link, from, slot, to, place]) => ({ id: link, from, slot, to, place })),
  ),
  v.pipe(
    v.object({ id: v.number(), origin_id: id, origin_slot: v.number(), target_id: id, target_slot: v.number() }),
    v.transform((link) => ({
      id: link.id,
      from: link.origin_id,
      slot: link.origin_slot,
      to: link.target_id,
      place: link.target_slot,
    })),
  ),
]);

const levelSchema = v.object({ nodes: v.array(nodeSchema), links: v.array(linkSchema) });

export const editorSchema = v.looseObject({
  ...levelSchema.entries,
  definitions: v.optional(
    v.object({ subgraphs: v.fallback(v.array(v.object({ id: v.string(), ...levelSchema.entries })), []) }),
  ),
});

export type EditorWorkflow = v.InferOutput<typeof editorSchema>;
type EditorNode = v.InferOutput<typeof nodeSchema>;
type Level = v.InferOutput<typeof levelSchema>;

/** The parts of one class's `/object_info` that are read here. */
export interface NodeDefinition {
  input?: Partial<Record<'required' | 'optional', Record<string, unknown>>>;
  input_order?: Partial<Record<'required' | 'optional', string[]>>;
  display_name?: string;
}

/** Nodes that exist only in the editor. */
const VIRTUAL = new Set(['Note', 'MarkdownNote', 'Reroute', 'PrimitiveNode']);
const [MUTED, BYPASSED] = [2, 4];
/** The ends of a subgraph's inner links. */
const [INNER_INPUTS, INNER_OUTPUTS] = [-10, -20];

/** Where a node is: in the workflow, or inside instances of subgraphs. */
interface Scope {
  level: Level;
  /** The ids of the instances around it, such as `5:`. */
  prefix: string;
  instance: EditorNode | null;
  parent: Scope | null;
}

/** The node classes that a server must know to run a workflow, including those in subgraphs. */
export function classesOf({ nodes, definitions }: EditorWorkflow): string[] {
  const subgraphs = definitions?.subgraphs ?? [];
  const all = [nodes, ...subgraphs.map((subgraph) => subgraph.nodes)].flat().map(({ type }) => type);
  const inner = new Set(subgraphs.map((subgraph) => subgraph.id));
  return [...new Set(all)].filter((type) => !VIRTUAL.has(type) && !inner.has(type));
}

/**
 * @param definitionOf a node class; null for one that the server does not have
 * @throws StudioError `invalid_operation` for a node of an unknown class: only the class knows the order of its values
 */
export function graphOfEditor(
  workflow: EditorWorkflow,
  definitionOf: (type: string) => NodeDefinition | null,
): ComfyGraph {
  const subgraphs = new Map((workflow.definitions?.subgraphs ?? []).map((subgraph) => [subgraph.id, subgraph]));
  const graph: ComfyGraph = {};

  const scopeOf = (instance: EditorNode, around: Scope): Scope | null => {
    const level = subgraphs.get(instance.type);
    return level ? { level, prefix: `${around.prefix}${instance.id}:`, instance, parent: around } : null;
  };

  /** What comes along a link: another node's output, a value, or nothing. */
  const follow = (link: number, scope: Scope, depth: number): { value: unknown } | null => {
    const found = scope.level.links.find((one) => one.id === link);
    return found && depth < DEEPEST ? outputOf(found.from, found.slot, scope, depth + 1) : null;
  };

  const ofInput = (node: EditorNode, at: number, scope: Scope, depth: number): { value: unknown } | null => {
    const link = node.inputs[at]?.link;
    return typeof link === 'number' ? follow(link, scope, depth) : null;
  };

  const outputOf = (from: number | string, slot: number, scope: Scope, depth: number): { value: unknown } | null => {
    if (from === INNER_INPUTS && scope.instance && scope.parent) {
      const outer = ofInput(scope.instance, slot, scope.parent, depth);
      const name = scope.instance.inputs[slot]?.name ?? '';
      const named = scope.instance.widgets_values_named ?? {};
      return outer ?? (Object.hasOwn(named, name) ? { value: wrapped(named[name]) } : null);
    }
    const node = scope.level.nodes.find((one) => one.id === from);
    if (!node || node.mode === MUTED) {
      return null;
    }
    if (node.mode === BYPASSED) {
      const wanted = node.outputs[slot]?.type;
      const same = node.inputs[slot]?.type === wanted ? slot : node.inputs.findIndex(({ type }) => type === wanted);
      return same < 0 ? null : ofInput(node, same, scope, depth);
    }
    if (node.type === 'Reroute') {
      return ofInput(node, 0, scope, depth);
    }
    if (node.type === 'PrimitiveNode') {
      const values = node.widgets_values;
      return { value: wrapped(Array.isArray(values) ? (values as unknown[])[0] : undefined) };
    }
    const inside = scopeOf(node, scope);
    if (inside) {
      const link = inside.level.links.find(({ to, place }) => to === INNER_OUTPUTS && place === slot);
      return link ? outputOf(link.from, link.slot, inside, depth + 1) : null;
    }
    return { value: [`${scope.prefix}${node.id}`, slot] satisfies ComfyLink };
  };

  const visit = (scope: Scope, depth: number): void => {
    for (const node of scope.level.nodes) {
      if (node.mode === MUTED || node.mode === BYPASSED || VIRTUAL.has(node.type)) {
        continue;
      }
      const inside = scopeOf(node, scope);
      if (inside) {
        if (depth < DEEPEST) {
          visit(inside, depth + 1);
        }
        continue;
      }
      const definition = definitionOf(node.type);
      if (!definition) {
        throw new StudioError(
          'invalid_operation',
          `The server has no node "${node.type}"; install what brings it, or export the workflow with "Export (API)".`,
        );
      }
      const inputs = valuesOf(node, definition);
      node.inputs.forEach(({ name, link }, at) => {
        const given = typeof link === 'number' ? ofInput(node, at, scope, 0) : null;
        if (given) {
          inputs[name] = given.value;
        } else if (typeof link === 'number' && !Object.hasOwn(inputs, name)) {
          delete inputs[name];
        }
      });
      graph[`${scope.prefix}${node.id}`] = {
        class_type: node.type,
        inputs,
        _meta: { title: node.title ?? definition.display_name ?? node.type },
      };
    }
  };
  visit({ level: workflow, prefix: '', instance: null, parent: null }, 0);
  return graph;
}

/** The deepest nesting of links and subgraphs; anything deeper is circular. */
const DEEPEST = 100;

/** Seed inputs of nodes older than the `control_after_generate` hint. */
const OLD_SEED = /^(noise_)?seed$/;

/** The values of a node's widgets by name. */
function valuesOf(node: EditorNode, definition: NodeDefinition): Record<string, unknown> {
  const widgets = widgetsOf(definition);
  const { widgets_values: values, widgets_values_named: named } = node;
  const known = named ?? (isRecord(values) ? values : null);
  if (known) {
    const names = new Set(widgets.map(({ name }) => name));
    return Object.fromEntries(
      Object.entries(known)
        .filter(([name]) => names.has(name.split('.')[0]))
        .map(([name, value]) => [name, wrapped(value)]),
    );
  }
  const list: unknown[] = Array.isArray(values) ? values : [];
  const found: Record<string, unknown> = {};
  let at = 0;
  for (const { name, hasControl, isSeed } of widgets) {
    if (at >= list.length) {
      break;
    }
    found[name] = wrapped(list[at]);
    at += 1;
    if (hasControl || (isSeed && CONTROLS.has(list[at]))) {
      at += 1;
    }
  }
  return found;
}

const CONTROLS = new Set<unknown>(['fixed', 'increment', 'decrement', 'randomize']);

interface Widget {
  name: string;
  /** Whether the next value is the widget's `control_after_generate`, which is no input. */
  hasControl: boolean;
  isSeed: boolean;
}

function widgetsOf({ input, input_order: order }: NodeDefinition): Widget[] {
  return (['required', 'optional'] as const).flatMap((part) => {
    const declared = input?.[part] ?? {};
    return (order?.[part] ?? Object.keys(declared)).flatMap((name): Widget[] => {
      const declaration = declared[name];
      const [type, options] = Array.isArray(declaration) ? (declaration as unknown[]) : [];
      const said = isRecord(options) ? options : {};
      const isWidget =
        Array.isArray(type) ||
        ['INT', 'FLOAT', 'STRING', 'BOOLEAN', 'COMBO', 'COMFY_DYNAMICCOMBO_V3'].includes(String(type));
      return isWidget && said.forceInput !== true
        ? [{ name, hasControl: Boolean(said.control_after_generate), isSeed: OLD_SEED.test(name) }]
        : [];
    });
  });
}

/** Lists would be taken for links. */
function wrapped(value: unknown): unknown {
  return Array.isArray(value) ? { __value__: value as unknown[] } : value;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
