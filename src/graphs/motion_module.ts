/**
 * Joins the frames of a video in a UNet that otherwise sees each by itself: every position attends to the same position in all other frames.
 * Reference: diffusers/models/unets/unet_motion_model.py, `AnimateDiffTransformer3D`
 */
import { gatedProjection } from './attention.ts';
import { picture } from './elements.ts';
import { type LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export interface MotionModuleOptions {
  layers: number;
  heads: number;
  groups: number;
  /** Length of the position table: the maximum number of frames. */
  longest: number;
}

const GROUP_EPSILON = 1e-6;
const LAYER_EPSILON = 1e-5;

/** @param x [frames, channels, height, width], the frames of one video */
export function motionModule(g: LayerWriter, path: string, x: Value, options: MotionModuleOptions): Value {
  const [frames, channels, height, width] = picture(x);
  const places = height * width;
  // The norm spans all frames, which it sees as the rows of one tall picture.
  const rows = g.transpose(`${path}/rows`, g.reshape(`${path}/places`, x, [frames, channels, places]), [1, 0, 2]);
  const tall = g.reshape(`${path}/tall`, rows, [1, channels, frames, places]);
  const normal = g.groupNorm(`${path}.norm`, tall, options.groups, GROUP_EPSILON);
  const perPlace = g.transpose(`${path}/transpose`, normal, [0, 3, 2, 1]);
  let hidden = g.linear(
    `${path}.proj_in`,
    g.reshape(`${path}/tokens`, perPlace, [places * frames, channels]),
    channels,
  );
  for (let layer = 0; layer < options.layers; layer++) {
    hidden = block(g, `${path}.transformer_blocks.${layer}`, hidden, frames, options);
  }
  const given = g.reshape(`${path}/given`, g.linear(`${path}.proj_out`, hidden, channels), [places, frames, channels]);
  const perFrame = g.transpose(`${path}/frames`, given, [1, 2, 0]);
  return g.add(`${path}/add`, g.reshape(`${path}/picture`, perFrame, x.dims), x);
}

/** BasicTransformerBlock with two attentions over the frames, adding their positions before each. */
function block(g: LayerWriter, path: string, x: Value, frames: number, { heads, longest }: MotionModuleOptions): Value {
  const [rows, width] = x.dims as [number, number];
  const places = rows / frames;
  const stored = `${path}.pos_embed.pe`;
  const positions = g.has(stored)
    ? g.firstOf(
        `${path}/positions/frames`,
        g.reshape(`${path}/positions`, g.weight(stored, [1, longest, width]), [longest, width]),
        frames,
      )
    : sinusoid(g, `${path}/positions`, frames, width);
  const placed = (name: string, normal: Value) => {
    const perPlace = g.reshape(`${path}/${name}/places`, normal, [places, frames, width]);
    const added = g.add(`${path}/${name}/placed`, perPlace, positions);
    return g.reshape(`${path}/${name}/tokens`, added, [rows, width]);
  };
  const attention = (name: string, normal: Value) => {
    const tokens = placed(name, normal);
    const [q, k, v] = ['to_q', 'to_k', 'to_v'].map((part) =>
      g.linear(`${path}.${name}.${part}`, tokens, width, { bias: false }),
    ) as [Value, Value, Value];
    return g.attention(`${path}.${name}`, q, k, v, heads, { batch: places });
  };
  const first = attention('attn1', g.layerNorm(`${path}.norm1`, x, LAYER_EPSILON));
  const between = g.linearAddNorm(`${path}.attn1.to_out.0`, first, x, `${path}.norm2`, LAYER_EPSILON);
  const second = attention('attn2', between.normal);
  const after = g.linearAddNorm(`${path}.attn2.to_out.0`, second, between.residual, `${path}.norm3`, LAYER_EPSILON);
  const fed = g.linear(`${path}.ff.net.2`, gatedProjection(g, `${path}.ff`, after.normal), width);
  return g.add(`${path}/add`, fed, after.residual);
}

/** [frames, width]: sine and cosine in turn, as the published tables are. The runtime computes it when it creates the session. */
function sinusoid(g: LayerWriter, path: string, frames: number, width: number): Value {
  const half = width / 2;
  const turns = Array.from({ length: half }, (_, at) =>
    Math.exp(Math.fround(2 * at * Math.fround(-Math.log(10_000) / width))),
  );
  const places = Array.from({ length: frames }, (_, frame) => frame);
  const column = g.reshape(`${path}/frames`, g.constant(places, 'f32'), [frames, 1]);
  const angles = g.node(`${path}/angles`, 'Mul', [column, g.constant(turns, 'f32')], [frames, half], { type: 'f32' });
  const pair = ['Sin', 'Cos'].map((op) => {
    const wave = g.node(`${path}/${op}`, op, [angles], [frames, half], { type: 'f32' });
    return g.reshape(`${path}/${op}/last`, wave, [frames, half, 1]);
  });
  const table = g.reshape(path, g.concat(`${path}/pairs`, pair, 2), [frames, width]);
  return g.cast(`${path}/cast`, table, g.options.dtype);
}
