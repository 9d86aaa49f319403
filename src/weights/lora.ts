/**
 * LoRA files: low-rank changes of a network's linear layers and convolutions, added to the weights while these stream to the device.
 *
 * Read are `.safetensors` in the spellings that are around. For the layer `down_blocks.1.….attn1.to_q` of the UNet:
 *
 * - kohya: `lora_unet_down_blocks_1_…_attn1_to_q.lora_down.weight`, `.lora_up.weight`, `.alpha`; `lora_te_…` or `lora_te1_…` for the
 *   text encoder, `lora_te2_…` for Stable Diffusion XL's second one; also over the original layout's names, `lora_unet_input_blocks_4_1_…`;
 * - LyCORIS for diffusers (SimpleTuner): `lycoris_down_blocks_1_…`, else as kohya;
 * - ComfyUI: `diffusion_model.input_blocks.4.1.….to_q.lora_down.weight`, `text_encoders.clip_l.transformer.…`;
 * - of flow transformers the same over diffusers' names and the original code's (see lora_transformer_names.ts):
 *   `transformer.transformer_blocks.0.attn.to_q.lora_A.weight`, `lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`;
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
import { StudioError } from '../core/errors.ts';
import type { WeightDelta, WeightIndex } from '../graphs/graph.ts';
import { numberOf, sort, type Contents } from './lora_contents.ts';
import { areUnets, familiesOf, otherFamily, type NamedLayer } from './lora_families.ts';
import { factoredAt, layerAt, lengthsAt, readAdapters, stored, tuckerAt, type LoraLayer } from './lora_layers.ts';
import { refusalOf, sentencesOf, type LeftOut, type Reason } from './lora_left_out.ts';
import {
  LORA_NETWORKS,
  layerFinder,
  namesALayer,
  type LoraNetwork,
  type LoraTargets,
  type Place,
} from './lora_names.ts';
import { isReadable } from './quantise.ts';
import { readSafetensorsHeader } from './safetensors.ts';

/** By module path as the checkpoint has it; a network that the file does not change has no layers. */
export type Lora = Record<LoraNetwork, Map<string, LoraLayer>> & { leftOut: LeftOut[] };

/**
 * Reads a LoRA's header and alphas, not its matrices.
 * @param file its name, under which its blob is to be given to `mount`; it must not be the name of a file of the checkpoint
 * @param networks of the checkpoint that it is for
 * @throws StudioError `checkpoint_damaged` (the file), `checkpoint_unsupported` (nothing of it can be used with this checkpoint)
 */
export async function readLora(blob: Blob, file: string, networks: LoraTargets): Promise<Lora> {
  const { tensors, metadata } = await readSafetensorsHeader(blob, file);
  const { pairs, alphas, factors, lengths, leftOut } = sort(tensors.values());
  const lora: Lora = {
    unet: new Map(),
    transformer: new Map(),
    text_encoder: new Map(),
    text_encoder_2: new Map(),
    leftOut,
  };
  const leave = (name: string, reason: Reason, detail = ''): void => {
    leftOut.push({ name, reason, detail });
  };
  const adapters = readAdapters(metadata.get('lora_adapter_metadata'), () => leave('lora_adapter_metadata', 'scales'));

  const families = [familiesOf(layersOf(pairs, factors.keys())), familiesOfNetworks(networks)] as const;
  const other = otherFamily(...families);
  if (other !== null && !areUnets(...families)) {
    throw new StudioError('checkpoint_unsupported', `The LoRA ${file} ${other}.`);
  }

  const find = layerFinder(networks);
  /** Takes the change of one layer, with DoRA's lengths where the file has some. */
  const take = (module: string, place: Place, change: LoraLayer): void => {
    const given = lengths.get(module);
    const own = given && lengthsAt(place, stored(given.tensor, file), given.by);
    if (lora[place.network].has(place.path)) {
      leave(module, 'twice');
    } else if (given && !isReadable(given.tensor.dtype)) {
      leave(module, 'type', given.tensor.dtype);
    } else if (given && !own) {
      const [theirs, ours] = [given.tensor, place.weight].map(({ shape }) => `[${shape.join(', ')}]`);
      leave(place.path, 'size', `${theirs} lengths, but this checkpoint has ${ours}`);
    } else {
      lora[place.network].set(place.path, own ? { ...change, lengths: own } : change);
    }
  };
  for (const { module, down, up } of pairs) {
    const places = find(module);
    const wantsLengths = places.some(({ network }) => adapters[network]?.use_dora) && !lengths.has(module);
    const unreadable = [down, up].find((tensor) => tensor && !isReadable(tensor.dtype));
    if (!down || !up || wantsLengths) {
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
        const mid = factors.get(module)?.get('lora_mid');
        const layer = mid
          ? tuckerAt(place, { down: stored(down, file), mid: stored(mid, file), up: stored(up, file) }, alpha)
          : layerAt(place, stored(down, file), stored(up, file), alpha, adapters[network]);
        if (typeof layer === 'string') {
          leave(path, 'size', layer);
        } else {
          take(module, place, layer);
        }
      }
    }
  }
  for (const [module, parts] of factors) {
    const places = find(module);
    const given = alphas.get(module);
    const alpha = given && (await numberOf(given, blob));
    const unreadable = [...parts].find(([part, { dtype }]) => part !== 'on_input' && !isReadable(dtype))?.[1];
    if (pairs.some((one) => one.module === module) && parts.has('lora_mid')) {
      continue;
    }
    if (unreadable) {
      leave(module, 'type', unreadable.dtype);
    } else if (places.length === 0) {
      leave(module, namesALayer(module) ? 'elsewhere' : 'unnamed');
    } else if (given && !Number.isFinite(alpha)) {
      leave(module, 'alpha');
    } else {
      const onInput = parts.get('on_input');
      const columns = onInput ? (await numberOf(onInput, blob)) !== 0 : undefined;
      for (const place of places) {
        const layer = factoredAt(place, parts, file, alpha, columns);
        if (typeof layer === 'string') {
          leave(layer === 'part' ? module : place.path, layer === 'part' ? 'part' : 'size', layer);
        } else {
          take(module, place, layer);
        }
      }
    }
  }
  const paired = new Set([...pairs.map(({ module }) => module), ...factors.keys()]);
  for (const module of new Set([...alphas.keys(), ...lengths.keys()])) {
    if (!paired.has(module) && !leftOut.some(({ name }) => name === module)) {
      leave(module, 'part');
    }
  }
  if (LORA_NETWORKS.every((network) => lora[network].size === 0)) {
    throw new StudioError('checkpoint_unsupported', `The LoRA ${file} ${other ?? refusalOf(leftOut)}.`);
  }
  return lora;
}

/**
 * Which families a LoRA may be for, from its header alone; none where nothing tells.
 * @throws StudioError `checkpoint_damaged`
 */
export async function familiesOfLora(blob: Blob, file: string): Promise<readonly string[]> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const { pairs, factors } = sort(tensors.values());
  return familiesOf(layersOf(pairs, factors.keys()));
}

/** Whose LoRAs a checkpoint takes; none where nothing tells. */
export function familiesOfNetworks(networks: LoraTargets): readonly string[] {
  return familiesOf(LORA_NETWORKS.flatMap((network) => ownLayers(networks[network])));
}

function layersOf(pairs: Contents['pairs'], others: Iterable<string>): NamedLayer[] {
  return [
    ...pairs.map(({ module, down, up }) => ({ name: module, rows: up?.shape[0], columns: down?.shape[1] })),
    ...[...others].map((name) => ({ name })),
  ];
}

/** A checkpoint's own layers, as a LoRA would name them. */
function ownLayers(weights: WeightIndex | undefined): NamedLayer[] {
  return [...(weights?.names() ?? [])].flatMap((name) => {
    const { shape } = (name.endsWith('.weight') ? weights?.get(name) : undefined) ?? {};
    return shape ? [{ name: name.slice(0, -'.weight'.length), rows: shape[0], columns: shape[1] }] : [];
  });
}

/**
 * What of a LoRA is not used, as sentences for people; null where all of it is.
 * @param file its name
 */
export function leftOutOf({ leftOut, ...layers }: Lora, file: string): string | null {
  const used = LORA_NETWORKS.reduce((sum, network) => sum + layers[network].size, 0);
  return sentencesOf(leftOut, used, file);
}

/**
 * A network's weights with a LoRA's changes; graphs that are built from it merge them on the way to the device. Several may be applied
 * one over the other.
 * @param strengthOf factor of all changes, usually 0 … 1, or that of each layer by its path
 */
export function withLora(
  weights: WeightIndex,
  layers: ReadonlyMap<string, LoraLayer>,
  strengthOf: number | ((path: string) => number),
): WeightIndex {
  return {
    get(name) {
      const tensor = weights.get(name);
      const path = name.endsWith('.weight') ? name.slice(0, -'.weight'.length) : '';
      const layer = layers.get(path);
      const strength = typeof strengthOf === 'number' ? strengthOf : layer ? strengthOf(path) : 0;
      if (!tensor || !layer || strength === 0) {
        return tensor;
      }
      const { lengths } = layer;
      const own = 'factored' in layer ? layer.factored : { up: layer.up, down: layer.down };
      const delta: WeightDelta =
        lengths?.by === 'LyCORIS'
          ? { ...own, scale: layer.scale, lengths: { ...lengths, share: strength } }
          : { ...own, scale: strength * layer.scale, ...(lengths && { lengths }) };
      return { ...tensor, deltas: [...(tensor.deltas ?? []), delta] };
    },
    names: () => weights.names(),
  };
}
