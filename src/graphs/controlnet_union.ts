/**
 * What a ControlNet for several kinds of control pictures (union) has beside a plain one: it is told the kind in its time embedding, and one or
 * more transformer layers see what is in the control picture and in the latents, each as one token, before these are added up.
 * Reference: diffusers/models/controlnets/controlnet_union.py, for one picture
 */
import type { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';
import { timeProjection, type Config as UNetConfig } from './unet2d_condition.ts';

export interface Union {
  /** Kinds of control pictures. */
  kinds: number;
  /** Of the transformer. */
  layers: number;
}

/** As all published ones have; their tensors do not tell. */
const HEADS = 8;
const EPSILON = 1e-5;

/** The sinusoids of one kind's being there and the others' not, for the input `control_time` [1, kinds·addition_time_embed_dim]. */
export function kindProjection(config: UNetConfig, { kinds }: Union, kind: number): Float32Array<ArrayBuffer> {
  const width = config.addition_time_embed_dim ?? 0;
  const projection = new Float32Array(kinds * width);
  for (let other = 0; other < kinds; other++) {
    projection.set(timeProjection(config, other === kind ? 1 : 0, width), other * width);
  }
  return projection;
}

/** An addition to the time embedding, of f32, [1, 4·block_out_channels[0]]. */
export function kindEmbedding(g: LayerWriter, config: UNetConfig, { kinds }: Union): Value {
  const path = 'control_add_embedding';
  const width = 4 * config.block_out_channels[0];
  const time = g.input('control_time', 'float32', [1, kinds * (config.addition_time_embed_dim ?? 0)]);
  const hidden = g.linear(`${path}.linear_1`, time, width, { type: 'f32' });
  return g.linear(`${path}.linear_2`, g.silu(`${path}.act`, hidden), width, { type: 'f32' });
}

/**
 * What goes into the down blocks.
 * @param latents behind `conv_in`, [batch, channels, height, width]
 * @param hint [1, channels, height, width]
 */
export function fused(g: LayerWriter, { kinds, layers }: Union, latents: Value, hint: Value): Value {
  const [batch, channels] = latents.dims;
  const { dtype } = g.options;
  // Sums over a picture are too many for half precision.
  const mean = (name: string, x: Value) =>
    g.cast(
      `${name}/cast`,
      g.node(name, 'ReduceMean', [g.cast(`${name}/wide`, x, 'f32'), g.constant([2, 3])], [x.dims[0], channels], {
        type: 'f32',
        attributes: { keepdims: 0 },
      }),
      dtype,
    );
  const which = g.cast('control_kind/cast', g.input('control_kind', 'float32', [1, kinds]), dtype);
  const task = g.node('task', 'MatMul', [which, g.weight('task_embedding', [kinds, channels])], [1, channels]);
  const seen = g.add('seen', mean('hint/mean', hint), task);
  const tokens = [g.expand('seen/rows', seen, [batch, channels]), mean('latents/mean', latents)];
  let x = g.reshape(
    'tokens/rows',
    g.concat(
      'tokens',
      tokens.map((token, n) => g.reshape(`tokens/${n}`, token, [batch, 1, channels])),
      1,
    ),
    [2 * batch, channels],
  );
  for (let layer = 0; layer < layers; layer++) {
    const path = `transformer_layes.${layer}`;
    const normal = g.layerNorm(`${path}.ln_1`, x, EPSILON);
    const [q, k, v] = ['q', 'k', 'v'].map((part) => g.linear(`${path}.attn.${part}`, normal, channels));
    const mixed = g.attention(`${path}.attn`, q, k, v, HEADS, { batch });
    x = g.add(`${path}/attended`, x, g.linear(`${path}.attn.out_proj`, mixed, channels));
    const inner = g.linear(`${path}.mlp.c_fc`, g.layerNorm(`${path}.ln_2`, x, EPSILON), 4 * channels);
    x = g.add(`${path}/mixed`, x, g.linear(`${path}.mlp.c_proj`, g.quickGelu(`${path}.mlp.gelu`, inner), channels));
  }
  const [first] = g.split('told', g.reshape('told/tokens', x, [batch, 2, channels]), [1, 1], 1);
  const shift = g.linear('spatial_ch_projs', g.reshape('told/first', first, [batch, channels]), channels);
  const shifted = g.add('shifted', latents, g.reshape('shift', shift, [batch, channels, 1, 1]));
  return g.add('fused', shifted, hint);
}
