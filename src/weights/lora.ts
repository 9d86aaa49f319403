/**
 * LoRA files: low-rank changes of a network's linear layers and convolutions, added to the weights while these stream to the device.
 *
 * Read are `.safetensors` in the spellings that are around. For the layer `down_blocks.1.….attn1.to_q` of the UNet:
 *
 * - kohya: `lora_unet_down_blocks_1_…_attn1_to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`; `lora_te_…` or `lora_te1_…` for the
 *   text encoder, `lora_te2_…` for Stable Diffusion XL's second one; also over the original layout's names, `lora_unet_input_blocks_4_1_…`;
 * - LyCORIS for diffusers (SimpleTuner): `lycoris_down_blocks_1_…`, else as kohya;
 * - ComfyUI: `diffusion_model.input_blocks.4.1.….to_q.lora_down.weight`, `text_encoders.clip_l.transformer.…`;
 * - diffusers with PEFT: `unet.down_blocks.1.….to_q.lora_A.weight` (down) and `.lora_B.weight` (up), `text_encoder.…`; PEFT itself
 *   adds `base_model.model.` and the adapter's name, `.lora_A.default.weight`;
 * - diffusers before PEFT: `unet.….attn1.processor.to_q_lora.down.weight`, `unet.….attn1.to_q.lora.down.weight`,
 *   `text_encoder.….self_attn.to_q_lora.down.weight`, `text_encoder.….q_proj.lora_linear_layer.down.weight`.
 *
 * What of a file has no place in the checkpoint, or is of a kind that cannot be applied, is left out and named, as other programs do;
 * only a file of which nothing can be used is refused.
 *
 * Reference: diffusers/loaders/lora_conversion_utils.py, diffusers/utils/state_dict_utils.py, peft/tuners/lora/layer.py,
 * ComfyUI's comfy/lora.py (model_lora_keys_unet, model_lora_keys_clip)
 */
import { createSHA256 } from 'hash-wasm';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { LowRankDelta, StoredTensor, WeightIndex } from '../graphs/graph.ts';
import {
  LORA_NETWORKS,
  layerFinder,
  namesALayer,
  type LoraNetwork,
  type LoraTargets,
  type Place,
} from './lora_names.ts';
import { asFloats, isReadable } from './quantise.ts';
import { readSafetensorsHeader, type TensorEntry } from './safetensors.ts';

/** The change of one layer, scale · up @ down. */
export interface LoraLayer {
  /** [rank, K], of a convolution [rank, inputs, height, width]. */
  down: StoredTensor;
  /** [N, rank], of a convolution [N, rank, 1, 1]. */
  up: StoredTensor;
  alpha: number;
  /** alpha / rank; alpha / √rank where the file was trained so. */
  scale: number;
}

/** By module path as the checkpoint has it; a network that the file does not change has no layers. */
export type Lora = Record<LoraNetwork, Map<string, LoraLayer>> & { leftOut: LeftOut[] };

/** A layer's change, or another tensor of the file, that is not used. */
export interface LeftOut {
  /** As the file calls it; a layer of another size as the checkpoint does. */
  name: string;
  reason: Reason;
  /** What belongs to the reason: shapes, a kind, a number format. */
  detail: string;
}

type Reason =
  'elsewhere' | 'unnamed' | 'size' | 'type' | 'kind' | 'part' | 'twice' | 'alpha' | 'embedding' | 'scales' | 'unknown';

const OTHER_MODEL = 'choose a LoRA that was made for this kind of model';

/** What is said where other layers are used, and where nothing is. */
const SENTENCES: Record<Reason, { aside: (detail: string) => string; refusal: (left: LeftOut) => string }> = {
  elsewhere: {
    aside: () => 'not in this checkpoint',
    refusal: ({ name }) => `changes "${name}", which this checkpoint does not have; ${OTHER_MODEL}`,
  },
  unnamed: {
    aside: () => 'a name that Darkroom does not know',
    refusal: ({ name }) =>
      `names its layers in a way that Darkroom does not know, such as "${name}"; get it in the form of kohya or diffusers`,
  },
  size: {
    aside: () => 'of another size in this checkpoint',
    refusal: ({ name, detail }) => `changes "${name}" by ${detail} there; ${OTHER_MODEL}`,
  },
  type: {
    aside: (type) => `stored as ${type}, which Darkroom cannot read`,
    refusal: ({ detail }) => `is stored as ${detail}, which Darkroom cannot read; get it in F16, BF16 or F32`,
  },
  kind: {
    aside: (kind) => `${kind}, which Darkroom cannot apply`,
    refusal: ({ detail }) => `is of a kind that Darkroom cannot apply (${detail}); use a plain LoRA`,
  },
  part: {
    aside: () => 'incomplete in the file',
    refusal: ({ name }) => `has only part of its change of "${name}"; get it again`,
  },
  twice: {
    aside: () => 'in the file a second time',
    refusal: ({ name }) => `changes "${name}" twice; get it again`,
  },
  alpha: {
    aside: () => 'an alpha that is not one number',
    refusal: ({ name }) => `has an alpha for "${name}" that is not one number; get it again`,
  },
  embedding: {
    aside: () => 'an embedding, which Darkroom cannot use yet',
    refusal: ({ name }) => `holds an embedding ("${name}") and no layers; use a plain LoRA`,
  },
  scales: {
    aside: () => 'its own scales, which cannot be read',
    refusal: () => 'has no layers; get it again',
  },
  unknown: {
    aside: () => 'no part of a LoRA that Darkroom knows',
    refusal: ({ name }) => `has a tensor "${name}", of a kind that Darkroom cannot apply; use a plain LoRA`,
  },
};

const PAIR =
  /^(?<module>.+?)(?:\.lora_(?<a>down|up|A|B)(?:\.(?!bias$|alpha$)(?<adapter>[^.]+?))??|(?:\.lora|\.lora_linear_layer|_lora)\.(?<b>down|up))(?:\.weight)?$/;
const ALPHA = /^(?<module>.+?)(?:\.lora|\.lora_linear_layer|_lora)?\.alpha$/;
const ROLES = { down: 'down', A: 'down', up: 'up', B: 'up' } as const;

/** Ends of names that make the change of their layer, or all of it, something else than a product of two matrices. */
const KINDS: [ending: RegExp, kind: string][] = [
  [/\.(?:dora_scale|lora_magnitude_vector.*)$/, 'DoRA'],
  [/\.lora_mid(?:\.weight)?$/, 'a Tucker decomposition'],
  [/\.hada_[wt]\d.*$/, 'LoHa'],
  [/\.lokr_[wt]\d.*$/, 'LoKr'],
  [/\.(?:oft_(?:blocks|diag|R).*|boft_.*)$/, 'OFT'],
  [/\.(?:glora_.*|[ab][12]\.weight)$/, 'GLoRA'],
  [/\.on_input$/, 'IA3'],
  [/\.(?:diff|set_weight|w_norm)$/, 'whole weights'],
  [/\.(?:diff_b|b_norm|lora_B(?:\.[^.]+)?\.bias|lora_up\.bias)$/, 'a change of a bias'],
  [/\.lora_embedding_[AB].*$/, 'a change of the vocabulary'],
];
/** Those of them that change what a layer's two matrices mean. */
const CHANGES_THE_PAIR = new Set(['DoRA', 'a Tucker decomposition']);

/** What diffusers keeps of PEFT's configuration, per network. */
const adapterSchema = v.object({
  lora_alpha: v.fallback(v.optional(v.number()), undefined),
  alpha_pattern: v.fallback(v.record(v.string(), v.number()), () => ({})),
  use_rslora: v.fallback(v.boolean(), false),
  use_dora: v.fallback(v.boolean(), false),
});
type Adapter = v.InferOutput<typeof adapterSchema>;

/** The tensors of a file by what their names say. */
interface Contents {
  /** By module and adapter. */
  pairs: { module: string; down?: TensorEntry; up?: TensorEntry }[];
  alphas: Map<string, TensorEntry>;
  /** Why the two matrices of a module are not all of its change. */
  kinds: Map<string, string>;
  leftOut: LeftOut[];
}

/**
 * Reads a LoRA's header and alphas, not its matrices.
 * @param file its name, under which its blob is to be given to `mount`; it must not be the name of a file of the checkpoint
 * @param networks of the checkpoint that it is for
 * @throws StudioError `checkpoint_damaged` (the file), `checkpoint_unsupported` (nothing of it can be used with this checkpoint)
 */
export async function readLora(blob: Blob, file: string, networks: LoraTargets): Promise<Lora> {
  const { tensors, metadata } = await readSafetensorsHeader(blob, file);
  const { pairs, alphas, kinds, leftOut } = sort(tensors.values());
  const lora: Lora = { unet: new Map(), text_encoder: new Map(), text_encoder_2: new Map(), leftOut };
  const leave = (name: string, reason: Reason, detail = ''): void => {
    leftOut.push({ name, reason, detail });
  };
  const adapters = readAdapters(metadata.get('lora_adapter_metadata'), leave);

  const find = layerFinder(networks);
  for (const { module, down, up } of pairs) {
    const places = find(module);
    const kind = kinds.get(module) ?? (places.some(({ network }) => adapters[network]?.use_dora) ? 'DoRA' : undefined);
    const unreadable = [down, up].find((tensor) => tensor && !isReadable(tensor.dtype));
    if (kind !== undefined) {
      leave(module, 'kind', kind);
    } else if (!down || !up) {
      leave(module, 'part');
    } else if (unreadable) {
      leave(module, 'type', unreadable.dtype);
    } else if (places.length === 0) {
      leave(module, namesALayer(module) ? 'elsewhere' : 'unnamed');
    } else {
      const given = alphas.get(module);
      const alpha = given && (await numberOf(given, blob));
      if (given && !Number.isFinite(alpha)) {
        leave(module, 'alpha');
        continue;
      }
      for (const place of places) {
        const { network, path } = place;
        const layer = layerAt(place, stored(down, file), stored(up, file), alpha, adapters[network]);
        if (lora[network].has(path)) {
          leave(module, 'twice');
        } else if (typeof layer === 'string') {
          leave(path, 'size', layer);
        } else {
          lora[network].set(path, layer);
        }
      }
    }
  }
  const paired = new Set(pairs.map(({ module }) => module));
  for (const module of alphas.keys()) {
    if (!paired.has(module) && !leftOut.some(({ name }) => name === module)) {
      leave(module, 'part');
    }
  }
  if (LORA_NETWORKS.every((network) => lora[network].size === 0)) {
    const [left] = mostOften(leftOut);
    const what = left ? SENTENCES[left.reason].refusal(left) : 'is empty; get it again';
    throw new StudioError('checkpoint_unsupported', `The LoRA ${file} ${what}.`);
  }
  return lora;
}

/** Names in one sentence are at most this many per reason. */
const NAMED = 2;

/**
 * What of a LoRA is not used, as sentences for people; null where all of it is.
 * @param file its name
 */
export function leftOutOf({ leftOut, ...layers }: Lora, file: string): string | null {
  if (leftOut.length === 0) {
    return null;
  }
  const asides = new Map<string, string[]>();
  for (const { name, reason, detail } of leftOut) {
    const aside = SENTENCES[reason].aside(detail);
    asides.set(aside, [...(asides.get(aside) ?? []), name]);
  }
  const sentences = [...asides].map(([aside, names]) => {
    const first = names.slice(0, NAMED).map((name) => `"${name}"`);
    const more = names.length > NAMED ? [`${names.length - NAMED} more`] : [];
    const list = [...first, ...more].join(', ').replace(/, (?=[^,]*$)/, ' and ');
    return `The LoRA ${file} is used without ${list} (${aside}).`;
  });
  const misfits = leftOut.filter(({ reason }) => reason === 'elsewhere' || reason === 'size').length;
  if (misfits > LORA_NETWORKS.reduce((sum, network) => sum + layers[network].size, 0)) {
    sentences.push('Most of it does not fit this checkpoint, so it was probably made for another kind of model.');
  }
  return sentences.join(' ');
}

/** Whether a file changes layers as LoRAs and their relatives do; from its header. @throws StudioError `checkpoint_damaged` */
export async function isLora(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  return [...tensors.keys()].some((name) => PAIR.test(name) || relativeOf(name) !== undefined);
}

/**
 * Reads the header of a file that is to be kept as a LoRA.
 * @param file its name, for the message
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for a file that changes no layer in the ways known here
 */
export async function requireLora(blob: Blob, file: string): Promise<void> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const names = [...tensors.keys()];
  if (names.some((name) => PAIR.test(name))) {
    return;
  }
  const relative = names.map(relativeOf).find((kind) => kind !== undefined);
  throw new StudioError(
    'checkpoint_unsupported',
    relative === undefined
      ? `${file} is not a LoRA; if it is a checkpoint, open it or get it as one.`
      : `${file} is a relative of LoRA (${relative}) that Darkroom cannot apply; use a plain LoRA.`,
  );
}

/** SHA-256 of everything behind the header, by which AUTOMATIC1111 and kohya know a LoRA whatever its metadata say; lower-case hex. */
export async function loraDataHash(blob: Blob, file: string): Promise<string> {
  const { headerBytes } = await readSafetensorsHeader(blob, file);
  const hasher = await createSHA256();
  const reader = blob.slice(headerBytes).stream().getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    hasher.update(part.value);
  }
  return hasher.digest('hex');
}

/**
 * A network's weights with a LoRA's changes; graphs that are built from it merge them on the way to the device. Several may be applied
 * one over the other.
 * @param strength factor of all changes, usually 0 … 1
 */
export function withLora(weights: WeightIndex, layers: ReadonlyMap<string, LoraLayer>, strength: number): WeightIndex {
  return {
    get(name) {
      const tensor = weights.get(name);
      const layer = name.endsWith('.weight') ? layers.get(name.slice(0, -'.weight'.length)) : undefined;
      if (!tensor || !layer || strength === 0) {
        return tensor;
      }
      const delta: LowRankDelta = { up: layer.up, down: layer.down, scale: strength * layer.scale };
      return { ...tensor, deltas: [...(tensor.deltas ?? []), delta] };
    },
    names: () => weights.names(),
  };
}

/** The kind of change that a tensor belongs to where nothing but relatives of LoRA have such names. */
function relativeOf(name: string): string | undefined {
  return KINDS.find(([ending, kind]) => ending.test(name) && /^(?:LoHa|LoKr|OFT|DoRA)$/.test(kind))?.[1];
}

function sort(tensors: Iterable<TensorEntry>): Contents {
  const pairs = new Map<string, Contents['pairs'][number]>();
  const contents: Omit<Contents, 'pairs'> = { alphas: new Map(), kinds: new Map(), leftOut: [] };
  const { alphas, kinds, leftOut } = contents;
  for (const tensor of tensors) {
    const { name } = tensor;
    const { module, a, b, adapter = '' } = PAIR.exec(name)?.groups ?? {};
    const scaled = ALPHA.exec(name)?.groups?.module;
    const [ending, kind] = KINDS.find(([pattern]) => pattern.test(name)) ?? [];
    if (module !== undefined) {
      const pair = pairs.get(`${module} ${adapter}`) ?? { module };
      const role = ROLES[(a ?? b) as keyof typeof ROLES];
      if (pair[role]) {
        leftOut.push({ name, reason: 'twice', detail: '' });
      } else {
        pairs.set(`${module} ${adapter}`, { ...pair, [role]: tensor });
      }
    } else if (scaled !== undefined) {
      alphas.set(scaled, tensor);
    } else if (ending && kind !== undefined) {
      const changed = name.replace(ending, '');
      if (CHANGES_THE_PAIR.has(kind)) {
        kinds.set(changed, kind);
      } else if (!leftOut.some((left) => left.name === changed && left.detail === kind)) {
        leftOut.push({ name: changed, reason: 'kind', detail: kind });
      }
    } else {
      leftOut.push({ name, reason: name.startsWith('bundle_emb.') ? 'embedding' : 'unknown', detail: '' });
    }
  }
  return { ...contents, pairs: [...pairs.values()] };
}

/** @returns the layer's change, or why its shapes are none */
function layerAt(
  { weight, third }: Place,
  down: StoredTensor,
  wholeUp: StoredTensor,
  given: number | undefined,
  adapter: Adapter | undefined,
): LoraLayer | string {
  const up = third === undefined ? wholeUp : thirdOf(wholeUp, third);
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

/** A third of a matrix's rows. */
function thirdOf(tensor: StoredTensor, third: number): StoredTensor {
  const { shape, offset, length } = tensor;
  return {
    ...tensor,
    name: `${tensor.name}[${third}]`,
    shape: [shape[0] / 3, ...shape.slice(1)],
    offset: offset + (third * length) / 3,
    length: length / 3,
  };
}

/** Those of the most frequent reason, in order. */
function mostOften(leftOut: LeftOut[]): LeftOut[] {
  return [...new Set(leftOut.map(({ reason }) => reason))]
    .map((reason) => leftOut.filter((left) => left.reason === reason))
    .reduce((most, some) => (some.length > most.length ? some : most), []);
}

function readAdapters(
  json: string | undefined,
  leave: (name: string, reason: Reason) => void,
): Partial<Record<LoraNetwork, Adapter>> {
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
    leave('lora_adapter_metadata', 'scales');
  }
  return adapters;
}

/** The alpha that PEFT's configuration gives to single layers, by the end of their paths. */
function patternOf(adapter: Adapter | undefined, path: string): number | undefined {
  return Object.entries(adapter?.alpha_pattern ?? {}).find(
    ([pattern]) => path === pattern || `text_model.${path}` === pattern || path.endsWith(`.${pattern}`),
  )?.[1];
}

const WHOLE_NUMBERS: Record<string, (view: DataView) => number | bigint> = {
  BOOL: (view) => view.getUint8(0),
  U8: (view) => view.getUint8(0),
  I8: (view) => view.getInt8(0),
  U16: (view) => view.getUint16(0, true),
  I16: (view) => view.getInt16(0, true),
  U32: (view) => view.getUint32(0, true),
  I32: (view) => view.getInt32(0, true),
  U64: (view) => view.getBigUint64(0, true),
  I64: (view) => view.getBigInt64(0, true),
};

/** The one number that a tensor of any shape and type holds; NaN where it is not one. */
async function numberOf({ dtype, shape, offset, length }: TensorEntry, blob: Blob): Promise<number> {
  if (size({ shape }) !== 1) {
    return NaN;
  }
  const bytes = new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
  if (isReadable(dtype)) {
    return asFloats(bytes, dtype)[0];
  }
  return Object.hasOwn(WHOLE_NUMBERS, dtype) ? Number(WHOLE_NUMBERS[dtype](new DataView(bytes.buffer))) : NaN;
}

/** A tensor of the LoRA's own file, which has a readable type. */
function stored(tensor: TensorEntry, file: string): StoredTensor {
  return { ...tensor, dtype: tensor.dtype as StoredTensor['dtype'], file };
}

function size({ shape }: { shape: readonly number[] }): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}
