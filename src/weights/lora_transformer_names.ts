/**
 * How LoRAs of flow transformers call the layers that they change: as diffusers does (ai-toolkit, PEFT), or as the original code does, with
 * dots (ComfyUI) or underscores for them (kohya).
 *
 * Reference: diffusers/loaders/lora_conversion_utils.py, ComfyUI's comfy/lora.py (model_lora_keys_unet)
 */
import type { WeightIndex } from '../graphs/graph.ts';
import { originalLayers, type LayerPart, type MmditKind } from './mmdit_layout.ts';

/** A tensor by which a transformer is told from the others. */
const KINDS: [kind: MmditKind | 'flux2' | 'wan', has: string][] = [
  ['flux1', 'single_transformer_blocks.0.proj_mlp.weight'],
  ['flux2', 'single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight'],
  ['sd3', 'pos_embed.proj.weight'],
  ['z_image', 'noise_refiner.0.attention.to_q.weight'],
  ['wan', 'condition_embedder.text_embedder.linear_1.weight'],
];

/** FLUX.2 in its original code, by the stream that they are of. */
const FLUX2_DOUBLE: Record<string, [picture: string, words: string]> = {
  'attn.proj': ['attn.to_out.0', 'attn.to_add_out'],
  'mlp.0': ['ff.linear_in', 'ff_context.linear_in'],
  'mlp.2': ['ff.linear_out', 'ff_context.linear_out'],
};

const FLUX2_LAYERS: Record<string, string> = {
  img_in: 'x_embedder',
  txt_in: 'context_embedder',
  'time_in.in_layer': 'time_guidance_embed.timestep_embedder.linear_1',
  'time_in.out_layer': 'time_guidance_embed.timestep_embedder.linear_2',
  'guidance_in.in_layer': 'time_guidance_embed.guidance_embedder.linear_1',
  'guidance_in.out_layer': 'time_guidance_embed.guidance_embedder.linear_2',
  'double_stream_modulation_img.lin': 'double_stream_modulation_img.linear',
  'double_stream_modulation_txt.lin': 'double_stream_modulation_txt.linear',
  'single_stream_modulation.lin': 'single_stream_modulation.linear',
  'final_layer.linear': 'proj_out',
};

/** Wan in its original code: the layers of a block, and those beside the blocks. */
const WAN_BLOCK: Record<string, string> = {
  ...Object.fromEntries(
    Object.entries({ self_attn: 'attn1', cross_attn: 'attn2' }).flatMap(([path, own]) =>
      Object.entries({ q: 'to_q', k: 'to_k', v: 'to_v', o: 'to_out.0' }).map(([part, layer]) => [
        `${path}.${part}`,
        `${own}.${layer}`,
      ]),
    ),
  ),
  'ffn.0': 'ffn.net.0.proj',
  'ffn.2': 'ffn.net.2',
};

const WAN_LAYERS: Record<string, string> = {
  'time_embedding.0': 'condition_embedder.time_embedder.linear_1',
  'time_embedding.2': 'condition_embedder.time_embedder.linear_2',
  'time_projection.1': 'condition_embedder.time_proj',
  'text_embedding.0': 'condition_embedder.text_embedder.linear_1',
  'text_embedding.2': 'condition_embedder.text_embedder.linear_2',
  'head.head': 'proj_out',
};

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
  const layers =
    kind === 'flux2' ? flux2Layers(blocks) : kind === 'wan' ? wanLayers(blocks) : originalLayers(kind, blocks);
  return new Map([...layers].map(([path, parts]) => [path.replaceAll('.', '_'), parts]));
}

function flux2Layers(blocks: number): Map<string, LayerPart[]> {
  const layers = new Map(
    Object.entries(FLUX2_LAYERS).map(([path, own]): [string, LayerPart[]] => [path, [{ path: own }]]),
  );
  for (let n = 0; n < blocks; n++) {
    for (const [words, stream] of ['img', 'txt'].entries()) {
      const base = `transformer_blocks.${n}`;
      const names = words ? ['add_q_proj', 'add_k_proj', 'add_v_proj'] : ['to_q', 'to_k', 'to_v'];
      layers.set(
        `double_blocks.${n}.${stream}_attn.qkv`,
        names.map((name, i) => ({ path: `${base}.attn.${name}`, rows: { from: i, to: i + 1, of: 3 } })),
      );
      for (const [rest, own] of Object.entries(FLUX2_DOUBLE)) {
        layers.set(`double_blocks.${n}.${stream}_${rest}`, [{ path: `${base}.${own[words]}` }]);
      }
    }
    layers.set(`single_blocks.${n}.linear1`, [{ path: `single_transformer_blocks.${n}.attn.to_qkv_mlp_proj` }]);
    layers.set(`single_blocks.${n}.linear2`, [{ path: `single_transformer_blocks.${n}.attn.to_out` }]);
  }
  return layers;
}

function wanLayers(blocks: number): Map<string, LayerPart[]> {
  const layers = new Map(
    Object.entries(WAN_LAYERS).map(([path, own]): [string, LayerPart[]] => [path, [{ path: own }]]),
  );
  for (let n = 0; n < blocks; n++) {
    for (const [rest, own] of Object.entries(WAN_BLOCK)) {
      layers.set(`blocks.${n}.${rest}`, [{ path: `blocks.${n}.${own}` }]);
    }
  }
  return layers;
}
