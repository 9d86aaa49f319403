/** How LoRA files call the layers that they change, and which of a checkpoint's layers these are. See lora.ts for the spellings. */
import type { StoredTensor, WeightIndex } from '../graphs/graph.ts';
import { originalTransformerLayers } from './lora_transformer_names.ts';
import type { LayerPart } from './layer_parts.ts';
import { originalTextLayers, originalUnetLayer } from './original_layout.ts';

export const LORA_NETWORKS = ['unet', 'transformer', 'text_encoder', 'text_encoder_2'] as const;
export type LoraNetwork = (typeof LORA_NETWORKS)[number];
export type TextNetwork = Exclude<LoraNetwork, 'unet' | 'transformer'>;
/** The networks of a checkpoint that LoRAs can change; not every one has a second text encoder. */
export type LoraTargets = Partial<Record<LoraNetwork, WeightIndex>>;

/** A layer of the checkpoint. */
export interface Place {
  network: LoraNetwork;
  path: string;
  weight: StoredTensor;
  /** The change has the rows of several layers, this one's of `of` equal shares those from `from` to before `to`; absent = all of them. */
  rows?: LayerPart['rows'];
}

/** What stands before a layer's path, with underscores for dots. */
const PREFIXES: Record<LoraNetwork, string[]> = {
  unet: ['lora_unet_', 'lycoris_unet_', 'lycoris_', 'model_diffusion_model_', 'diffusion_model_', 'unet_', ''],
  transformer: [
    'lora_unet_',
    'lora_transformer_',
    'lycoris_transformer_',
    'lycoris_',
    'model_diffusion_model_',
    'diffusion_model_',
    'transformer_',
    '',
  ],
  text_encoder: [
    'lora_te_',
    'lora_te1_',
    'lycoris_text_encoder_',
    'lycoris_te_',
    'lycoris_te1_',
    'lycoris_',
    'text_encoders_clip_l_transformer_',
    'text_encoders_clip_h_transformer_',
    'text_encoders_clip_l_',
    'text_encoders_clip_h_',
    'text_encoders_',
    'text_encoder_',
    'clip_l_transformer_',
    'clip_h_transformer_',
    'clip_l_',
    'clip_h_',
    'cond_stage_model_transformer_',
    'cond_stage_model_model_',
    'cond_stage_model_',
    'conditioner_embedders_0_transformer_',
    '',
  ],
  text_encoder_2: [
    'lora_te2_',
    'lycoris_text_encoder_2_',
    'lycoris_te2_',
    'text_encoders_clip_g_transformer_',
    'text_encoder_2_',
    'clip_g_transformer_',
    'clip_g_',
    'conditioner_embedders_1_model_',
  ],
};

/** Names of layers in the models that LoRAs are made for, those that Darkroom cannot run included. */
const LAYER =
  /^(?:lora|lycoris|unet|transformer|model_diffusion_model|diffusion_model|text_encoders?|cond_stage_model|conditioner|clip_[lgh]|te\d?)_|(?:^|_)(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks|double_blocks|single_blocks|joint_blocks|transformer_blocks|encoder_layers|resblocks|layers|blocks)_\d/;

/** Whether a LoRA's name of a layer is one of some model, so that a checkpoint that has no such layer is of another kind. */
export function namesALayer(module: string): boolean {
  return LAYER.test(underscored(module));
}

/**
 * Finds the layers that a LoRA calls `module`: none where the checkpoint has no such layer, three where it is an attention whose queries,
 * keys and values are one layer in the original.
 */
export function layerFinder(networks: LoraTargets): (module: string) => Place[] {
  // In kohya's names dots have become underscores, which cannot be undone without knowing what is there, so all are compared so.
  const layers = {
    unet: new Map<string, Place>(),
    transformer: new Map<string, Place>(),
    text_encoder: new Map<string, Place>(),
    text_encoder_2: new Map<string, Place>(),
  };
  const resnets = new Set<string>();
  for (const network of LORA_NETWORKS) {
    const index = networks[network];
    for (const name of index?.names() ?? []) {
      const weight = index?.get(name);
      if (weight && name.endsWith('.weight')) {
        const path = name.slice(0, -'.weight'.length);
        layers[network].set(underscored(isText(network) ? path.replace(/^text_model\./, '') : path), {
          network,
          path,
          weight,
        });
        /^down_blocks\.0\.resnets\.\d+/.exec(path)?.forEach((one) => resnets.add(one));
      }
    }
  }
  const unetLayers = (path: string): Place[] => {
    const diffusers = underscored(originalUnetLayer(path, resnets.size + 1) ?? path);
    // Before PEFT the last layer of an attention was called by the list that holds it.
    const place = layers.unet.get(diffusers) ?? layers.unet.get(`${diffusers}_0`);
    return place ? [place] : [];
  };
  const textLayers =
    (network: TextNetwork) =>
    (path: string): Place[] => {
      const known = layers[network].get(path.replace(/^text_model_/, '').replace(OLD_ATTENTION, '$1_$2_proj'));
      return known
        ? [known]
        : originalTextLayers(path).flatMap(({ path: own, third }) => {
            const place = layers[network].get(underscored(own));
            const rows = third === undefined ? {} : { rows: { from: third, to: third + 1, of: 3 } };
            return place ? [{ ...place, ...rows }] : [];
          });
    };
  const original = networks.transformer
    ? originalTransformerLayers(networks.transformer)
    : new Map<string, LayerPart[]>();
  const transformerLayers = (path: string): Place[] => {
    const known = layers.transformer.get(path) ?? layers.transformer.get(`${path}_0`);
    return known
      ? [known]
      : (original.get(path) ?? []).flatMap(({ path: own, rows }) => {
          const place = layers.transformer.get(underscored(own));
          return place ? [{ ...place, ...(rows && { rows }) }] : [];
        });
  };
  const find = {
    unet: unetLayers,
    transformer: transformerLayers,
    text_encoder: textLayers('text_encoder'),
    text_encoder_2: textLayers('text_encoder_2'),
  };

  return (module) => {
    const name = underscored(module.replaceAll('.processor.', '.').replaceAll('base_model.model.', ''));
    for (const network of LORA_NETWORKS) {
      for (const prefix of PREFIXES[network].filter((start) => name.startsWith(start))) {
        const places = find[network](name.slice(prefix.length));
        if (places.length > 0) {
          return places;
        }
      }
    }
    return [];
  };
}

/** diffusers 0.15 to 0.18 called the text encoder's attention like the UNet's, 0.16 after its own names. */
const OLD_ATTENTION = /(self_attn)_(?:[qkv]_proj_|out_proj_)?to_([qkv]|out)$/;

function isText(network: LoraNetwork): network is TextNetwork {
  return network !== 'unet' && network !== 'transformer';
}

function underscored(name: string): string {
  return name.replaceAll('.', '_');
}
