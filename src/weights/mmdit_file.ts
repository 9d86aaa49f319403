/**
 * Stable Diffusion 3, FLUX.1 and Z-Image as ComfyUI has them: transformer, text encoders and autoencoder in one file, or in one for each,
 * `.safetensors` or `.gguf`. They are used as they lie; how the networks are put together follows from their tensors' shapes, and what no
 * shape tells from what all published ones have.
 *
 * The vocabulary of a large text encoder is in no such file, so `tokenizer.json` or T5's `spiece.model` has to lie beside it.
 */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { TensorIndex, type CheckpointComponents, type Component } from './checkpoint.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { Shapes, autoencoderConfig, clipConfig, each, qwen3Config, t5Config } from './inferred_configs.ts';
import { mmditNames, type MmditComponent, type MmditKind, type MmditMeaning } from './mmdit_layout.ts';
import { kindOf, readParts, requireSingle, weightFilesOf } from './mmdit_parts.ts';

interface PublishedPart {
  component: MmditComponent;
  /** A tensor that it has. */
  has: string;
  /** For people. */
  name: string;
  /** The file that it comes in, and the repository of the Hugging Face hub that has it. */
  file: string;
}

interface Published {
  pipelineClass: string;
  /** For people. */
  name: string;
  vae: { scaling_factor: number; shift_factor: number };
  parts: PublishedPart[];
  /** The text encoder that needs a vocabulary of its own. */
  reader: { component: MmditComponent; name: string; vocabulary: string };
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

const PUBLISHED: Record<MmditKind, Published> = {
  sd3: {
    pipelineClass: 'StableDiffusion3Pipeline',
    name: 'Stable Diffusion 3',
    vae: { scaling_factor: 1.5305, shift_factor: 0.0609 },
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
  },
  flux1: {
    pipelineClass: 'FluxPipeline',
    name: 'FLUX.1',
    vae: { scaling_factor: 0.3611, shift_factor: 0.1159 },
    parts: [
      CLIP_L,
      FLUX_VAE,
      {
        component: 'text_encoder_2',
        has: 'encoder.final_layer_norm.weight',
        name: 'T5 (t5xxl)',
        file: 't5xxl_fp16.safetensors (comfyanonymous/flux_text_encoders)',
      },
    ],
    reader: { component: 'text_encoder_2', name: 'T5', vocabulary: T5_VOCABULARY },
  },
  z_image: {
    pipelineClass: 'ZImagePipeline',
    name: 'Z-Image',
    vae: { scaling_factor: 0.3611, shift_factor: 0.1159 },
    parts: [
      {
        component: 'text_encoder',
        has: 'model.embed_tokens.weight',
        name: 'Qwen3 (qwen_3_4b)',
        file: 'qwen_3_4b.safetensors (Comfy-Org/z_image_turbo)',
      },
      FLUX_VAE,
    ],
    reader: { component: 'text_encoder', name: 'Qwen3', vocabulary: 'tokenizer.json (Qwen/Qwen3-4B)' },
  },
};

const VOCABULARIES = /(?:^|\/)(?:tokenizer\.json|spiece\.model)$/;

/** Of attention in Stable Diffusion 3, where no norm of its queries tells it. */
const SD3_HEAD_WIDTH = 64;
/** Latents per side of the pictures that Stable Diffusion 3 was trained at. */
const SD3_SAMPLE = 128;
/** Of a head, the shares that its three axes turn. */
const FLUX_AXES = [1 / 8, 7 / 16, 7 / 16];
const Z_IMAGE_AXES = [1 / 4, 3 / 8, 3 / 8];

const FLOW = { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 1000 };

/** Which family what was opened is of; null for anything else, and for files that cannot be read. */
export async function mmditFileKind(files: CheckpointFiles): Promise<MmditKind | null> {
  if (weightFilesOf(files).length === 0) {
    return null;
  }
  try {
    return kindOf(await readParts(files));
  } catch {
    return null;
  }
}

export class MmditFile implements CheckpointComponents {
  private constructor(
    readonly files: CheckpointFiles,
    readonly kind: MmditKind,
    /** By their names in diffusers' modules. */
    readonly tensors: ReadonlyMap<MmditComponent, Map<string, StoredTensor>>,
    /** Where the vocabulary lies: a folder of what was opened, '' for the outermost; null where there is none. */
    readonly vocabularyFolder: string | null,
  ) {}

  /**
   * @throws StudioError `checkpoint_damaged`, `checkpoint_incomplete` (a part is missing), `checkpoint_unsupported`
   */
  static async open(files: CheckpointFiles, kind: MmditKind): Promise<MmditFile> {
    const published = PUBLISHED[kind];
    const { reader } = published;
    const parts = await readParts(files);
    requireSingle(files, parts);
    const vocabulary = files.paths().find((path) => VOCABULARIES.test(path)) ?? null;
    const names = parts.flatMap(({ file, nameOf }) => [...file.names].map(nameOf));
    const meaningsOf = mmditNames(kind, names);
    // Stable Diffusion 3 can do without T5, which it is only read with where it has a vocabulary.
    const isRead = ({ component }: MmditMeaning) =>
      kind !== 'sd3' || component !== reader.component || vocabulary !== null;
    const tensors = new Map<MmditComponent, Map<string, StoredTensor>>();
    for (const { file, nameOf } of parts) {
      const ownMeanings = (name: string) => meaningsOf(nameOf(name)).filter(isRead);
      file.requireReadable((name) => ownMeanings(name).length > 0);
      for (const tensor of file.tensors) {
        for (const meaning of ownMeanings(tensor.name)) {
          const own = tensors.get(meaning.component) ?? new Map<string, StoredTensor>();
          own.set(meaning.name, viewOf(tensor, meaning));
          tensors.set(meaning.component, own);
        }
      }
    }
    const what = parts.length === 1 ? parts[0].file.path : `"${files.name}"`;
    const lacking = published.parts.filter(({ component, has }) => !tensors.get(component)?.has(has));
    if (lacking.length > 0) {
      const needed = [
        ...lacking.map(({ file }) => file),
        ...(vocabulary === null && kind !== 'sd3' ? [reader.vocabulary] : []),
      ];
      throw new StudioError(
        'checkpoint_incomplete',
        `${what} is ${published.name} without its ${listed(lacking.map(({ name }) => name))}; choose what is missing with it, or a folder that holds all of it: ${needed.join(', ')}. A diffusers folder has everything in it.`,
      );
    }
    if (kind !== 'sd3' && vocabulary === null) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${what} does not have ${reader.name}'s vocabulary in it, as no such file has, and ${published.name} cannot read words without it; choose ${reader.vocabulary} with it, or a folder that holds both.`,
      );
    }
    return new MmditFile(files, kind, tensors, vocabulary === null ? null : folderOf(vocabulary));
  }

  get pipelineClass(): string {
    return PUBLISHED[this.kind].pipelineClass;
  }

  get name(): string {
    return this.files.name.replace(/\.(safetensors|gguf)$/i, '');
  }

  /** Whether the text encoder that needs a vocabulary is there and can be read with. */
  get hasReader(): boolean {
    return this.tensors.has(PUBLISHED[this.kind].reader.component);
  }

  component(name: string): Promise<Component> {
    const component = name as MmditComponent;
    const tensors = this.tensors.get(component) ?? new Map<string, StoredTensor>();
    const shapes = new Shapes(tensors);
    return Promise.resolve({
      name,
      ...this.#described(component, shapes),
      weights: new TensorIndex(tensors),
      files: [...new Set(Array.from(tensors.values(), ({ file }) => file))],
    });
  }

  async text(path: string): Promise<string | undefined> {
    if (path !== 'scheduler/scheduler_config.json') {
      return this.files.has(path) ? (await this.files.blob(path)).text() : undefined;
    }
    const isDynamic =
      this.kind === 'flux1' && this.#transformer.has('time_text_embed.guidance_embedder.linear_1.weight');
    const shift = this.kind !== 'flux1' || isDynamic ? 3 : 1;
    const dynamic = { use_dynamic_shifting: true, base_shift: 0.5, max_shift: 1.15 };
    return JSON.stringify({ ...FLOW, shift, ...(isDynamic && dynamic) });
  }

  get #transformer(): Shapes {
    return new Shapes(this.tensors.get('transformer') ?? new Map<string, StoredTensor>());
  }

  #described(component: MmditComponent, shapes: Shapes): Pick<Component, 'className' | 'config'> {
    const { reader, vae } = PUBLISHED[this.kind];
    if (component === 'transformer') {
      const { className, configOf } = TRANSFORMERS[this.kind];
      return { className, config: configOf(shapes) };
    }
    if (component === 'vae') {
      return { className: 'AutoencoderKL', config: autoencoderConfig(shapes, vae) };
    }
    if (component === reader.component) {
      return this.kind === 'z_image'
        ? { className: 'Qwen3ForCausalLM', config: qwen3Config(shapes) }
        : { className: 'T5EncoderModel', config: t5Config(shapes) };
    }
    // Files for Stable Diffusion 3 have no projection of the smaller encoder, where it would change nothing.
    const isProjected = this.kind === 'sd3' && shapes.has('text_projection.weight');
    return {
      className: isProjected ? 'CLIPTextModelWithProjection' : 'CLIPTextModel',
      config: clipConfig(shapes, component === 'text_encoder_2'),
    };
  }
}

const TRANSFORMERS: Record<MmditKind, { className: string; configOf: (shapes: Shapes) => Record<string, unknown> }> = {
  sd3: { className: 'SD3Transformer2DModel', configOf: sd3Config },
  flux1: { className: 'FluxTransformer2DModel', configOf: fluxConfig },
  z_image: { className: 'ZImageTransformer2DModel', configOf: zImageConfig },
};

function sd3Config(shapes: Shapes): Record<string, unknown> {
  const [dim, joint] = shapes.of('context_embedder.weight');
  const [head = SD3_HEAD_WIDTH] = shapes.of('transformer_blocks.0.attn.norm_q.weight');
  const layers = shapes.count(/^transformer_blocks\.(\d+)\./);
  const [, channels] = shapes.of('pos_embed.proj.weight');
  return {
    sample_size: SD3_SAMPLE,
    patch_size: shapes.of('pos_embed.proj.weight')[2],
    in_channels: channels,
    out_channels: channels,
    num_layers: layers,
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: joint,
    caption_projection_dim: dim,
    pooled_projection_dim: shapes.of('time_text_embed.text_embedder.linear_1.weight')[1],
    pos_embed_max_size: Math.sqrt(shapes.of('pos_embed.pos_embed')[1]),
    dual_attention_layers: each(layers, (i) => i).filter((i) =>
      shapes.has(`transformer_blocks.${i}.attn2.to_q.weight`),
    ),
    qk_norm: shapes.has('transformer_blocks.0.attn.norm_q.weight') ? 'rms_norm' : null,
  };
}

function fluxConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, joint] = shapes.of('context_embedder.weight');
  const [head] = shapes.of('transformer_blocks.0.attn.norm_q.weight');
  return {
    in_channels: shapes.of('x_embedder.weight')[1],
    out_channels: shapes.of('proj_out.weight')[0],
    num_layers: shapes.count(/^transformer_blocks\.(\d+)\./),
    num_single_layers: shapes.count(/^single_transformer_blocks\.(\d+)\./),
    attention_head_dim: head,
    num_attention_heads: dim / head,
    joint_attention_dim: joint,
    pooled_projection_dim: shapes.of('time_text_embed.text_embedder.linear_1.weight')[1],
    guidance_embeds: shapes.has('time_text_embed.guidance_embedder.linear_1.weight'),
    axes_dims_rope: FLUX_AXES.map((share) => share * head),
  };
}

function zImageConfig(shapes: Shapes): Record<string, unknown> {
  const [dim, features] = shapes.of('cap_embedder.1.weight');
  const [head] = shapes.of('layers.0.attention.norm_q.weight');
  const patch = 2 ** 2;
  return {
    in_channels: shapes.of('all_x_embedder.2-1.weight')[1] / patch,
    dim,
    n_layers: shapes.count(/^layers\.(\d+)\./),
    n_refiner_layers: shapes.count(/^noise_refiner\.(\d+)\./),
    n_heads: dim / head,
    n_kv_heads: dim / head,
    cap_feat_dim: features,
    axes_dims: Z_IMAGE_AXES.map((share) => share * head),
  };
}

function listed(names: readonly string[]): string {
  return names.join(', ').replace(/, (?=[^,]*$)/, ' and ');
}

function folderOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '';
}

/** The range of a tensor that a module has, under the module's name. */
function viewOf(tensor: StoredTensor, { name, rows }: MmditMeaning): StoredTensor {
  const { shape, offset, length } = tensor;
  if (rows) {
    const share = (rows.to - rows.from) / rows.of;
    return {
      ...tensor,
      name,
      shape: [shape[0] * share, ...shape.slice(1)],
      offset: offset + (length * rows.from) / rows.of,
      length: length * share,
    };
  }
  // The autoencoder's attention is made of 1×1 convolutions there and of linear layers here: the same bytes.
  const isLinear = /\.mid_block\.attentions\.0\.to_/.test(name) && shape.length === 4;
  return { ...tensor, name, shape: isLinear ? shape.slice(0, 2) : shape };
}
