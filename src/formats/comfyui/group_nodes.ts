/**
 * Group nodes, the predecessors of subgraphs: `extra.groupNodes` has the nodes of each by name, and an instance is a node of type
 * `workflow/NAME` (later `workflow>NAME`) with the widgets of all its nodes in a row. An instance is converted into a subgraph here.
 */
import { numberOf, own, textOf } from '../json.ts';
import { MAX_NODES } from './graph.ts';

interface Definition {
  nodes: unknown[];
  /** [from index, from output, to index, to input, …]; those from outside begin at null. */
  links: { from: number; slot: number; to: number; toSlot: number }[];
  /** Outputs that lead outside, as {@link key}. */
  external: Set<string>;
  config: unknown;
}

/** @returns the type's group node as this use of it stands, in the form of a subgraph; null where the type is none */
export function groupAsSubgraph(workflow: unknown, type: string, use: unknown): Record<string, unknown> | null {
  const [, name] = /^workflow[/>](.+)$/s.exec(type) ?? [];
  const definition = name === undefined ? null : definitionOf(own(own(own(workflow, 'extra'), 'groupNodes'), name));
  if (!definition) {
    return null;
  }
  const { nodes, links } = definition;
  const inputs = openInputs(definition);
  const given = listOf(own(use, 'inputs'));
  const names = given.map((input) => textOf(own(input, 'name')) ?? '');
  const all = [
    ...links.map(({ from, slot, to, toSlot }) => ({ from: `${from}`, slot, to: `${to}`, toSlot })),
    ...inputs.flatMap(({ node, input, name }, place) => {
      const slot = names.includes(name) || given.length !== inputs.length ? names.indexOf(name) : place;
      const isLinked = textOf(own(given[slot], 'link')) !== undefined;
      return isLinked ? [{ from: OUTSIDE, slot, to: `${node}`, toSlot: input }] : [];
    }),
    ...openOutputs(definition).map(({ node, output }, toSlot) => ({
      from: `${node}`,
      slot: output,
      to: BEYOND,
      toSlot,
    })),
  ];
  const values = valuesOf(nodes, use);
  const ending = new Map(all.map(({ to, toSlot }, id) => [key(to, toSlot), id]));
  return {
    inputs: names.map((name) => ({ name })),
    links: all.map(({ from, slot, to, toSlot }, id) => ({
      id,
      origin_id: from,
      origin_slot: slot,
      target_id: to,
      target_slot: toSlot,
      type: textOf(own(listOf(own(nodes[Number(from)], 'outputs'))[slot], 'type')) ?? '',
    })),
    nodes: nodes.map((node, index) => ({
      ...(node as object),
      id: `${index}`,
      widgets_values: values[index],
      inputs: listOf(own(node, 'inputs')).map((input, place) => ({
        ...(input as object),
        link: ending.get(key(index, place)) ?? null,
      })),
    })),
  };
}

const [OUTSIDE, BEYOND] = ['-10', '-20'];

function key(node: number | string, slot: number): string {
  return `${node}:${slot}`;
}

function definitionOf(json: unknown): Definition | null {
  const nodes = listOf(own(json, 'nodes')).filter((node) => typeof node === 'object' && node !== null);
  const links = listOf(own(json, 'links')).flatMap((link) => {
    const [from, slot, to, toSlot] = listOf(link).map((part) => (part === null ? undefined : numberOf(part)));
    return from === undefined || to === undefined ? [] : [{ from, slot: slot ?? 0, to, toSlot: toSlot ?? 0 }];
  });
  const external = listOf(own(json, 'external')).map((one) => {
    const [index, slot] = listOf(one).map(numberOf);
    return key(index ?? -1, slot ?? 0);
  });
  return nodes.length === 0 ? null : { nodes, links, external: new Set(external), config: own(json, 'config') };
}

/** The inputs a group node exposes, and their names: a name already used by an earlier node is prefixed with the node's title. */
function openInputs({ nodes, links, config }: Definition): { node: number; input: number; name: string }[] {
  const taken = new Set(links.map(({ to, toSlot }) => key(to, toSlot)));
  const seen = new Map<string, number>();
  return nodes.flatMap((node, index) =>
    listOf(own(node, 'inputs')).flatMap((input, place) => {
      if (taken.has(key(index, place))) {
        return [];
      }
      const inner = textOf(own(input, 'name')) ?? '';
      const chosen = textOf(own(own(own(own(config, `${index}`), 'input'), inner), 'name'));
      const plain = chosen ?? textOf(own(input, 'label')) ?? inner;
      const title = `${textOf(own(node, 'title')) ?? textOf(own(node, 'type')) ?? ''} `;
      const shown = seen.has(plain) ? `${title}${inner}` : plain;
      const times = seen.get(shown);
      seen.set(shown, (times ?? 1) + 1);
      return [{ node: index, input: place, name: times === undefined ? shown : `${title}${times} ${inner}` }];
    }),
  );
}

/** Outputs that lead to another node of the group are hidden, unless they also lead outside or were selected. */
function openOutputs({ nodes, links, external, config }: Definition): { node: number; output: number }[] {
  const inside = new Set(links.map(({ from, slot }) => key(from, slot)));
  return nodes.flatMap((node, index) =>
    listOf(own(node, 'outputs')).flatMap((_, output) => {
      const isHidden = inside.has(key(index, output)) && !external.has(key(index, output));
      const chosen = own(own(own(own(config, `${index}`), 'output'), `${output}`), 'visible');
      return (typeof chosen === 'boolean' ? chosen : !isHidden) ? [{ node: index, output }] : [];
    }),
  );
}

/** The instance's values, distributed over its nodes; the definition's values if the counts differ because some widgets are inputs. */
function valuesOf(nodes: unknown[], use: unknown): unknown[] {
  const defined = nodes.map((node) => own(node, 'widgets_values'));
  const counts = defined.map((values) => listOf(values).length);
  const given = listOf(own(use, 'widgets_values'));
  if (given.length !== counts.reduce((sum, count) => sum + count, 0)) {
    return defined;
  }
  let at = 0;
  return counts.map((count, index) => (count === 0 ? defined[index] : given.slice(at, (at += count))));
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? (value as unknown[]).slice(0, MAX_NODES) : [];
}
