/**
 * The change of one layer as a LoRA's file gives it, held against the layer that it is for.
 *
 * Reference: peft/tuners/lora/layer.py
 */
import * as v from 'valibot';
import type { FactoredDelta, Lengths, StoredTensor } from '../graphs/graph.ts';
import { deltaShape } from './factored_delta.ts';
import { LORA_NETWORKS, type LoraNetwork, type Place } from './lora_names.ts';
import type { TensorEntry } from './safetensors.ts';
import { rowsOf } from './tensor_rows.ts';

/** The change of one layer. */
export type LoraLayer = (ProductLayer | FactoredLayer) & {
  /** DoRA's. */
  lengths?: Pick<Lengths, 'tensor' | 'of'> & { by: 'LyCORIS' | 'PEFT' };
};

/** By several tensors and a formula of its own. */
export interface FactoredLayer {
  factored: FactoredDelta;
  alpha: number;
  scale: number;
}

/** scale · up @ down. */
export interface ProductLayer {
  /** [rank, K], of a convolution [rank, inputs, height, width]. */
  down: StoredTensor;
  /** [N, rank], of a convolution [N, rank, 1, 1]. */
  up: StoredTensor;
  alpha: number;
  /** alpha / rank; alpha / √rank where the file was trained so. */
  scale: number;
}

/** What diffusers keeps of PEFT's configuration, per network. */
const adapterSchema = v.object({
  lora_alpha: v.fallback(v.optional(v.number()), undefined),
  alpha_pattern: v.fallback(v.record(v.string(), v.number()), () => ({})),
  use_rslora: v.fallback(v.boolean(), false),
  use_dora: v.fallback(v.boolean(), false),
});
export type Adapter = v.InferOutput<typeof adapterSchema>;

/** @returns the layer's change, or why its shapes are none */
export function layerAt(
  { weight, rows }: Place,
  down: StoredTensor,
  wholeUp: StoredTensor,
  given: number | undefined,
  adapter: Adapter | undefined,
): ProductLayer | string {
  const up = rows ? rowsOf(wholeUp, rows, `${wholeUp.name}[${rows.from}:${rows.to}]`) : wholeUp;
  const rank = down.shape[0] ?? 0;
  const fits =
    rank > 0 &&
    up.shape.length >= 2 &&
    up.shape[0] === weight.shape[0] &&
    size(up) === up.shape[0] * rank &&
    size(down) === (rank * size(weight)) / weight.shape[0];
  if (!fits) {
    const [rows, columns, own] = [up, down, weight].map(({ shape }) => `[${shape.join(', ')}]`);
    return `${rows} times ${columns}, but this checkpoint has ${own}`;
  }
  const alpha = given ?? patternOf(adapter, weight.name.replace(/\.weight$/, '')) ?? adapter?.lora_alpha ?? rank;
  return { down, up, alpha, scale: alpha / (adapter?.use_rslora ? Math.sqrt(rank) : rank) };
}

/**
 * The lengths that DoRA gives a layer. PEFT's are of rows, however they are laid out; LyCORIS' say by their shape what they are of.
 * @returns undefined where they are of another layer's size, or of inputs of a layer that is part of one
 */
export function lengthsAt(
  { weight, rows }: Place,
  tensor: StoredTensor,
  by: 'LyCORIS' | 'PEFT',
): LoraLayer['lengths'] | undefined {
  const count = size(tensor);
  const [own, inputs = 1] = weight.shape;
  const whole = rows ? (own * rows.of) / (rows.to - rows.from) : own;
  const isOfRows = count === whole && (by === 'PEFT' || tensor.shape[0] === whole);
  if (isOfRows) {
    const flat = { ...tensor, shape: [count] };
    return { tensor: rows ? rowsOf(flat, rows, flat.name) : flat, of: 'rows', by };
  }
  return by === 'LyCORIS' && count === inputs && tensor.shape[0] === 1 && !rows
    ? { tensor, of: 'inputs', by }
    : undefined;
}

/** A convolution through a core. @returns the layer's change, or why its shapes are none */
export function tuckerAt(
  { weight, rows }: Place,
  parts: Record<'down' | 'mid' | 'up', StoredTensor>,
  given: number | undefined,
): FactoredLayer | string {
  const rank = parts.down.shape[0];
  const alpha = given ?? rank;
  return rows === undefined
    ? fitting(weight, { kind: 'tucker', parts, scale: 1 }, alpha, alpha / rank)
    : 'a part of a core, which is none';
}

/**
 * @param isOnInput of (IA)³, whether its factors are the columns'
 * @returns the layer's change, `part` where something of it is missing, or why its shapes are none
 */
export function factoredAt(
  { weight, rows }: Place,
  tensors: ReadonlyMap<string, TensorEntry>,
  file: string,
  given: number | undefined,
  isOnInput: boolean | undefined,
): FactoredLayer | string {
  const parts = Object.fromEntries(
    [...tensors].flatMap(([name, tensor]) => (name === 'on_input' ? [] : [[name, stored(tensor, file)] as const])),
  );
  const kind = KIND_OF.find(([part]) => tensors.has(part))?.[1];
  if (kind === undefined || rows !== undefined) {
    return 'part';
  }
  if (kind === 'scaled') {
    const [rows, columns] = [weight.shape[0], weight.shape[1] ?? 1];
    const factors = parts.weight as StoredTensor | undefined;
    if (!factors || size(factors) !== (isOnInput ? columns : rows)) {
      return `[${factors?.shape.join(', ') ?? ''}] factors, but this checkpoint has [${weight.shape.join(', ')}]`;
    }
    return { factored: { kind: isOnInput ? 'scaled_columns' : 'scaled', parts, scale: 1 }, alpha: 1, scale: 1 };
  }
  if (kind === 'generalised') {
    return generalisedAt(weight, parts, given);
  }
  // The rank is told by the factors; what has none is the change itself.
  const ranked = parts.hada_w1_b ?? parts.lokr_w1_b ?? parts.lokr_w2_b;
  const rank = (ranked as StoredTensor | undefined)?.shape[0];
  const alpha = given ?? rank ?? 1;
  const isFull = kind === 'whole' || rank === undefined;
  return fitting(weight, { kind, parts, scale: 1 }, alpha, isFull ? 1 : alpha / rank);
}

const KIND_OF: [part: string, kind: FactoredDelta['kind']][] = [
  ['hada_w1_a', 'hadamard'],
  ['lokr_w1', 'kronecker'],
  ['lokr_w1_a', 'kronecker'],
  ['diff', 'whole'],
  ['weight', 'scaled'],
  ['a1', 'generalised'],
  ['a2', 'generalised'],
  ['b1', 'generalised'],
  ['b2', 'generalised'],
];

/** GLoRA: weight @ a1 @ a2 + b1 @ b2. LyCORIS before 3 had the names of each pair the other way round. */
function generalisedAt(
  weight: StoredTensor,
  { a1, a2, b1, b2 }: Record<string, StoredTensor | undefined>,
  given: number | undefined,
): FactoredLayer | string {
  if (!a1 || !a2 || !b1 || !b2) {
    return 'part';
  }
  const [outputs, inputs = 1] = weight.shape;
  const orders = [
    { a1, a2, b1, b2 },
    { a1: a2, a2: a1, b1: b2, b2: b1 },
  ];
  const parts = orders.find(({ a1: left, a2: right, b1: up, b2: down }) => {
    const rank = right.shape[0];
    return (
      left.shape[0] === inputs &&
      size(left) === inputs * rank &&
      size(right) === rank * inputs &&
      up.shape[0] === outputs &&
      size(up) === outputs * rank &&
      down.shape[0] === rank &&
      size(down) * outputs === rank * size(weight)
    );
  });
  if (!parts) {
    const shapes = [a1, a2, b1, b2].map(({ shape }) => `[${shape.join(', ')}]`).join(', ');
    return `matrices of ${shapes}, but this checkpoint has [${weight.shape.join(', ')}]`;
  }
  const rank = parts.a2.shape[0];
  const alpha = given ?? rank;
  return { factored: { kind: 'generalised', parts, scale: 1 }, alpha, scale: alpha / rank };
}

function fitting(weight: StoredTensor, factored: FactoredDelta, alpha: number, scale: number): FactoredLayer | string {
  const shape = deltaShape(factored);
  if (!shape) {
    return 'part';
  }
  return shape.rows === weight.shape[0] && shape.rows * shape.columns === size(weight)
    ? { factored, alpha, scale }
    : `[${shape.rows}, ${shape.columns}], but this checkpoint has [${weight.shape.join(', ')}]`;
}

/** @param fail is called where the configuration cannot be read */
export function readAdapters(json: string | undefined, fail: () => void): Partial<Record<LoraNetwork, Adapter>> {
  const adapters: Partial<Record<LoraNetwork, Adapter>> = {};
  try {
    const values = v.parse(v.record(v.string(), v.unknown()), JSON.parse(json ?? '{}'));
    for (const network of LORA_NETWORKS) {
      const own = Object.entries(values).filter(([key]) => key.startsWith(`${network}.`));
      adapters[network] = v.parse(
        adapterSchema,
        Object.fromEntries(own.map(([key, value]) => [key.slice(network.length + 1), value])),
      );
    }
  } catch {
    fail();
  }
  return adapters;
}

/** The alpha that PEFT's configuration gives to single layers, by the end of their paths. */
function patternOf(adapter: Adapter | undefined, path: string): number | undefined {
  return Object.entries(adapter?.alpha_pattern ?? {}).find(
    ([pattern]) => path === pattern || `text_model.${path}` === pattern || path.endsWith(`.${pattern}`),
  )?.[1];
}

/** A tensor of the LoRA's own file, which has a readable type. */
export function stored(tensor: TensorEntry, file: string): StoredTensor {
  return { ...tensor, dtype: tensor.dtype as StoredTensor['dtype'], file };
}

export function size({ shape }: { shape: readonly number[] }): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}
