/**
 * The eyes of Qwen2.5-VL: patches of a picture, most layers of which see only their own window, become as many tokens of the language part
 * as there are squares of 2×2 patches.
 * Reference: transformers/models/qwen2_5_vl/modeling_qwen2_5_vl.py, transformers/vision_utils.py
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import type { Value } from './onnx.ts';
import { anglesInput, rotaryTables, type RotaryTables } from './rotary.ts';

export const className = 'Qwen2_5_VisionTransformerPretrainedModel';

export const configSchema = v.pipe(
  v.object({
    depth: count(32),
    hidden_size: count(3584),
    hidden_act: only(['silu'], 'silu'),
    intermediate_size: count(3420),
    num_heads: count(16),
    in_channels: v.optional(v.literal(3), 3),
    patch_size: count(14),
    spatial_merge_size: v.optional(v.literal(2), 2),
    temporal_patch_size: count(2),
    window_size: count(112),
    out_hidden_size: count(3584),
    fullatt_block_indexes: v.optional(v.array(v.number()), () => [7, 15, 23, 31]),
  }),
  v.check(
    ({ hidden_size, num_heads }) => hidden_size % (4 * num_heads) === 0,
    'its num_heads does not divide its hidden_size into fours',
  ),
  v.check(
    ({ window_size, patch_size }) => window_size % (MERGE * patch_size) === 0,
    'its patch_size does not divide its window_size',
  ),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Patches per side of what becomes one token. */
export const MERGE = 2;
const THETA = 10_000;
const EPSILON = 1e-6;

/** A picture's tokens. */
export interface Grid {
  rows: number;
  columns: number;
}

/** Windows of one size. */
export interface Windows {
  count: number;
  /** Tokens of each. */
  tokens: number;
}

export interface Layout {
  groups: Windows[];
  /** Of every place in the network, the token of the picture (row by row) that stands there. */
  order: number[];
}

/** Windows of the same size lie side by side, so that attention takes them as one batch: which is first means nothing to them. */
export function layoutOf({ window_size, patch_size }: Config, { rows, columns }: Grid): Layout {
  const side = window_size / patch_size / MERGE;
  const windows: number[][] = [];
  for (let top = 0; top < rows; top += side) {
    for (let left = 0; left < columns; left += side) {
      const window: number[] = [];
      for (let row = top; row < Math.min(top + side, rows); row++) {
        for (let column = left; column < Math.min(left + side, columns); column++) {
          window.push(row * columns + column);
        }
      }
      windows.push(window);
    }
  }
  const sizes = [...new Set(windows.map(({ length }) => length))].sort((a, b) => b - a);
  const groups = sizes.map((tokens) => windows.filter(({ length }) => length === tokens));
  return {
    groups: groups.map((group, i) => ({ count: group.length, tokens: sizes[i] })),
    order: groups.flat(2),
  };
}

/** Of the patches in the layout's order, whose places are rows and columns of patches. */
export function angles({ hidden_size, num_heads }: Config, { order }: Layout, { columns }: Grid): RotaryTables {
  const half = hidden_size / num_heads / 2;
  const ids = order.flatMap((token) => {
    const [row, column] = [MERGE * Math.floor(token / columns), MERGE * (token % columns)];
    return [
      [row, column],
      [row, column + 1],
      [row + 1, column],
      [row + 1, column + 1],
    ];
  });
  return rotaryTables(ids, [half, half], THETA);
}

export interface Options extends GraphOptions {
  /** The picture's tokens; 8×8 where it is not given. */
  grid?: Grid;
}

/**
 * Inputs `pixel_values` [patches, 3 · temporal_patch_size · patch_size²], four patches for each token in the layout's order, `cos` and `sin`
 * [patches, half a head], `places` [tokens], where each of the picture's tokens stands in the network; output `features` [tokens,
 * out_hidden_size] in the picture's order. All float32 but the places.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: Options): Graph {
  const { hidden_size: dim, num_heads: heads, patch_size, temporal_patch_size, depth } = config;
  const { grid = { rows: 8, columns: 8 } } = options;
  const g = new LayerWriter(className, weights, options);
  const root = rootOf(weights);
  const layout = layoutOf(config, grid);
  const tokens = layout.order.length;
  const square = MERGE * MERGE;
  const pixels = g.floats('pixel_values', [square * tokens, 3 * temporal_patch_size * patch_size ** 2]);
  const turns = anglesInput(g, '', square * tokens, dim / heads / 2);
  let hidden = g.linear(`${root}patch_embed.proj`, pixels, dim, { bias: false });
  for (let layer = 0; layer < depth; layer++) {
    const path = `${root}blocks.${layer}`;
    const windows = config.fullatt_block_indexes.includes(layer) ? [{ count: 1, tokens }] : layout.groups;
    const normal = g.rmsNorm(`${path}.norm1`, hidden, EPSILON);
    hidden = g.add(`${path}/attended`, hidden, attention(g, `${path}.attn`, normal, heads, turns, windows));
    const inner = g.rmsNorm(`${path}.norm2`, hidden, EPSILON);
    hidden = g.swiGlu(`${path}.mlp`, inner, config.intermediate_size, hidden, true);
  }
  const normal = g.rmsNorm(`${root}merger.ln_q`, hidden, EPSILON);
  const squares = g.reshape('merger/squares', normal, [tokens, square * dim]);
  const mid = g.unary('merger/gelu', 'Gelu', g.linear(`${root}merger.mlp.0`, squares, square * dim));
  const merged = g.linear(`${root}merger.mlp.2`, mid, config.out_hidden_size);
  const places = g.input('places', 'int32', [tokens]);
  g.output('features', g.node('merger/picture', 'Gather', [merged, places], merged.dims));
  return g.graph();
}

function attention(
  g: LayerWriter,
  path: string,
  x: Value,
  heads: number,
  turns: Angles,
  windows: readonly Windows[],
): Value {
  const [, dim] = x.dims as [number, number];
  const [q, k, value] = g.split(`${path}/parts`, g.linear(`${path}.qkv`, x, 3 * dim), [dim, dim, dim], 1);
  const rows = windows.map(({ count: number, tokens }) => number * tokens * MERGE * MERGE);
  const inWindows = (name: string, each: Value) => g.split(`${path}/${name}/windows`, each, rows, 0);
  const turned = (name: string, each: Value) => g.rotary(`${path}/${name}/turned`, each, turns, 'halves');
  const [queries, keys, values] = [
    inWindows('q', turned('q', q)),
    inWindows('k', turned('k', k)),
    inWindows('v', value),
  ];
  const mixed = windows.map(({ count: batch }, i) =>
    g.attention(`${path}/${i}`, queries[i], keys[i], values[i], heads, { batch }),
  );
  return g.linear(`${path}.proj`, mixed.length === 1 ? mixed[0] : g.concat(`${path}/mixed`, mixed, 0), dim);
}

function rootOf(weights: WeightIndex): string {
  return weights.get('visual.patch_embed.proj.weight') ? 'visual.' : 'model.visual.';
}
