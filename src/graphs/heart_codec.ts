/**
 * HeartCodec, from codes to sound: codes become what a flow is told, the flow makes latents of noise, and a convolutional decoder makes samples of
 * these.
 * Reference: heartlib/heartcodec/modeling_heartcodec.py and its models
 */
import * as v from 'valibot';
import { count, counts, flag, only, parseNetworkConfig, unused } from './config.ts';
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { scaledAndShifted, gated, oneMore } from './modulation.ts';
import type { Value } from './onnx.ts';
import { anglesInput, speedsOf, turnsOf, type RotaryTables } from './rotary.ts';

export const className = 'HeartCodec';

/** Constants of heartlib's code. */
export const CHANNELS = 2;
const NORM_EPSILON = 1e-6;
const MLP_MULTIPLE = 256;
const PROJECTION_KERNEL = 3;
const ROPE_BASE = 10_000;
export const TIME_WIDTH = 512;
const DILATIONS = [1, 3, 5, 7, 9];
/** Latents of a second, and frames of codes. */
export const LATENTS_PER_SECOND = 25;
export const FRAMES_PER_SECOND = 12.5;
/** Width of latents in the code that makes sounds of codes, whatever the configuration says. */
const LATENT_WIDTH = 256;
/** Steps of the scalar quantiser between 0 and 1. */
const QUANTISER = 9;

export const configSchema = v.pipe(
  v.object({
    dim: count(512),
    codebook_size: count(8192),
    codebook_dim: count(32),
    num_quantizers: count(8),
    attention_head_dim: count(64),
    in_channels: count(1024),
    norm_type: only(['ada_norm_single'], 'ada_norm_single'),
    num_attention_heads: count(24),
    num_layers: count(24),
    num_layers_2: count(6),
    out_channels: v.optional(v.literal(LATENT_WIDTH), LATENT_WIDTH),
    num_bands: v.optional(v.literal(1), 1),
    sample_rate: count(48000),
    causal: v.pipe(flag(true), v.literal(true)),
    num_samples: count(2),
    upsample_factors: counts([5, 4, 4, 4, 3]),
    upsample_kernel_sizes: counts([10, 8, 8, 8, 6]),
    latent_hidden_dim: v.optional(v.literal(LATENT_WIDTH / CHANNELS), LATENT_WIDTH / CHANNELS),
    default_kernel_size: count(7),
    delay_kernel_size: count(5),
    init_channel: count(64),
    res_kernel_size: count(7),
    use_cosine_sim: unused(false),
  }),
  v.check(
    ({ upsample_factors: factors, upsample_kernel_sizes: kernels }) =>
      factors.length === kernels.length && factors.every((factor, i) => kernels[i] === 2 * factor),
    'its upsample_kernel_sizes do not fit its upsample_factors',
  ),
  v.check(
    (config) => config.sample_rate === LATENTS_PER_SECOND * hopOf(config),
    'its sample_rate and upsample_factors do not fit: a second is 25 latents',
  ),
  v.check(
    ({ in_channels, out_channels, dim }) => in_channels === 2 * out_channels + dim,
    'its in_channels do not fit what its flow is told',
  ),
  v.check(({ attention_head_dim: head }) => head % 2 === 0, 'its attention_head_dim is odd'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Samples of each channel that a latent stands for. */
export function hopOf({ upsample_factors, num_samples }: { upsample_factors: number[]; num_samples: number }): number {
  return upsample_factors.reduce((product, factor) => product * factor, num_samples);
}

/** The table of the codes of one quantiser, [codebook_size, codebook_dim]. */
export const codebook = (quantiser: number): string => `flow_matching.vq_embed.layers.${quantiser}._codebook.embed`;

/** As the decoder wants latents: to the nearest of the quantiser's steps, halves to even ones. */
export function quantised(latent: number): number {
  const steps = Math.fround(QUANTISER * latent);
  const below = Math.floor(steps);
  const rest = steps - below;
  const even = below % 2 === 0 ? below : below + 1;
  return Math.fround((rest === 0.5 ? even : Math.round(steps)) / QUANTISER);
}

/** The sinusoid of a time from 0 to 1, [1, 512], cosines first. */
export function timeProjection(time: number): Float32Array<ArrayBuffer> {
  const half = TIME_WIDTH / 2;
  const waves = new Float32Array(TIME_WIDTH);
  for (let i = 0; i < half; i++) {
    const speed = Math.fround(Math.exp(Math.fround(Math.fround(-Math.log(10_000) * i) / half)));
    const angle = Math.fround(Math.fround(Math.fround(time) * speed) * 1000);
    waves[i] = Math.cos(angle);
    waves[half + i] = Math.sin(angle);
  }
  return waves;
}

/**
 * What the flow is told of frames: input `codes` [frames, codebook_dim], the sum of a frame's rows of all codebooks; output `told` [frames, dim].
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildCodes(config: Config, weights: WeightIndex, options: GraphOptions & { frames: number }): Graph {
  const g = new LayerWriter(`${className} codes`, weights, options);
  const codes = g.floats('codes', [options.frames, config.codebook_dim]);
  const quantised = g.linear('flow_matching.vq_embed.project_out', codes, config.dim);
  g.output('told', g.linear('flow_matching.cond_feature_emb', quantised, config.dim));
  return g.graph();
}

/** Angles of positions in both parts of the flow, whose heads are of different widths. */
export function flowAngles(config: Config, length: number): Record<'' | 'wide_', RotaryTables> {
  const positions = Array.from({ length }, (_, position) => position);
  const of = (head: number) => turnsOf(speedsOf(ROPE_BASE, head), positions);
  return { '': of(config.attention_head_dim), wide_: of(2 * config.attention_head_dim) };
}

/**
 * One step of the flow. Inputs `sample` [batch · length, in_channels] (latents, those that are known, and what it is told, side by side), `time`
 * [1, 512] of {@link timeProjection}, `cos`, `sin`, `wide_cos` and `wide_sin` of {@link flowAngles}; output `velocity` [batch · length,
 * out_channels]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildFlow(config: Config, weights: WeightIndex, options: GraphOptions & { length: number }): Graph {
  const { attention_head_dim: head, num_attention_heads: heads, out_channels } = config;
  const { batch, length } = options;
  const g = new LayerWriter(`${className} flow`, weights, options);
  const root = 'flow_matching.estimator';
  const sample = g.floats('sample', [batch * length, config.in_channels]);
  const time = g.floats('time', [1, TIME_WIDTH]);
  const width = heads * head;

  const part = (path: '' | '_2', x: Value, layers: number, dim: number) => {
    const prefix = path === '' ? '' : 'wide_';
    const turns = anglesInput(g, prefix, length, dim / heads / 2);
    const adaln = `${root}.adaln_single${path}`;
    const embedder = `${adaln}.emb.timestep_embedder`;
    const mid = g.silu(`${embedder}.act`, g.linear(`${embedder}.linear_1`, time, dim));
    const embedded = g.linear(`${embedder}.linear_2`, mid, dim);
    const modulation = g.linear(`${adaln}.linear`, g.silu(`${adaln}.silu`, embedded), 6 * dim);
    let hidden = x;
    for (let layer = 0; layer < layers; layer++) {
      hidden = block(g, `${root}.transformer_blocks${path}.${layer}`, hidden, modulation, heads, turns);
    }
    const table = g.weight(`${root}.scale_shift_table${path}`, [2, dim]);
    const [shift, scale] = g.split(`${root}/last${path}`, g.add(`${root}/table${path}`, table, embedded), [1, 1], 0);
    const normal = g.plainNorm(`${root}.norm_out${path}`, hidden, NORM_EPSILON);
    return scaledAndShifted(g, `${root}.norm_out${path}`, normal, {
      shift,
      scale: oneMore(g, `${root}/scale${path}`, scale),
    });
  };

  const narrow = part('', projection(g, `${root}.proj_in`, sample, width, length), config.num_layers, width);
  const both = g.concat(`${root}/both`, [sample, narrow], 1);
  const joined = projection(g, `${root}.connection_proj`, both, 2 * width, length);
  const wide = part('_2', joined, config.num_layers_2, 2 * width);
  g.output('velocity', projection(g, `${root}.proj_out`, wide, out_channels, length));
  return g.graph();
}

/** ProjectLayer: a convolution along time, and a linear layer. */
function projection(g: LayerWriter, path: string, x: Value, out: number, length: number): Value {
  const [rows, width] = x.dims as [number, number];
  const batch = rows / length;
  const line = g.transpose(`${path}/line`, g.reshape(`${path}/rows`, x, [batch, 1, length, width]), [0, 3, 1, 2]);
  const convolved = along(g, `${path}.ffn_1`, line, out, { kernel: PROJECTION_KERNEL, left: 1, right: 1 });
  const tokens = g.tokens(`${path}/tokens`, convolved);
  return g.linear(`${path}.ffn_2`, g.scaleShift(`${path}/scaled`, tokens, PROJECTION_KERNEL ** -0.5, 0), out);
}

/** LlamaTransformerBlock with `ada_norm_single`. */
function block(g: LayerWriter, path: string, x: Value, time: Value, heads: number, turns: Angles): Value {
  const [, dim] = x.dims;
  const table = g.weight(`${path}.scale_shift_table`, [1, 6 * dim]);
  const parts = g.split(`${path}/parts`, g.add(`${path}/modulation`, time, table), Array<number>(6).fill(dim), 1);
  const set = (n: number) => ({
    shift: parts[3 * n],
    scale: oneMore(g, `${path}/scale/${n}`, parts[3 * n + 1]),
    gate: parts[3 * n + 2],
  });
  const [attending, feeding] = [set(0), set(1)];

  const seen = scaledAndShifted(g, `${path}.attn_norm`, g.rmsNorm(`${path}.attn_norm`, x, NORM_EPSILON), attending);
  const project = (name: string) => g.linear(`${path}.attn.${name}_proj`, seen, dim, { bias: false });
  const turned = (name: string) => g.rotary(`${path}.attn/${name}`, project(name), turns, 'neighbours');
  const mixed = g.attention(`${path}.attn`, turned('q'), turned('k'), project('v'), heads);
  const hidden = gated(g, `${path}.attn`, x, g.linear(`${path}.attn.o_proj`, mixed, dim, { bias: false }), attending);

  const fed = scaledAndShifted(g, `${path}.mlp_norm`, g.rmsNorm(`${path}.mlp_norm`, hidden, NORM_EPSILON), feeding);
  const inner = MLP_MULTIPLE * Math.ceil(Math.floor((2 * 4 * dim) / 3) / MLP_MULTIPLE);
  const gate = g.silu(`${path}.mlp/act`, g.linear(`${path}.mlp.gate`, fed, inner, { bias: false }));
  const product = g.binary(`${path}.mlp/product`, 'Mul', gate, g.linear(`${path}.mlp.up`, fed, inner, { bias: false }));
  return gated(g, `${path}.mlp`, hidden, g.linear(`${path}.mlp.down`, product, dim, { bias: false }), feeding);
}

/** Latents that the decoder sees before and after the one whose samples it makes. */
export function seenLatents(config: Config): { before: number; after: number } {
  const { upsample_factors, num_samples, default_kernel_size: kernel, delay_kernel_size, res_kernel_size } = config;
  const units = DILATIONS.reduce((sum, dilation) => sum + dilation, 0) * (res_kernel_size - 1);
  // From samples to latents; a causal transposed convolution also sees the input before.
  const samples = Math.ceil((2 * (kernel - 1)) / num_samples) + 1;
  const seen = [...upsample_factors]
    .reverse()
    .reduce((reach, factor) => Math.ceil((reach + units) / factor) + 1, samples);
  const delay = (delay_kernel_size - 1) / 2;
  return { before: seen + delay, after: delay };
}

/**
 * Input `latents` [batch, latent_hidden_dim, 1, width], {@link quantised}; output `sample` [batch, 1, 1, hop · width], a channel of sound for each
 * of the batch. All float32. Weights with their lengths joined (`withWeightNorm`).
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildDecoder(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const { init_channel: base, upsample_factors: factors, default_kernel_size: kernel, num_samples } = config;
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const root = 'scalar_model.decoder';
  const { after: delay } = seenLatents(config);
  const latents = g.floats('latents', [options.batch, config.latent_hidden_dim, 1, options.width]);
  const first = { kernel: config.delay_kernel_size, left: delay, right: delay };
  let hidden = along(g, `${root}.0`, latents, base * 2 ** factors.length, first);
  factors.forEach((factor, i) => {
    const path = `${root}.${i + 1}`;
    hidden = upsampled(g, `${path}.up_conv.layer`, hidden, base * 2 ** (factors.length - i - 1), factor);
    hidden = DILATIONS.reduce(
      (x, dilation, n) => residualUnit(g, `${path}.convs.${n}`, x, config.res_kernel_size, dilation),
      hidden,
    );
  });
  const causal = { kernel, left: kernel - 1, right: 0 };
  let last = factors.length + 1;
  if (num_samples > 1) {
    const path = `${root}.${last}`;
    const repeated = repeatedAlong(g, `${path}/repeated`, hidden, num_samples);
    hidden = prelu(g, `${path}.activation`, along(g, `${path}.conv`, repeated, base, causal));
    last++;
  }
  g.output('sample', along(g, `${root}.${last}`, hidden, config.num_bands, causal));
  return g.graph();
}

/** torch.nn.Conv1d with so many zeros to each side. */
function along(
  g: LayerWriter,
  path: string,
  x: Value,
  out: number,
  { kernel, left, right, dilation = 1 }: { kernel: number; left: number; right: number; dilation?: number },
): Value {
  return g.conv(path, x, out, { kernel: [1, kernel], dilation: [1, dilation], padding: [0, left, 0, right] });
}

/** A transposed convolution without what it makes behind the last input's own. */
function upsampled(g: LayerWriter, path: string, x: Value, out: number, stride: number): Value {
  const [batch, , , width] = x.dims;
  const whole = g.convTranspose1d(path, x, out, 2 * stride, stride, 0);
  const dims = [batch, out, 1, width * stride];
  const range = [[0], [width * stride], [3]].map((values) => g.constant(values));
  return g.node(`${path}/causal`, 'Slice', [whole, ...range], dims);
}

function residualUnit(g: LayerWriter, path: string, x: Value, kernel: number, dilation: number): Value {
  const [, width] = x.dims;
  const seen = { kernel, left: dilation * (kernel - 1), right: 0, dilation };
  const wide = prelu(g, `${path}.activation1`, along(g, `${path}.conv1`, x, width, seen));
  const plain = { kernel: 1, left: 0, right: 0 };
  const narrow = prelu(g, `${path}.activation2`, along(g, `${path}.conv2`, wide, width, plain));
  return g.add(`${path}/add`, narrow, x);
}

/** torch.nn.PReLU with one slope for all channels. */
function prelu(g: LayerWriter, path: string, x: Value): Value {
  const slope = g.weight(`${path}.weight`, [1, 1, 1]);
  if (g.options.provider === 'wasm') {
    return g.node(path, 'PRelu', [x, slope], x.dims);
  }
  const above = g.unary(`${path}/above`, 'Relu', x);
  const below = g.binary(`${path}/below`, 'Mul', g.binary(`${path}/rest`, 'Sub', x, above), slope);
  return g.add(path, above, below);
}

/** Every sample `times` times. */
function repeatedAlong(g: LayerWriter, name: string, x: Value, times: number): Value {
  const [batch, channels, , width] = x.dims;
  const apart = g.reshape(`${name}/apart`, x, [batch, channels, width, 1]);
  return g.reshape(name, g.expand(`${name}/each`, apart, [batch, channels, width, times]), [
    batch,
    channels,
    1,
    width * times,
  ]);
}
