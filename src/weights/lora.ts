/**
 * LoRA files: low-rank changes of a network's linear layers and convolutions, added to the weights while these stream to the device.
 *
 * Read are `.safetensors` in the layouts that are around. For the layer `down_blocks.0.….attn1.to_q` of the UNet:
 *
 * - kohya: `lora_unet_down_blocks_0_…_attn1_to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`; `lora_te_…` for the text encoder;
 * - diffusers with PEFT: `unet.down_blocks.0.….attn1.to_q.lora_A.weight` (down) and `.lora_B.weight` (up); `text_encoder.…`;
 * - diffusers before PEFT: `unet.….attn1.processor.to_q_lora.down.weight`, `unet.….attn1.to_q.lora.down.weight`,
 *   `text_encoder.….q_proj.lora_linear_layer.down.weight`.
 *
 * Reference: diffusers/loaders/lora_conversion_utils.py, peft/tuners/lora/layer.py
 */
import { createSHA256 } from 'hash-wasm';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { LowRankDelta, StoredTensor, WeightIndex } from '../graphs/graph.ts';
import { asFloats } from './quantise.ts';
import { readSafetensorsHeader, type TensorEntry } from './safetensors.ts';

export const LORA_NETWORKS = ['unet', 'text_encoder'] as const;
export type LoraNetwork = (typeof LORA_NETWORKS)[number];

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
export type Lora = Record<LoraNetwork, Map<string, LoraLayer>>;

/** What the name of a tensor says. */
interface Meaning {
  module: string;
  role: 'down' | 'up' | 'alpha';
}

const PAIR =
  /^(?<module>.+?)(?:\.lora_(?<a>down|up|A|B)(?:\.default)?|(?:\.lora|\.lora_linear_layer|_lora)\.(?<b>down|up))\.weight$/;
const ROLES = { down: 'down', A: 'down', up: 'up', B: 'up' } as const;

/** What diffusers keeps of PEFT's configuration, per network. */
const adapterSchema = v.object({
  lora_alpha: v.optional(v.number()),
  alpha_pattern: v.optional(v.record(v.string(), v.number()), () => ({})),
  use_rslora: v.optional(v.boolean(), false),
  use_dora: v.optional(v.boolean(), false),
});
type Adapter = v.InferOutput<typeof adapterSchema>;

/**
 * Reads a LoRA's header and alphas, not its matrices.
 * @param file its name, under which its blob is to be given to `mount`; it must not be the name of a file of the checkpoint
 * @param networks of the checkpoint that it is for
 * @throws StudioError `checkpoint_damaged` (the file), `checkpoint_unsupported` (another kind of file, or one for other networks)
 */
export async function readLora(blob: Blob, file: string, networks: Record<LoraNetwork, WeightIndex>): Promise<Lora> {
  const { tensors, metadata } = await readSafetensorsHeader(blob, file);
  const refuse = (what: string, advice: string): never => {
    throw new StudioError('checkpoint_unsupported', `The LoRA ${file} ${what}; ${advice}.`);
  };
  const adapters = readAdapters(metadata.get('lora_adapter_metadata'), file);
  if (Object.values(adapters).some(({ use_dora }) => use_dora)) {
    refuse('is of the kind DoRA, which Darkroom cannot apply', 'use a plain LoRA');
  }

  const modules = new Map<string, Partial<Record<Meaning['role'], TensorEntry>>>();
  for (const tensor of tensors.values()) {
    const { module, role } =
      meaningOf(tensor.name) ??
      refuse(`has a tensor "${tensor.name}", of a kind that Darkroom cannot apply`, 'use a plain LoRA');
    const parts = modules.get(module) ?? {};
    if (parts[role]) {
      refuse(`changes "${module}" twice`, 'get it again');
    }
    modules.set(module, { ...parts, [role]: tensor });
  }
  if (modules.size === 0) {
    refuse('is empty', 'get it again');
  }

  const find = finder(networks);
  const lora: Lora = { unet: new Map(), text_encoder: new Map() };
  for (const [module, parts] of modules) {
    const down = stored(parts.down, file);
    const up = stored(parts.up, file);
    if (!down || !up) {
      return refuse(`has only part of its change of "${module}"`, 'get it again');
    }
    const place =
      find(module) ??
      refuse(
        `changes "${module}", which this checkpoint does not have`,
        'choose a LoRA that was made for this kind of model',
      );
    const { network, path, weight } = place;
    if (lora[network].has(path)) {
      refuse(`changes "${path}" twice`, 'get it again');
    }
    const rank = down.shape[0] ?? 0;
    const fits =
      rank > 0 &&
      up.shape.length >= 2 &&
      up.shape[0] === weight.shape[0] &&
      size(up) === up.shape[0] * rank &&
      size(down) === (rank * size(weight)) / weight.shape[0];
    if (!fits) {
      refuse(
        `changes "${path}" by [${up.shape.join(', ')}] times [${down.shape.join(', ')}], but this checkpoint has [${weight.shape.join(', ')}] there`,
        'choose a LoRA that was made for this kind of model',
      );
    }
    const adapter = adapters[network];
    const alpha = (await alphaOf(parts.alpha, blob, file)) ?? patternOf(adapter, path) ?? adapter?.lora_alpha ?? rank;
    const scale = alpha / (adapter?.use_rslora ? Math.sqrt(rank) : rank);
    if (!Number.isFinite(scale)) {
      refuse(`has an alpha for "${path}" that is not a number`, 'get it again');
    }
    lora[network].set(path, { down, up, alpha, scale });
  }
  return lora;
}

/** Whether a file changes layers in one of the ways known here; from its header. @throws StudioError `checkpoint_damaged` */
export async function isLora(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  return [...tensors.keys()].some((name) => PAIR.test(name));
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
  const isOtherKind = names.some((name) => /\.(hada_w|lokr_w|oft_|glora|diff)/.test(name));
  throw new StudioError(
    'checkpoint_unsupported',
    isOtherKind
      ? `${file} is a relative of LoRA (LoHa, LoKr or another) that Darkroom cannot apply; use a plain LoRA.`
      : `${file} is not a LoRA; if it is a checkpoint, open it or get it as one.`,
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

function meaningOf(name: string): Meaning | null {
  if (name.endsWith('.alpha')) {
    return { module: name.slice(0, -'.alpha'.length), role: 'alpha' };
  }
  const groups = PAIR.exec(name)?.groups;
  return groups ? { module: groups.module, role: ROLES[(groups.a ?? groups.b) as keyof typeof ROLES] } : null;
}

/** Finds the layer that a LoRA calls `module`. */
function finder(networks: Record<LoraNetwork, WeightIndex>) {
  // In kohya's names dots have become underscores, which cannot be undone without knowing what is there.
  const underscored = new Map<string, { network: LoraNetwork; path: string; weight: StoredTensor }>();
  const dotted = new Map<string, { network: LoraNetwork; path: string; weight: StoredTensor }>();
  for (const network of LORA_NETWORKS) {
    for (const name of networks[network].names()) {
      const weight = networks[network].get(name);
      if (weight && name.endsWith('.weight')) {
        const path = name.slice(0, -'.weight'.length);
        const place = { network, path, weight };
        // transformers 5 writes no `text_model.`, which older names have.
        for (const alias of network === 'unet' ? [path] : [path.replace(/^text_model\./, ''), withPrefix(path)]) {
          dotted.set(`${network}.${alias}`, place);
          underscored.set(`${network === 'unet' ? 'lora_unet' : 'lora_te'}_${alias.replaceAll('.', '_')}`, place);
        }
      }
    }
  }
  return (module: string) => {
    const plain = module.replace(/\.processor\./, '.').replace(/^base_model\.model\./, '');
    const full = /^(?:unet|text_encoder\w*)\./.test(plain) ? plain : `unet.${plain}`;
    return underscored.get(module) ?? dotted.get(full) ?? dotted.get(`${full}.0`);
  };
}

function withPrefix(path: string): string {
  return path.startsWith('text_model.') ? path : `text_model.${path}`;
}

function readAdapters(json: string | undefined, file: string): Partial<Record<LoraNetwork, Adapter>> {
  if (json === undefined) {
    return {};
  }
  const adapters: Partial<Record<LoraNetwork, Adapter>> = {};
  try {
    const values = v.parse(v.record(v.string(), v.unknown()), JSON.parse(json));
    for (const network of LORA_NETWORKS) {
      const own = Object.entries(values).filter(([key]) => key.startsWith(`${network}.`));
      const adapter = Object.fromEntries(
        own.map(([key, value]) => [key.slice(network.length + 1), value ?? undefined]),
      );
      adapters[network] = v.parse(adapterSchema, adapter);
    }
  } catch (cause) {
    throw new StudioError('checkpoint_damaged', `The LoRA ${file} has metadata that cannot be read; get it again.`, {
      cause,
    });
  }
  return adapters;
}

/** The alpha that PEFT's configuration gives to single layers, by the end of their paths. */
function patternOf(adapter: Adapter | undefined, path: string): number | undefined {
  return Object.entries(adapter?.alpha_pattern ?? {}).find(
    ([pattern]) => path === pattern || withPrefix(path) === pattern || path.endsWith(`.${pattern}`),
  )?.[1];
}

async function alphaOf(tensor: TensorEntry | undefined, blob: Blob, file: string): Promise<number | undefined> {
  if (!tensor) {
    return undefined;
  }
  const scalar = stored(tensor, file);
  if (!scalar || size(scalar) !== 1) {
    throw new StudioError('checkpoint_damaged', `The LoRA ${file} has an alpha that is not one number; get it again.`);
  }
  const bytes = await blob.slice(scalar.offset, scalar.offset + scalar.length).arrayBuffer();
  return asFloats(new Uint8Array(bytes), scalar.dtype)[0];
}

/** A tensor of the LoRA's own file; undefined for one that is missing or not of a float type. */
function stored(tensor: TensorEntry | undefined, file: string): StoredTensor | undefined {
  const dtype = tensor?.dtype;
  return tensor && (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') ? { ...tensor, dtype, file } : undefined;
}

function size({ shape }: { shape: readonly number[] }): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}
