/** What the published flow transformers have that no tensor's shape tells, and where people get their parts. */
import { WAN22_CHANNELS, type Shapes } from './inferred_configs.ts';
import { isNewerLtx } from './ltx_layout.ts';
import type { MmditComponent, MmditKind } from './mmdit_layout.ts';

export interface PublishedPart {
  component: MmditComponent;
  /** A tensor that it has, by its name in diffusers' modules. */
  has: string;
  /** For people. */
  name: string;
  /** The file that it comes in, and the repository of the Hugging Face hub that has it; of a transformer's size where there are several. */
  file: string | ((transformer: Shapes) => string);
  /** Whether this transformer needs it; absent = every one does. */
  isNeeded?: (transformer: Shapes) => boolean;
  /** Whether that file has what reads words in it, too. */
  brings?: 'vocabulary';
}

export interface Published {
  pipelineClass: string | ((vae: Shapes) => string);
  /** For people. */
  name: string;
  parts: PublishedPart[];
  /** The text encoder that needs a vocabulary of its own. */
  reader: { component: MmditComponent; name: string; vocabulary: string };
  /** As in `scheduler_config.json`. */
  scheduler: (transformer: Shapes, vae: Shapes) => Record<string, unknown>;
}

const T5_VOCABULARY = 'spiece.model (google/t5-v1_1-xxl)';
const FLUX_VAE = {
  component: 'vae',
  has: 'decoder.conv_in.weight',
  name: 'autoencoder (VAE)',
  file: 'ae.safetensors (Comfy-Org/Lumina_Image_2.0_Repackaged)',
} as const;
const CLIP_L = {
  component: 'text_encoder',
  has: 'text_model.final_layer_norm.weight',
  name: 'CLIP (clip_l)',
  file: 'clip_l.safetensors (comfyanonymous/flux_text_encoders)',
} as const;
const T5 = {
  has: 'encoder.final_layer_norm.weight',
  name: 'T5 (t5xxl)',
  file: 't5xxl_fp16.safetensors (comfyanonymous/flux_text_encoders)',
} as const;
const QWEN3 = { component: 'text_encoder', name: 'Qwen3', vocabulary: 'tokenizer.json (Qwen/Qwen3-4B)' } as const;

const FLOW = { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 1000 };
const DYNAMIC = { use_dynamic_shifting: true, base_shift: 0.5, max_shift: 1.15 };

/** Elements of a token that FLUX.2 klein 9B reads: three layers of Qwen3 8B. */
const KLEIN_9B = 3 * 4096;

/** Whether it is Wan 2.2 TI2V-5B, whose autoencoder has more channels than the others'. */
function isWan22Small(transformer: Shapes): boolean {
  return transformer.of('patch_embedding.weight')[1] === WAN22_CHANNELS;
}

/** The authors' for that, for a first and a last picture, and for everything else at 480 rows. */
function wanShift(transformer: Shapes): number {
  const endsGiven = transformer.has('condition_embedder.image_embedder.pos_embed');
  return isWan22Small(transformer) ? 5 : endsGiven ? 16 : 3;
}

/** What the transformer belongs to. */
export function publishedAs(kind: MmditKind, transformer: Shapes): Published {
  if (kind === 'flux2' && transformer.has(GUIDED)) {
    return FLUX2_DEV;
  }
  return kind === 'qwen_image' && transformer.has(LAYERED) ? QWEN_LAYERED : PUBLISHED[kind];
}

/** A layer of FLUX.2 dev that klein has not. */
const GUIDED = 'time_guidance_embed.guidance_embedder.linear_1.weight';
/** Tells Qwen-Image-Layered whether it is shown a picture; its relatives have no such layer. */
export const LAYERED = 'time_text_embed.addition_t_embedding.weight';

const FLUX2_VAE = { ...FLUX_VAE, has: 'bn.running_mean', file: 'flux2-vae.safetensors (Comfy-Org/flux2-dev)' } as const;

const FLUX2_DEV: Published = {
  pipelineClass: 'Flux2Pipeline',
  name: 'FLUX.2 dev',
  parts: [
    {
      component: 'text_encoder',
      has: 'model.embed_tokens.weight',
      name: 'Mistral (mistral_3_small)',
      file: 'mistral_3_small_flux2_fp8.safetensors (Comfy-Org/flux2-dev)',
    },
    FLUX2_VAE,
  ],
  reader: {
    component: 'text_encoder',
    name: 'Mistral',
    vocabulary: 'tokenizer.json (black-forest-labs/FLUX.2-dev)',
  },
  scheduler: () => ({ ...FLOW, shift: 3, ...DYNAMIC }),
};

const QWEN_VL: PublishedPart = {
  component: 'text_encoder',
  has: 'model.embed_tokens.weight',
  name: 'Qwen2.5-VL (qwen_2.5_vl_7b)',
  file: 'qwen_2.5_vl_7b_fp8_scaled.safetensors (Comfy-Org/Qwen-Image_ComfyUI)',
};
const CAUSAL_VAE = { ...FLUX_VAE, has: 'decoder.mid_block.resnets.0.norm1.gamma' } as const;

const QWEN_IMAGE: Published = {
  pipelineClass: 'QwenImagePipeline',
  name: 'Qwen-Image',
  parts: [QWEN_VL, { ...CAUSAL_VAE, file: 'qwen_image_vae.safetensors (Comfy-Org/Qwen-Image_ComfyUI)' }],
  reader: {
    component: 'text_encoder',
    name: 'Qwen2.5-VL',
    vocabulary: 'tokenizer.json (Qwen/Qwen2.5-VL-7B-Instruct)',
  },
  scheduler: () => ({
    ...FLOW,
    shift: 1,
    use_dynamic_shifting: true,
    base_image_seq_len: 256,
    base_shift: 0.5,
    max_image_seq_len: 8192,
    max_shift: 0.9,
    shift_terminal: 0.02,
  }),
};

const QWEN_LAYERED: Published = {
  ...QWEN_IMAGE,
  pipelineClass: 'QwenImageLayeredPipeline',
  name: 'Qwen-Image-Layered',
  parts: [
    QWEN_VL,
    { ...CAUSAL_VAE, file: 'qwen_image_layered_vae.safetensors (Comfy-Org/Qwen-Image-Layered_ComfyUI)' },
  ],
};

export const PUBLISHED: Record<MmditKind, Published> = {
  sd3: {
    pipelineClass: 'StableDiffusion3Pipeline',
    name: 'Stable Diffusion 3',
    parts: [
      CLIP_L,
      { ...FLUX_VAE, file: 'vae/diffusion_pytorch_model.safetensors (stabilityai/stable-diffusion-3.5-medium)' },
      {
        component: 'text_encoder_2',
        has: 'text_model.final_layer_norm.weight',
        name: 'OpenCLIP (clip_g)',
        file: 'clip_g.safetensors (Comfy-Org/stable-diffusion-3.5-fp8)',
      },
    ],
    reader: { component: 'text_encoder_3', name: 'T5', vocabulary: T5_VOCABULARY },
    scheduler: () => ({ ...FLOW, shift: 3 }),
  },
  flux1: {
    pipelineClass: 'FluxPipeline',
    name: 'FLUX.1',
    parts: [CLIP_L, FLUX_VAE, { ...T5, component: 'text_encoder_2' }],
    reader: { component: 'text_encoder_2', name: 'T5', vocabulary: T5_VOCABULARY },
    scheduler: (transformer) =>
      transformer.has('time_text_embed.guidance_embedder.linear_1.weight')
        ? { ...FLOW, shift: 3, ...DYNAMIC }
        : { ...FLOW, shift: 1 },
  },
  flux2: {
    pipelineClass: 'Flux2KleinPipeline',
    name: 'FLUX.2 klein',
    parts: [
      {
        component: 'text_encoder',
        has: 'model.embed_tokens.weight',
        name: 'Qwen3 (qwen_3)',
        file: (transformer) =>
          transformer.of('context_embedder.weight')[1] === KLEIN_9B
            ? 'qwen_3_8b_fp8mixed.safetensors (Comfy-Org/vae-text-encorder-for-flux-klein-9b)'
            : 'qwen_3_4b.safetensors (Comfy-Org/vae-text-encorder-for-flux-klein-4b)',
      },
      FLUX2_VAE,
    ],
    reader: QWEN3,
    scheduler: () => ({ ...FLOW, shift: 3, ...DYNAMIC }),
  },
  flux3: {
    // That of the distilled ones is called otherwise and does the same: they are told by their transformer.
    pipelineClass: 'Flux3ModularPipeline',
    name: 'FLUX.3 klein',
    parts: [
      {
        component: 'text_encoder',
        has: 'model.language_model.embed_tokens.weight',
        name: 'Qwen3-VL (qwen3vl_4b)',
        file: 'qwen3vl_4b_bf16.safetensors (Comfy-Org/Krea-2)',
      },
      {
        ...FLUX_VAE,
        has: 'bn.running_mean',
        file: 'vae/diffusion_pytorch_model.safetensors (black-forest-labs/flux-3-image-klein)',
      },
    ],
    reader: {
      component: 'text_encoder',
      name: 'Qwen3-VL',
      vocabulary: 'tokenizer.json (Qwen/Qwen3-VL-4B-Instruct)',
    },
    scheduler: () => ({ ...FLOW, shift: 6.93 }),
  },
  z_image: {
    pipelineClass: 'ZImagePipeline',
    name: 'Z-Image',
    parts: [
      {
        component: 'text_encoder',
        has: 'model.embed_tokens.weight',
        name: 'Qwen3 (qwen_3_4b)',
        file: 'qwen_3_4b.safetensors (Comfy-Org/z_image_turbo)',
      },
      FLUX_VAE,
    ],
    reader: QWEN3,
    scheduler: () => ({ ...FLOW, shift: 3 }),
  },
  qwen_image: QWEN_IMAGE,
  wan: {
    pipelineClass: 'WanPipeline',
    name: 'Wan',
    parts: [
      {
        component: 'text_encoder',
        has: 'encoder.final_layer_norm.weight',
        name: 'UMT5 (umt5_xxl)',
        file: 'umt5_xxl_fp8_e4m3fn_scaled.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged)',
        brings: 'vocabulary',
      },
      {
        ...CAUSAL_VAE,
        file: (transformer) =>
          isWan22Small(transformer)
            ? 'wan2.2_vae.safetensors (Comfy-Org/Wan_2.2_ComfyUI_Repackaged)'
            : 'wan_2.1_vae.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged)',
      },
      {
        component: 'image_encoder',
        has: 'vision_model.embeddings.class_embedding',
        name: 'CLIP vision encoder (clip_vision_h)',
        file: 'clip_vision_h.safetensors (Comfy-Org/Wan_2.1_ComfyUI_repackaged)',
        isNeeded: (transformer) => transformer.has('condition_embedder.image_embedder.norm1.weight'),
      },
    ],
    reader: { component: 'text_encoder', name: 'UMT5', vocabulary: 'spiece.model (google/umt5-xxl)' },
    scheduler: (transformer) => ({
      _class_name: 'UniPCMultistepScheduler',
      num_train_timesteps: 1000,
      prediction_type: 'flow_prediction',
      use_flow_sigmas: true,
      flow_shift: wanShift(transformer),
    }),
  },
  ltx: {
    pipelineClass: (vae) => (isNewerLtx(vae) ? 'LTXConditionPipeline' : 'LTXPipeline'),
    name: 'LTX-Video',
    parts: [
      { ...T5, component: 'text_encoder' },
      {
        component: 'vae',
        has: 'latents_std',
        name: 'autoencoder (VAE)',
        file: 'ltx-video-2b-v0.9.5.safetensors (Lightricks/LTX-Video)',
      },
    ],
    reader: { component: 'text_encoder', name: 'T5', vocabulary: T5_VOCABULARY },
    // From 0.9.5 on the pipeline brings its own noise levels.
    scheduler: (_, vae) =>
      isNewerLtx(vae)
        ? FLOW
        : {
            ...FLOW,
            use_dynamic_shifting: true,
            base_shift: 0.95,
            max_shift: 2.05,
            base_image_seq_len: 1024,
            max_image_seq_len: 4096,
            shift_terminal: 0.1,
          },
  },
};
