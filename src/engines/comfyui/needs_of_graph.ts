/** What a graph needs from a server: node classes, and models by file name. Checked before anything is sent. */
import type { ComfyGraph } from '../../core/comfyui.ts';
import type { NodeDefinition } from '../../core/editor_workflow.ts';

export interface Missing {
  /** Node classes. */
  nodes: string[];
  models: { input: string; name: string; offered: string[] }[];
}

/** `/object_info` of one class. */
export type NodeInfo = NodeDefinition;

const FILE = /\.(safetensors|sft|ckpt|pt|pth|bin|gguf|onnx)$/i;

/** @param infoOf definition of a class; null if the server does not have it */
export function missingOf(graph: ComfyGraph, infoOf: (type: string) => NodeInfo | null): Missing {
  const missing: Missing = { nodes: [], models: [] };
  for (const { class_type: type, inputs } of Object.values(graph)) {
    const info = infoOf(type);
    if (!info) {
      missing.nodes = [...new Set([...missing.nodes, type])];
      continue;
    }
    for (const [input, value] of Object.entries(inputs)) {
      const offered = optionsOf(info, input);
      if (typeof value === 'string' && FILE.test(value) && offered && !offered.includes(value)) {
        missing.models.push({ input, name: value, offered });
      }
    }
  }
  return missing;
}

/** The options of an input; null if it has none. */
export function optionsOf({ input }: NodeInfo, name: string): string[] | null {
  const declared = input?.required?.[name] ?? input?.optional?.[name];
  if (!Array.isArray(declared)) {
    return null;
  }
  const [type, options] = declared as [unknown, { options?: unknown } | undefined];
  const list = Array.isArray(type) ? type : type === 'COMBO' ? options?.options : null;
  return Array.isArray(list) ? list.filter((one): one is string => typeof one === 'string') : null;
}

/** The most names to list. */
const SOME = 8;

/** One sentence listing everything missing; null if nothing is. */
export function missingSentence({ nodes, models }: Missing, address: string): string | null {
  const parts = [
    ...(nodes.length > 0
      ? [`${nodes.length === 1 ? 'the node' : 'the nodes'} ${nodes.map(quoted).join(', ')} (install what brings them)`]
      : []),
    ...models.map(({ name, offered }) => `the model ${quoted(name)} (${offer(offered)})`),
  ];
  return parts.length === 0 ? null : `ComfyUI at ${address} lacks ${parts.join(', ')}.`;
}

function offer(names: string[]): string {
  if (names.length === 0) {
    return 'it has none of this kind';
  }
  const shown = names.slice(0, SOME).map(quoted).join(', ');
  return `it has ${shown}${names.length > SOME ? ` and ${names.length - SOME} more` : ''}`;
}

function quoted(name: string): string {
  return `"${name}"`;
}
