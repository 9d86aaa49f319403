/** What the networks of Stable Audio and Stable Audio 3 share. */
import type { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

/** A convolution of one latent each, added to them. */
export function mixed(g: LayerWriter, path: string, x: Value): Value {
  return g.linear(path, x, x.dims[1], { bias: x });
}

/** Two linear layers with SiLU between them: `${path}.0` and `${path}.2`. */
export function twoLayers(
  g: LayerWriter,
  path: string,
  x: Value,
  out: number,
  options: { bias?: boolean } = {},
): Value {
  return g.linear(`${path}.2`, g.silu(`${path}.1`, g.linear(`${path}.0`, x, out, options)), out, options);
}

/** How queries, keys and values of two views lie in one layer: first, second of each, as in diffusers, or the second views last. */
export type QkvOrder = 'views' | 'authors';

/**
 * One layer for all of them. @returns queries and keys, each view after the other, [rows, views · dim], and values [rows, dim]
 * @param twice whether there are two views
 */
export function queriesKeysValues(
  g: LayerWriter,
  path: string,
  x: Value,
  { twice, order }: { twice: boolean; order: QkvOrder },
): [query: Value, key: Value, value: Value] {
  const dim = x.dims[1];
  const views = twice ? 2 : 1;
  const all = g.linear(`${path}.to_qkv`, x, (2 * views + 1) * dim, { bias: false });
  if (order === 'views' || !twice) {
    return g.split(`${path}/qkv`, all, [views * dim, views * dim, dim], 1) as [Value, Value, Value];
  }
  const [q1, k1, value, q2, k2] = g.split(`${path}/qkv`, all, [dim, dim, dim, dim, dim], 1);
  return [g.concat(`${path}/queries`, [q1, q2], 1), g.concat(`${path}/keys`, [k1, k2], 1), value];
}

/**
 * Differential attention (https://arxiv.org/abs/2410.05258): what the second queries see by the second keys is taken from what the first see.
 * Both are one attention of twice as many heads.
 * @param qkv queries and keys [rows, views · width], values [keys, width]
 * @param twice whether there are two views; otherwise it is plain attention
 * @param options as of `LayerWriter.attention`
 */
export function differential(
  g: LayerWriter,
  path: string,
  { q, k, v }: Record<'q' | 'k' | 'v', Value>,
  heads: number,
  twice: boolean,
  options: { bias?: Value; batch?: number } = {},
): Value {
  if (!twice) {
    return g.attention(path, q, k, v, heads, options);
  }
  const width = v.dims[1];
  const both = g.attention(path, q, k, g.concat(`${path}/values`, [v, v], 1), 2 * heads, options);
  const [first, second] = g.split(`${path}/views`, both, [width, width], 1);
  return g.binary(`${path}/difference`, 'Sub', first, second);
}
