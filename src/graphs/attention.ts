/**
 * Transformer blocks of the UNet and the autoencoder's attention.
 * Reference: diffusers/models/transformers/transformer_2d.py, attention.py, attention_processor.py
 */
import type { LayerWriter } from './layers.ts';
import { picture } from './elements.ts';
import { MICROSOFT } from './onnx.ts';
import type { Value } from './onnx.ts';

export interface TransformerOptions {
  layers: number;
  heads: number;
  groups: number;
  text: Text;
  /** The first attention attends to the text, too. */
  onlyCross: boolean;
  /** Attention in f32 even in an f16 graph: Stable Diffusion 2.1's scores exceed f16's range. */
  upcast: boolean;
}

export interface Text {
  /** Tokens per prompt. */
  sequence: number;
  /** Hidden states [batch·sequence, width]; null if everything that depends on the text alone is an input. */
  states: Value | null;
  /** Tokens of each image prompt, whose keys and values are inputs of every second attention; absent = there is none. */
  images?: readonly number[] | undefined;
}

/** What the input is called by which an attention gets the keys (`k`) or values (`v`) of an image prompt. */
export function imageInput(path: string, place: number, part: 'k' | 'v'): string {
  return `${path}/image.${place}/${part}`;
}

/** GroupNorm inside Transformer2DModel; LayerNorm inside its blocks. */
const GROUP_EPSILON = 1e-6;
const LAYER_EPSILON = 1e-5;

/**
 * Transformer2DModel on a picture. Linear and 1×1 convolution projections have the same bytes and become the same Gemm, as the tokens are
 * channels-last either way.
 */
export function transformer2d(g: LayerWriter, path: string, x: Value, options: TransformerOptions): Value {
  const channels = picture(x)[1];
  let hidden = g.groupNorm(`${path}.norm`, x, options.groups, GROUP_EPSILON);
  hidden = g.tokens(`${path}/tokens`, hidden);
  hidden = g.linear(`${path}.proj_in`, hidden, channels);
  for (let index = 0; index < options.layers; index++) {
    const block = transformerBlock(g, `${path}.transformer_blocks.${index}`, hidden, options);
    const last = index + 1 === options.layers;
    if (last && !options.text.states) {
      // The Gemm adds the residual stream in place of its bias, which is folded into the next projection's bias.
      hidden = g.linear(block.linear, block.hidden, channels, { bias: block.residual });
      hidden = g.linear(`${path}.proj_out`, hidden, channels, { bias: g.floats(`${path}.proj_out/bias`, [channels]) });
    } else {
      hidden = g.add(`${block.linear}/add`, g.linear(block.linear, block.hidden, channels), block.residual);
      hidden = last ? g.linear(`${path}.proj_out`, hidden, channels) : hidden;
    }
  }
  return g.add(`${path}/add`, g.untokens(`${path}/picture`, hidden, x), x);
}

/**
 * BasicTransformerBlock with layer_norm and GEGLU, except for its last step: applying the linear layer `linear` to `hidden` and adding the
 * result to `residual`.
 */
function transformerBlock(g: LayerWriter, path: string, x: Value, options: TransformerOptions) {
  let residual = x;
  let normal = g.layerNorm(`${path}.norm1`, x, LAYER_EPSILON);
  let mixed = options.onlyCross
    ? crossAttention(g, `${path}.attn1`, normal, options)
    : selfAttention(g, `${path}.attn1`, normal, options);
  ({ normal, residual } = g.linearAddNorm(`${path}.attn1.to_out.0`, mixed, residual, `${path}.norm2`, LAYER_EPSILON));
  mixed = crossAttention(g, `${path}.attn2`, normal, options, options.text.images);
  ({ normal, residual } = g.linearAddNorm(`${path}.attn2.to_out.0`, mixed, residual, `${path}.norm3`, LAYER_EPSILON));
  return { linear: `${path}.ff.net.2`, hidden: gatedProjection(g, `${path}.ff`, normal), residual };
}

function selfAttention(g: LayerWriter, path: string, x: Value, { heads, upcast }: TransformerOptions): Value {
  const [q, k, v] = ['to_q', 'to_k', 'to_v'].map((name) => g.linear(`${path}.${name}`, x, x.dims[1], { bias: false }));
  return g.attention(path, q, k, v, heads, { upcast });
}

/** @param images tokens of each image prompt; what attention finds there is added to what it finds in the text */
function crossAttention(
  g: LayerWriter,
  path: string,
  x: Value,
  { heads, upcast, text }: TransformerOptions,
  images: readonly number[] = [],
): Value {
  const width = x.dims[1];
  const q = g.linear(`${path}.to_q`, x, width, { bias: false });
  const [k, v] = ['k', 'v'].map((part) =>
    text.states
      ? g.linear(`${path}.to_${part}`, text.states, width, { bias: false })
      : g.floats(`${path}/${part}`, [g.options.batch, text.sequence, width]),
  );
  return images.reduce(
    (sum, tokens, place) => {
      const [key, value] = (['k', 'v'] as const).map((part) =>
        g.floats(imageInput(path, place, part), [g.options.batch, tokens, width]),
      );
      const seen = g.attention(`${path}/image.${place}`, q, key, value, heads, { upcast });
      return g.add(`${path}/image.${place}/add`, sum, seen);
    },
    g.attention(path, q, k, v, heads, { upcast }),
  );
}

/**
 * What the blocks of a Transformer2DModel compute from the text alone, as outputs named like the inputs of {@link transformer2d} when
 * `text.states` is null.
 */
export function textProjections(g: LayerWriter, path: string, channels: number, options: TransformerOptions): void {
  const { text, layers, onlyCross } = options;
  for (let index = 0; index < layers; index++) {
    for (const attention of onlyCross ? ['attn1', 'attn2'] : ['attn2']) {
      const block = `${path}.transformer_blocks.${index}.${attention}`;
      for (const part of ['k', 'v']) {
        const projected = g.linear(`${block}.to_${part}`, text.states as Value, channels, { bias: false });
        const rows = g.reshape(`${block}.to_${part}/batch`, projected, [g.options.batch, text.sequence, channels]);
        g.output(`${block}/${part}`, rows);
      }
    }
  }
  const bias = g.weight(`${path}.transformer_blocks.${layers - 1}.ff.net.2.bias`, [1, channels]);
  const projected = g.linear(`${path}.proj_out`, bias, channels);
  g.output(`${path}.proj_out/bias`, g.reshape(`${path}.proj_out/vector`, projected, [channels]));
}

/** The first layer of FeedForward, GEGLU: the first half of the projection times the GELU of the second. */
export function gatedProjection(g: LayerWriter, path: string, x: Value): Value {
  const [rows, width] = x.dims as [number, number];
  const inner = 4 * width;
  const projection = `${path}.net.0.proj`;
  if (g.options.provider === 'webgpu') {
    const projected = g.linear(projection, x, 2 * inner, { bias: false });
    const inputs = [
      g.reshape(`${projection}/batch`, projected, [1, rows, 2 * inner]),
      g.weight(`${projection}.bias`, [2 * inner]),
    ];
    const gated = g.node(`${path}.net.0`, 'BiasSplitGelu', inputs, [1, rows, inner], { domain: MICROSOFT });
    return g.reshape(`${path}.net.0/tokens`, gated, [rows, inner]);
  }
  // BiasSplitGelu has no CPU kernel.
  const projected = g.linear(projection, x, 2 * inner);
  const half = { dims: [rows, inner] };
  const [value, gate] = g.nodes(`${path}.net.0/split`, 'Split', [projected], [half, half], {
    attributes: { axis: 1, num_outputs: 2 },
  }) as [Value, Value];
  return g.binary(`${path}.net.0`, 'Mul', value, g.unary(`${path}.net.0/gelu`, 'Gelu', gate));
}

/** Names of an attention block's linear layers, now and in checkpoints from before 2023. */
const NAMES = [
  { q: 'to_q', k: 'to_k', v: 'to_v', out: 'to_out.0' },
  { q: 'query', k: 'key', v: 'value', out: 'proj_attn' },
] as const;

/** Single-head attention over a picture's pixels, as in the autoencoder's middle block. */
export function pictureAttention(g: LayerWriter, path: string, x: Value, groups: number, epsilon: number): Value {
  const c = picture(x)[1];
  const names = NAMES.find(({ q }) => g.has(`${path}.${q}.weight`)) ?? NAMES[0];
  const normal = g.tokens(`${path}/tokens`, g.groupNorm(`${path}.group_norm`, x, groups, epsilon));
  const q = g.linear(`${path}.${names.q}`, normal, c);
  const k = g.linear(`${path}.${names.k}`, normal, c);
  const v = g.linear(`${path}.${names.v}`, normal, c);
  const mixed = g.linear(`${path}.${names.out}`, g.attention(path, q, k, v, 1), c);
  return g.add(`${path}/add`, g.untokens(`${path}/picture`, mixed, x), x);
}
