/**
 * HeartMuLa: a language model whose words are frames of music. Its backbone reads frame after frame and draws the first code of the next one; its
 * decoder draws the other codes, one after another.
 * Reference: heartlib/heartmula/modeling_heartmula.py, with torchtune's Llama 3.2
 */
import * as v from 'valibot';
import { count, only, parseNetworkConfig, real } from './config.ts';
import type { Graph, GraphOptions, StoredTensor, WeightIndex } from './graph.ts';
import { LayerWriter, type Angles } from './layers.ts';
import { MICROSOFT, float, type Value } from './onnx.ts';
import { anglesInput, speedsOf, turnsOf, type RotaryTables } from './rotary.ts';

export const className = 'HeartMuLa';

const flavourSchema = v.pipe(
  v.object({
    num_layers: count(28),
    num_heads: count(24),
    num_kv_heads: count(8),
    embed_dim: count(3072),
    /** Positions that it was taught. */
    max_seq_len: count(8192),
    intermediate_dim: count(8192),
    norm_eps: real(1e-5),
    rope_base: real(500_000),
    scale_factor: real(32),
  }),
  v.check(({ num_heads, embed_dim }) => embed_dim % (2 * num_heads) === 0, 'its num_heads does not divide its width'),
  v.check(
    ({ num_heads, num_kv_heads }) => num_heads % num_kv_heads === 0,
    'its num_kv_heads does not divide num_heads',
  ),
);

export type Flavour = v.InferOutput<typeof flavourSchema>;

/** config.json names them; what they mean stands in heartlib. */
const FLAVOURS: Readonly<Record<string, Partial<Flavour>>> = {
  'llama-3B': {},
  'llama-300M': { num_layers: 3, num_heads: 8, num_kv_heads: 4, max_seq_len: 2048 },
  'llama-7B': { num_layers: 32, num_heads: 32, embed_dim: 4096, intermediate_dim: 14336 },
  'llama-400M': { num_layers: 4, num_heads: 8, num_kv_heads: 4, max_seq_len: 2048 },
};

/** A name of {@link FLAVOURS}, or the numbers themselves. */
const flavour = (usual: string) =>
  v.optional(
    v.union([
      v.pipe(
        v.picklist(Object.keys(FLAVOURS)),
        v.transform((name) => v.parse(flavourSchema, FLAVOURS[name])),
      ),
      flavourSchema,
    ]),
    usual,
  );

export const configSchema = v.pipe(
  v.object({
    backbone_flavor: flavour('llama-3B'),
    decoder_flavor: flavour('llama-300M'),
    text_vocab_size: count(128256),
    audio_vocab_size: count(8197),
    audio_num_codebooks: count(8),
    muq_dim: count(512),
    model_type: only(['heartmula'], 'heartmula'),
  }),
  v.check(({ audio_num_codebooks: codes }) => codes > 1, 'it has a single codebook'),
);

export type Config = v.InferOutput<typeof configSchema>;

/** @throws StudioError `checkpoint_unsupported` */
export const parseConfig = (json: unknown): Config => parseNetworkConfig(className, configSchema, json);

/** Tables whose rows are read on the processor. */
export const TEXT_TABLE = 'text_embeddings.weight';
export const AUDIO_TABLE = 'audio_embeddings.weight';
/** What stands in place of every word where guidance leads away from them: one row. */
export const NOTHING_TABLE = 'unconditional_text_embedding.weight';
/** What stands in place of a reference sound, of which there is none. */
export const NO_SOUND = 'muq_linear.bias';
/** The heads of all codes but the first, [codes − 1, width, vocabulary]. */
const HEADS = 'audio_head';

/** The checkpoint's tensors, with a matrix for each head in place of all in one. */
export function withHeads(weights: WeightIndex): WeightIndex {
  const all = weights.get(HEADS);
  const head = (name: string): StoredTensor | undefined => {
    const at = name.startsWith(`${HEADS}.`) ? Number(name.slice(HEADS.length + 1)) : NaN;
    if (!all || !Number.isInteger(at) || at < 0 || at >= all.shape[0]) {
      return undefined;
    }
    const length = all.length / all.shape[0];
    return { ...all, name, shape: all.shape.slice(1), offset: all.offset + at * length, length };
  };
  return { get: (name) => head(name) ?? weights.get(name), names: () => weights.names() };
}

export const headDim = ({ embed_dim, num_heads }: Flavour): number => embed_dim / num_heads;

/**
 * Cosines and sines of one position, each [1, headDim/2]: Llama 3's, whose slow angles are made slower.
 * Reference: torchtune/models/llama3_1/_position_embeddings.py
 */
export function angles(flavour: Flavour, position: number): RotaryTables {
  return turnsOf(speedsOf(flavour.rope_base, headDim(flavour)).map(slowed(flavour)), [position]);
}

const OLD_LENGTH = 8192;
const FAST = 4;

function slowed({ scale_factor: factor }: Flavour) {
  return (speed: number): number => {
    const turns = (OLD_LENGTH * speed) / (2 * Math.PI);
    const smooth = Math.min(Math.max((turns - 1) / (FAST - 1), 0), 1);
    return ((1 - smooth) * speed) / factor + smooth * speed;
  };
}

export interface CachedOptions extends GraphOptions {
  /** Positions that there is room for. */
  length: number;
}

export type Stack = 'backbone' | 'decoder';

export const flavourOf = (config: Config, stack: Stack): Flavour => config[`${stack}_flavor`];

/** What was computed of earlier positions: [batch, num_kv_heads, length, headDim]. */
export function cacheDims(flavour: Flavour, { batch, length }: Pick<CachedOptions, 'batch' | 'length'>): number[] {
  return [batch, flavour.num_kv_heads, length, headDim(flavour)];
}

/** Names of what each layer keeps: inputs `past.…` and outputs `present.…`. */
export function cacheNames({ num_layers }: Flavour): string[] {
  return Array.from({ length: num_layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();
}

/**
 * One position of the backbone. Inputs `inputs_embeds` [batch, embed_dim], `cos` and `sin` [1, headDim/2], `past.<name>` of
 * {@link cacheNames} as {@link cacheDims} says, int32 `seqlens` [batch] (positions before this one) and `total` [1] (one more). Outputs
 * `hidden_states` [batch, embed_dim], `logits` [batch, audio_vocab_size] of the first code, and `present.<name>`, which may lie in the memory of
 * the inputs. All others float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function buildBackbone(config: Config, weights: WeightIndex, options: CachedOptions): Graph {
  const g = new LayerWriter(`${className} backbone`, weights, options);
  const embedded = g.floats('inputs_embeds', [options.batch, config.backbone_flavor.embed_dim]);
  const hidden = stack(g, 'backbone', config.backbone_flavor, embedded, options);
  g.output('logits', g.linear('codebook0_head', hidden, config.audio_vocab_size, { bias: false }));
  g.output('hidden_states', hidden);
  return g.graph();
}

/** One position of the decoder, of as many as there are codes; as {@link buildBackbone}, without `logits`. Its input is as wide as the backbone. */
export function buildDecoder(config: Config, weights: WeightIndex, options: CachedOptions): Graph {
  const { backbone_flavor: backbone, decoder_flavor: own } = config;
  const g = new LayerWriter(`${className} decoder`, weights, options);
  const embedded = g.floats('inputs_embeds', [options.batch, backbone.embed_dim]);
  const projected = g.linear('projection', embedded, own.embed_dim, { bias: false });
  g.output('hidden_states', stack(g, 'decoder', own, projected, options));
  return g.graph();
}

/**
 * The chances of one code from the decoder's states: `hidden_states` [batch, width] to `logits` [batch, audio_vocab_size], float32.
 * @param weights of {@link withHeads}
 * @param code from 1
 */
export function buildHead(config: Config, weights: WeightIndex, code: number, options: GraphOptions): Graph {
  const { audio_vocab_size: words, decoder_flavor: own } = config;
  const g = new LayerWriter(`${className} head ${code}`, weights, options);
  const hidden = g.floats('hidden_states', [options.batch, own.embed_dim]);
  const head = g.weight(`${HEADS}.${code - 1}`, [own.embed_dim, words]);
  g.output('logits', g.node('head', 'MatMul', [hidden, head], [options.batch, words]));
  return g.graph();
}

function stack(g: LayerWriter, path: Stack, flavour: Flavour, x: Value, options: CachedOptions): Value {
  const cache = {
    turns: anglesInput(g, '', 1, headDim(flavour) / 2),
    seqlens: g.input('seqlens', 'int32', [options.batch]),
    total: g.input('total', 'int32', [1]),
    dims: cacheDims(flavour, options),
  };
  let hidden = x;
  for (let layer = 0; layer < flavour.num_layers; layer++) {
    const own = `${path}.layers.${layer}`;
    const mixed = cachedAttention(g, `${own}.attn`, norm(g, `${own}.sa_norm`, hidden, flavour), flavour, layer, cache);
    hidden = g.linear(`${own}.attn.output_proj`, mixed, flavour.embed_dim, { bias: hidden });
    hidden = feedForward(g, `${own}.mlp`, norm(g, `${own}.mlp_norm`, hidden, flavour), flavour, hidden);
  }
  return norm(g, `${path}.norm`, hidden, flavour);
}

function norm(g: LayerWriter, path: string, x: Value, { norm_eps, embed_dim }: Flavour): Value {
  return g.node(path, 'SimplifiedLayerNormalization', [x, g.weight(`${path}.scale`, [embed_dim])], x.dims, {
    attributes: { axis: -1, epsilon: float(norm_eps) },
  });
}

function feedForward(
  g: LayerWriter,
  path: string,
  x: Value,
  { intermediate_dim: inner, embed_dim }: Flavour,
  to: Value,
) {
  const gate = g.silu(`${path}.act`, g.linear(`${path}.w1`, x, inner, { bias: false }));
  const product = g.binary(path, 'Mul', gate, g.linear(`${path}.w3`, x, inner, { bias: false }));
  return g.linear(`${path}.w2`, product, embed_dim, { bias: to });
}

interface Cache {
  turns: Angles;
  seqlens: Value;
  total: Value;
  dims: readonly number[];
}

/** Attention of one position to itself and all before it, whose keys and values are not computed again. */
function cachedAttention(
  g: LayerWriter,
  path: string,
  x: Value,
  flavour: Flavour,
  layer: number,
  { turns, seqlens, total, dims }: Cache,
): Value {
  const { num_heads: heads, num_kv_heads: groups } = flavour;
  const { batch } = g.options;
  const project = (name: string, count: number) =>
    g.linear(`${path}.${name}_proj`, x, count * headDim(flavour), { bias: false });
  const turned = (name: string, count: number) =>
    g.rotary(`${path}/${name}`, project(name, count), turns, 'neighbours');
  const tokens = (name: string, value: Value) => g.reshape(`${path}/${name}/token`, value, [batch, 1, value.dims[1]]);
  const [key, value] = ['key', 'value'].map((part) => g.floats(`past.${layer}.${part}`, dims));
  const inputs = [
    tokens('q', turned('q', heads)),
    tokens('k', turned('k', groups)),
    tokens('v', project('v', groups)),
    key,
    value,
    seqlens,
    total,
  ];
  const [mixed, ...present] = g.nodes(
    path,
    'GroupQueryAttention',
    inputs,
    [{ dims: inputs[0].dims }, { dims }, { dims }],
    {
      domain: MICROSOFT,
      attributes: { num_heads: heads, kv_num_heads: groups },
    },
  ) as Value[];
  ['key', 'value'].forEach((part, n) => {
    g.output(`present.${layer}.${part}`, present[n]);
  });
  return g.reshape(`${path}/mixed`, mixed, [batch, heads * headDim(flavour)]);
}
