/**
 * Converts the editor's form of a graph (`workflow`: nodes with widgets, a list of links, definitions of subgraphs) into what its frontend
 * would send: subgraphs and group nodes are expanded, muted nodes dropped, bypassed ones passed through, and editor-only features (reroutes,
 * primitives, notes, Set and Get nodes, Use Everywhere) resolved.
 */
import { numberOf, own, textOf } from '../json.ts';
import { groupAsSubgraph } from './group_nodes.ts';
import { MAX_NODES, MAX_WALK, type Graph, type Input, type Link, type Output } from './graph.ts';
import { widgetNames, widgetValues } from './widgets.ts';

const [MUTED, BYPASSED] = [2, 4];
/** The nodes at which a subgraph's links from and to the outside start and end. */
const [FROM_OUTSIDE, TO_OUTSIDE] = ['-10', '-20'];
/** Subgraphs within subgraphs. */
const MAX_DEPTH = 16;

const REROUTE = /^(reroute|reroute \(rgthree\)|reroutetextprimitive.*)$/i;
const SET = /^(easy )?setnode$/i;
const GET = /^(easy )?getnode$/i;
const NOTE = /^(note|markdownnote|label \(rgthree\)|fast (groups )?(muter|bypasser|actions button) ?(\(rgthree\))?)$/i;

interface RawLink {
  from: string;
  slot: number;
  to: string;
  toSlot: number;
  type: string;
}

interface RawNode {
  id: string;
  type: string;
  mode: unknown;
  json: unknown;
  slots: { name: string; type: string; link: string | null }[];
  widgets: Map<string, unknown>;
}

/** The nodes of the graph itself, or of one use of a subgraph. */
interface Scope {
  prefix: string;
  nodes: Map<string, RawNode>;
  links: Map<string, RawLink>;
  /** Of the subgraph; null for the graph itself. */
  definition: unknown;
  parent: { scope: Scope; instance: RawNode } | null;
  children: Map<string, Scope>;
}

type Source = Input | null;

/** @returns null when the object holds no node */
export function editorGraph(json: Record<string, unknown> | null): Graph | null {
  const definitions = new Map<string, unknown>();
  const subgraphs = own(own(json, 'definitions'), 'subgraphs');
  for (const one of Array.isArray(subgraphs) ? subgraphs.slice(0, MAX_NODES) : []) {
    definitions.set(textOf(own(one, 'id')) ?? '', one);
  }
  if (!json || !Array.isArray(json.nodes)) {
    return null;
  }
  const graph: Graph = new Map();
  const insideOf = (type: string, node: unknown) => definitions.get(type) ?? groupAsSubgraph(json, type, node);
  const scope = scopeOf(json, null, null, '', insideOf, { nodes: MAX_NODES, depth: MAX_DEPTH });
  addNodes(scope, graph);
  return graph.size > 0 ? graph : null;
}

/**
 * @param insideOf the content of a node of that type, in the form of a subgraph; null for most
 * @param budget shared by all scopes: two uses in each of twenty subgraphs are a million nodes
 */
function scopeOf(
  json: unknown,
  definition: unknown,
  parent: Scope['parent'],
  prefix: string,
  insideOf: (type: string, node: unknown) => unknown,
  budget: { nodes: number; depth: number },
): Scope {
  const scope: Scope = { prefix, nodes: new Map(), links: linksOf(json), definition, parent, children: new Map() };
  const nodes = own(json, 'nodes');
  for (const node of Array.isArray(nodes) ? (nodes as unknown[]) : []) {
    const id = textOf(own(node, 'id'));
    const type = own(node, 'type');
    if (id === undefined || typeof type !== 'string' || budget.nodes <= 0) {
      continue;
    }
    budget.nodes--;
    const raw = { id, type, mode: own(node, 'mode'), json: node, slots: slotsOf(node), widgets: new Map() };
    raw.widgets = widgetsOf(raw, scope);
    scope.nodes.set(id, raw);
    const inner = insideOf(type, node) ?? null;
    if (inner !== null && budget.depth > 0) {
      budget.depth--;
      scope.children.set(id, scopeOf(inner, inner, { scope, instance: raw }, `${prefix}${id}:`, insideOf, budget));
      budget.depth++;
    }
  }
  linkEverywhere(scope, json);
  return scope;
}

/** Links added by Use Everywhere when the graph is sent are listed separately; an input with a link of its own keeps it. */
function linkEverywhere({ nodes, links }: Scope, json: unknown): void {
  const listed = own(own(json, 'extra'), 'ue_links');
  for (const [i, link] of (Array.isArray(listed) ? listed.slice(0, MAX_NODES) : []).entries()) {
    const [from, to] = ['upstream', 'downstream'].map((name) => textOf(own(link, name)) ?? '');
    const [slot, toSlot] = ['upstream_slot', 'downstream_slot'].map((name) => numberOf(own(link, name)) ?? 0);
    const input = nodes.get(to)?.slots.at(toSlot);
    if (input?.link === null && nodes.has(from)) {
      input.link = `everywhere:${i}`;
      links.set(input.link, { from, slot, to, toSlot, type: textOf(own(link, 'type')) ?? '' });
    }
  }
}

/** Version 0.4 lists links as [id, from node, from output, to node, to input, type]; version 1 and subgraphs have objects. */
function linksOf(json: unknown): Map<string, RawLink> {
  const links = own(json, 'links');
  const found = new Map<string, RawLink>();
  for (const link of Array.isArray(links) ? links.slice(0, 4 * MAX_NODES) : []) {
    const [id, from, slot, to, toSlot, type] = Array.isArray(link)
      ? (link as unknown[])
      : ['id', 'origin_id', 'origin_slot', 'target_id', 'target_slot', 'type'].map((name) => own(link, name));
    found.set(String(textOf(id)), {
      from: textOf(from) ?? '',
      slot: numberOf(slot) ?? 0,
      to: textOf(to) ?? '',
      toSlot: numberOf(toSlot) ?? 0,
      type: textOf(type) ?? '',
    });
  }
  return found;
}

function slotsOf(node: unknown): RawNode['slots'] {
  const inputs = own(node, 'inputs');
  return (Array.isArray(inputs) ? inputs : []).slice(0, MAX_WALK).map((input: unknown) => ({
    name: textOf(own(input, 'name')) ?? '',
    type: textOf(own(input, 'type')) ?? '',
    link: textOf(own(input, 'link')) ?? null,
  }));
}

/** An instance of a subgraph exposes widgets of its nodes, with values for this instance. */
function widgetsOf(raw: RawNode, scope: Scope): Map<string, unknown> {
  const shown = shownWidgets(raw.json);
  const widgets = shown
    ? new Map(shown.flatMap(({ node, name, value }) => (node === '-1' ? [[name, value] as const] : [])))
    : widgetValues(raw.json, raw.type);
  for (const { node, name, value } of (scope.parent && shownWidgets(scope.parent.instance.json)) ?? []) {
    if (node === raw.id && value !== undefined && value !== null) {
      widgets.set(name, value);
    }
  }
  return widgets;
}

function shownWidgets(instance: unknown): { node: string; name: string; value: unknown }[] | null {
  const shown = own(own(instance, 'properties'), 'proxyWidgets');
  const values = own(instance, 'widgets_values');
  if (!Array.isArray(shown) || shown.length === 0) {
    return null;
  }
  return shown.flatMap((pair: unknown, i) => {
    const [node, name] = Array.isArray(pair) ? pair.map(textOf) : [];
    return node === undefined || name === undefined
      ? []
      : [{ node, name, value: Array.isArray(values) ? (values[i] as unknown) : undefined }];
  });
}

function addNodes(scope: Scope, graph: Graph): void {
  for (const raw of scope.nodes.values()) {
    const { id, type, mode } = raw;
    if (mode === MUTED || mode === BYPASSED || isVirtual(type)) {
      continue;
    }
    const inner = scope.children.get(id);
    if (inner) {
      addNodes(inner, graph);
      continue;
    }
    const inputs = new Map<string, Input>([...raw.widgets].map(([name, value]) => [name, { value }]));
    for (const { name, link } of raw.slots) {
      const source = link === null ? null : sourceOf(scope, link);
      if (source) {
        inputs.set(name, source);
      }
    }
    const full = scope.prefix + id;
    graph.set(full, { id: full, type, title: textOf(own(raw.json, 'title')) ?? null, inputs, outputs: outputsOf(raw) });
  }
}

function isVirtual(type: string): boolean {
  return type === 'PrimitiveNode' || [REROUTE, SET, GET, NOTE].some((kind) => kind.test(type));
}

function outputsOf({ json }: RawNode): Output[] {
  const outputs = own(json, 'outputs');
  return (Array.isArray(outputs) ? outputs : []).slice(0, MAX_WALK).map((output: unknown) => ({
    name: textOf(own(output, 'name')) ?? '',
    type: textOf(own(output, 'type')) ?? '',
  }));
}

/** The real node's output, or the value, that arrives over a link. */
function sourceOf(scope: Scope, link: string): Source {
  let at: { scope: Scope; link: RawLink } | null = withLink(scope, link);
  for (let hops = 0; at && hops < MAX_WALK; hops++) {
    const step: Step = stepBack(at.scope, at.link);
    if (step === null || 'source' in step) {
      return step?.source ?? null;
    }
    at = withLink(step.scope, step.link);
  }
  return null;
}

type Step = { source: Source } | { scope: Scope; link: string | null } | null;

function withLink(scope: Scope, id: string | null): { scope: Scope; link: RawLink } | null {
  const link = id === null ? undefined : scope.links.get(id);
  return link ? { scope, link } : null;
}

function stepBack(scope: Scope, link: RawLink): Step {
  if (link.from === FROM_OUTSIDE && scope.parent) {
    return stepOut(scope, scope.parent, link.slot);
  }
  const node = scope.nodes.get(link.from);
  if (!node || node.mode === MUTED) {
    return null;
  }
  const inner = scope.children.get(node.id);
  if (node.mode === BYPASSED) {
    return { scope, link: bypass(scope, node, link) };
  }
  if (inner) {
    const [id] = [...inner.links].find(([, { to, toSlot }]) => to === TO_OUTSIDE && toSlot === link.slot) ?? [];
    return { scope: inner, link: id ?? null };
  }
  if (REROUTE.test(node.type)) {
    return { scope, link: node.slots.at(0)?.link ?? null };
  }
  if (GET.test(node.type)) {
    return setNode(scope, nameOfSetting(node));
  }
  if (node.type === 'PrimitiveNode') {
    const values = own(node.json, 'widgets_values');
    return { source: { value: Array.isArray(values) ? (values[0] as unknown) : undefined } };
  }
  return SET.test(node.type)
    ? { scope, link: node.slots.at(0)?.link ?? null }
    : { source: { link: { node: scope.prefix + node.id, output: link.slot } satisfies Link } };
}

/** Resolves a subgraph's input to what the instance gets there: a link, or its widget's value. */
function stepOut({ definition }: Scope, { scope, instance }: NonNullable<Scope['parent']>, slot: number): Step {
  const inputs = own(definition, 'inputs');
  const name = textOf(own(Array.isArray(inputs) ? inputs[slot] : null, 'name')) ?? '';
  const given = instance.slots.find((one) => one.name === name) ?? instance.slots.at(slot);
  if (typeof given?.link === 'string') {
    return { scope, link: given.link };
  }
  const widget = widgetNames(instance.json).includes(name) || instance.widgets.has(name) ? name : (given?.name ?? '');
  return instance.widgets.has(widget) ? { source: { value: instance.widgets.get(widget) } } : null;
}

/** A bypassed node passes through the input at the output's index if its type fits, else the first input of that type. */
function bypass(scope: Scope, { slots }: RawNode, { slot, type }: RawLink): string | null {
  const fits = (at: RawNode['slots'][number] | undefined) => {
    const types = [at?.type, typeof at?.link !== 'string' ? undefined : scope.links.get(at.link)?.type];
    return (
      typeof at?.link === 'string' && (type === '' || type === '*' || types.some((one) => one === type || one === '*'))
    );
  };
  const found = fits(slots.at(slot)) ? slots.at(slot) : slots.find(fits);
  return found?.link ?? null;
}

function nameOfSetting({ json, widgets }: RawNode): string | undefined {
  const values = own(json, 'widgets_values');
  return textOf(Array.isArray(values) ? values[0] : (widgets.get('value') ?? [...widgets.values()][0]));
}

/** Set nodes are searched in the same graph, then in the enclosing ones. */
function setNode(start: Scope, name: string | undefined): Step {
  for (let scope: Scope | undefined = start; scope; scope = scope.parent?.scope) {
    for (const node of scope.nodes.values()) {
      if (SET.test(node.type) && name !== undefined && nameOfSetting(node) === name && node.mode !== MUTED) {
        return { scope, link: node.slots.at(0)?.link ?? null };
      }
    }
  }
  return null;
}
