/**
 * How LoRAs of flow transformers call the layers that they change: as diffusers does (ai-toolkit, PEFT), or as the original code does, with
 * dots (ComfyUI) or underscores for them (kohya).
 *
 * Reference: diffusers/loaders/lora_conversion_utils.py, ComfyUI's comfy/lora.py (model_lora_keys_unet)
 */
import type { WeightIndex } from '../graphs/graph.ts';
import type { LayerPart } from './layer_parts.ts';
import { originalLayers, type MmditKind } from './mmdit_layout.ts';

/** A tensor by which a transformer is told from the others. */
const KINDS: [kind: MmditKind, has: string][] = [
  ['flux1', 'single_transformer_blocks.0.proj_mlp.weight'],
  ['flux2', 'single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight'],
  ['flux3', 'early_stream_modulations.txt.linear.weight'],
  ['sd3', 'pos_embed.proj.weight'],
  ['z_image', 'noise_refiner.0.attention.to_q.weight'],
  ['wan', 'condition_embedder.text_embedder.linear_1.weight'],
  ['ltx', 'time_embed.emb.timestep_embedder.linear_1.weight'],
];

/**
 * @param weights of the transformer, by their names in diffusers' modules
 * @returns the layers of the original code by their paths, with underscores for dots; those of diffusers are not among them
 */
export function originalTransformerLayers(weights: WeightIndex): Map<string, LayerPart[]> {
  const kind = KINDS.find(([, has]) => weights.get(has))?.[0];
  if (kind === undefined) {
    return new Map();
  }
  const numbers = [...weights.names()].flatMap((name) => /^\w+\.(\d+)\./.exec(name)?.[1] ?? []);
  const blocks = Math.max(0, ...numbers.map(Number)) + 1;
  return new Map([...originalLayers(kind, blocks)].map(([path, parts]) => [path.replaceAll('.', '_'), parts]));
}
