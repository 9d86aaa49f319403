/**
 * IP-Adapters of Stable Diffusion 1 and XL: what CLIP's vision encoder sees in pictures becomes tokens, and these become keys and values beside
 * those of the text in every cross-attention of the UNet.
 * Reference: diffusers/models/embeddings.py (ImageProjection, IPAdapterPlusImageProjection, IPAdapterFullImageProjection),
 * attention_processor.py (IPAdapterAttnProcessor2_0). Tensors have the names of the published files.
 */
import type { VisionOutput } from './clip_vision.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

/** For messages. */
export const className = 'IP-Adapter';

/** Tokens of each picture where it is seen as a whole. */
export const WHOLE_TOKENS = 4;
/** Of the resampler's attention, in every published one. */
const HEAD_WIDTH = 64;
const EPSILON = 1e-5;

/** How the pictures become tokens. */
export type Projection =
  /** The picture as a whole becomes four tokens. */
  | { kind: 'base' }
  /** Each part becomes a token. */
  | { kind: 'full' }
  /** A resampler of `queries` tokens reads the parts. */
  | { kind: 'plus'; queries: number; width: number; inner: number; hidden: number; layers: number };

export interface Config {
  projection: Projection;
  /** Width of what the encoder gives: of the picture as a whole, or of each of its parts. */
  given: number;
  /** The UNet's cross_attention_dim. */
  width: number;
  /** The UNet's cross-attentions in the order of the file: paths of their inputs, and their channels. */
  attentions: readonly { path: string; channels: number }[];
}

/** Tokens that one picture of `parts` parts becomes. */
export function tokensOf({ projection }: Config, parts: number): number {
  return projection.kind === 'base' ? WHOLE_TOKENS : projection.kind === 'full' ? parts : projection.queries;
}

/** What of a picture the adapter is given by the encoder. */
export function givenOutput({ projection }: Config): VisionOutput {
  return projection.kind === 'base' ? 'image_embeds' : 'penultimate_hidden_state';
}

/**
 * Input `image_embeds` [pictures, given], or [pictures, parts, given] of their parts; for each of the attentions the outputs `<path>/k` and
 * `<path>/v` [1, pictures·tokens, channels]. All float32.
 * @param options.batch the number of pictures
 * @param parts of each, as the encoder cuts them
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions, parts: number): Graph {
  const { batch: pictures } = options;
  const { given } = config;
  const g = new LayerWriter(className, weights, options);
  const whole = config.projection.kind === 'base';
  const embeds = g.floats('image_embeds', whole ? [pictures, given] : [pictures, parts, given]);
  const rows = g.reshape('image_embeds/rows', embeds, [whole ? pictures : pictures * parts, given]);
  const tokens = projected(g, config, rows);
  config.attentions.forEach(({ path, channels }, index) => {
    for (const part of ['k', 'v']) {
      const states = g.linear(`ip_adapter.${2 * index + 1}.to_${part}_ip`, tokens, channels, { bias: false });
      g.output(`${path}/${part}`, g.reshape(`${path}/${part}/rows`, states, [1, tokens.dims[0], channels]));
    }
  });
  return g.graph();
}

/** [pictures·tokens, width] */
function projected(g: LayerWriter, config: Config, rows: Value): Value {
  const { projection, given, width } = config;
  switch (projection.kind) {
    case 'base': {
      const all = g.linear('image_proj.proj', rows, WHOLE_TOKENS * width);
      const tokens = g.reshape('image_proj.proj/tokens', all, [rows.dims[0] * WHOLE_TOKENS, width]);
      return g.layerNorm('image_proj.norm', tokens, EPSILON);
    }
    case 'full': {
      const inner = g.unary('image_proj.proj.1', 'Gelu', g.linear('image_proj.proj.0', rows, given));
      return g.layerNorm('image_proj.proj.3', g.linear('image_proj.proj.2', inner, width), EPSILON);
    }
    case 'plus':
      return resampled(g, projection, width, rows);
  }
}

/** IPAdapterPlusImageProjection. */
function resampled(
  g: LayerWriter,
  { queries, width, inner, hidden, layers }: Projection & { kind: 'plus' },
  out: number,
  rows: Value,
): Value {
  const { batch } = g.options;
  const parts = rows.dims[0] / batch;
  const states = g.linear('image_proj.proj_in', rows, width);
  const first = g.weight('image_proj.latents', [1, queries, width]);
  const repeated = g.expand('image_proj.latents/pictures', first, [batch, queries, width]);
  let latents = g.reshape('image_proj.latents/rows', repeated, [batch * queries, width]);
  for (let index = 0; index < layers; index++) {
    const path = `image_proj.layers.${index}`;
    const seen = g.layerNorm(`${path}.0.norm1`, states, EPSILON);
    const own = g.layerNorm(`${path}.0.norm2`, latents, EPSILON);
    const both = g.concat(
      `${path}.0/both`,
      [
        g.reshape(`${path}.0/seen`, seen, [batch, parts, width]),
        g.reshape(`${path}.0/own`, own, [batch, queries, width]),
      ],
      1,
    );
    const all = g.reshape(`${path}.0/rows`, both, [batch * (parts + queries), width]);
    const [k, v] = g.split(
      `${path}.0/split`,
      g.linear(`${path}.0.to_kv`, all, 2 * inner, { bias: false }),
      [inner, inner],
      1,
    );
    const q = g.linear(`${path}.0.to_q`, own, inner, { bias: false });
    const mixed = g.attention(`${path}.0`, q, k, v, inner / HEAD_WIDTH);
    latents = g.linear(`${path}.0.to_out`, mixed, width, { bias: latents });
    const normal = g.layerNorm(`${path}.1.0`, latents, EPSILON);
    const active = g.unary(`${path}.1.2`, 'Gelu', g.linear(`${path}.1.1`, normal, hidden, { bias: false }));
    latents = g.linear(`${path}.1.3`, active, width, { bias: latents });
  }
  return g.layerNorm('image_proj.norm_out', g.linear('image_proj.proj_out', latents, out), EPSILON);
}
