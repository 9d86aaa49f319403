/**
 * A whole checkpoint in one `.safetensors` file of the original layout, as AUTOMATIC1111, ComfyUI and Civitai have them: Stable
 * Diffusion 1 (OpenAI's text encoder), 2 (OpenCLIP's) and XL (both). It is used as it lies; how its networks are put together is not in the file
 * and follows from its tensors' shapes.
 *
 * Reference: diffusers/loaders/single_file_utils.py. Whether it predicts the noise or the velocity, which diffusers guesses from
 * `global_step`, is told by the file: by empty tensors that mark it, as ComfyUI and AUTOMATIC1111 read them, or by its metadata
 * (https://github.com/Stability-AI/ModelSpec); else, of Stable Diffusion 2, by a norm's bias, which differs far between the two.
 */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { TensorIndex, type CheckpointComponents, type Component } from './checkpoint.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { BYTES } from './conversion.ts';
import {
  HEAD_WIDTH,
  Shapes,
  autoencoderConfig,
  clipConfig,
  each,
  transformerDepths,
  unetEncoderConfig,
} from './inferred_configs.ts';
import { hasOpenClip, isOriginalLayout, originalNames, xlKind, type OriginalComponent } from './original_layout.ts';
import { requireUnpacked } from './packed_formats.ts';
import { asFloats, requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader, type SafetensorsHeader } from './safetensors.ts';
import { rowsOf } from './tensor_rows.ts';
import { isWeightFile } from './weight_file.ts';

const CLASSES = {
  unet: 'UNet2DConditionModel',
  vae: 'AutoencoderKL',
  text_encoder: 'CLIPTextModel',
  text_encoder_2: 'CLIPTextModelWithProjection',
} as const;

/** Which kind of Stable Diffusion it is. */
export type SingleFileKind = 1 | 2 | 'xl';

/** Its parts, by a tensor that each has, and what cannot be done without. The second text encoder is Stable Diffusion XL's. */
const PARTS: { component: OriginalComponent; has: RegExp; missing: string; without: string }[] = [
  { component: 'unet', has: /./, missing: 'no UNet', without: 'nothing can be made' },
  { component: 'text_encoder', has: /./, missing: 'no text encoder', without: 'words cannot be read' },
  { component: 'text_encoder_2', has: /./, missing: 'no second text encoder', without: 'words cannot be read' },
  {
    component: 'vae',
    has: /^decoder\.conv_in\.weight$/,
    missing: 'no autoencoder (VAE)',
    without: 'what it makes cannot become a picture',
  },
];

/** Of every attention in Stable Diffusion 1's UNet. */
const HEADS = 8;
/** Of the sinusoid of each size that Stable Diffusion XL is told. */
const SIZE_WIDTH = 256;
/** Standard deviation of the last block's first norm's bias; those that predict the noise lie far below. */
const VELOCITY_BIAS = 0.09;

const BETAS = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear', num_train_timesteps: 1000 };
const COMMON = { ...BETAS, clip_sample: false, set_alpha_to_one: false, skip_prk_steps: true, steps_offset: 1 };

/** The schedulers of the published Stable Diffusion 1.5, 2-base and 2.1. */
const SCHEDULERS = {
  epsilon: { _class_name: 'PNDMScheduler', ...COMMON, prediction_type: 'epsilon' },
  v_prediction: {
    _class_name: 'DDIMScheduler',
    ...COMMON,
    prediction_type: 'v_prediction',
    timestep_spacing: 'leading',
  },
  /** Noise levels that end in pure noise, sampled as their authors ask: https://arxiv.org/abs/2305.08891. */
  v_prediction_zero_snr: {
    _class_name: 'DDIMScheduler',
    ...COMMON,
    prediction_type: 'v_prediction',
    timestep_spacing: 'trailing',
    rescale_betas_zero_snr: true,
  },
};

const EULER = {
  _class_name: 'EulerDiscreteScheduler',
  ...COMMON,
  interpolation_type: 'linear',
  use_karras_sigmas: false,
};

/** The scheduler of the published Stable Diffusion XL, and what those that predict the velocity make of it. */
const XL_SCHEDULERS: Record<keyof typeof SCHEDULERS, Record<string, unknown>> = {
  epsilon: { ...EULER, prediction_type: 'epsilon', timestep_spacing: 'leading' },
  v_prediction: { ...EULER, prediction_type: 'v_prediction', timestep_spacing: 'leading' },
  v_prediction_zero_snr: {
    ...EULER,
    prediction_type: 'v_prediction',
    timestep_spacing: 'trailing',
    rescale_betas_zero_snr: true,
  },
};

/** The one weight file of what was opened, where it has no `model_index.json`; else null. */
export function singleFileOf(files: CheckpointFiles): string | null {
  const weights = files.paths().filter((path) => !path.includes('/') && isWeightFile(path));
  return weights.length === 1 && /\.safetensors$/i.test(weights[0]) && !files.has('model_index.json')
    ? weights[0]
    : null;
}

/** Whether it is of Stable Diffusion XL; false for a file that cannot be read at all. */
export async function isXlFile(files: CheckpointFiles, path: string): Promise<boolean> {
  try {
    const { tensors } = await readSafetensorsHeader(await files.blob(path), path);
    return xlKind(new Set(tensors.keys())) !== null;
  } catch {
    return false;
  }
}

export class SingleFile implements CheckpointComponents {
  private constructor(
    readonly files: CheckpointFiles,
    readonly path: string,
    /** By their names in diffusers' modules. */
    readonly tensors: Record<OriginalComponent, Map<string, StoredTensor>>,
    readonly kind: SingleFileKind,
    readonly prediction: keyof typeof SCHEDULERS,
    readonly metadata: ReadonlyMap<string, string>,
  ) {}

  /**
   * @param path of the file
   * @throws StudioError `checkpoint_damaged`, `checkpoint_incomplete` (a network is missing), `checkpoint_unsupported`
   */
  static async open(files: CheckpointFiles, path: string): Promise<SingleFile> {
    const blob = await files.blob(path);
    const header = await readSafetensorsHeader(blob, path);
    const stored = storedTensors(header, path);
    const names = new Set([...header.tensors.keys(), ...stored.map(({ name }) => name)]);
    const has = (name: string) => names.has(name);
    if (!isOriginalLayout(has)) {
      requireUnpacked(names, path);
      throw new StudioError('checkpoint_unsupported', whatElse(path, names));
    }
    const xl = xlKind(names);
    if (xl === 'refiner') {
      throw new StudioError(
        'checkpoint_unsupported',
        `${path} is the refiner of Stable Diffusion XL, which only goes over what the base checkpoint made and which Darkroom cannot run; choose the base checkpoint.`,
      );
    }
    const meaningsOf = originalNames(names);
    requireReadable(header, path, (name) => meaningsOf(name).length > 0);
    const tensors = {
      unet: new Map(),
      vae: new Map(),
      text_encoder: new Map(),
      text_encoder_2: new Map(),
    } as SingleFile['tensors'];
    for (const tensor of stored) {
      for (const { component, name, third } of meaningsOf(tensor.name)) {
        tensors[component].set(name, viewOf(tensor, name, third));
      }
    }
    const kind = xl === 'base' ? 'xl' : hasOpenClip(has) ? 2 : 1;
    requireParts(path, tensors, kind);
    const prediction = await predictionOf(header, kind === 2 ? tensors.unet : null, blob);
    return new SingleFile(files, path, tensors, kind, prediction, header.metadata);
  }

  get pipelineClass(): string {
    return this.kind === 'xl' ? 'StableDiffusionXLPipeline' : 'StableDiffusionPipeline';
  }

  get name(): string {
    return this.files.name.replace(/\.safetensors$/i, '');
  }

  component(name: string): Promise<Component> {
    const component = name as OriginalComponent;
    return Promise.resolve({
      name,
      className: CLASSES[component],
      config: this.#config(component),
      weights: new TensorIndex(this.tensors[component]),
      files: [this.path],
    });
  }

  text(path: string): Promise<string | undefined> {
    const isScheduler = path === 'scheduler/scheduler_config.json';
    const schedulers = this.kind === 'xl' ? XL_SCHEDULERS : SCHEDULERS;
    return Promise.resolve(isScheduler ? JSON.stringify(schedulers[this.prediction]) : undefined);
  }

  /** As the `config.json` of a diffusers folder has it. */
  #config(component: OriginalComponent): Record<string, unknown> {
    const shapes = new Shapes(this.tensors[component]);
    switch (component) {
      case 'unet':
        return this.#unetConfig(shapes);
      case 'vae':
        return autoencoderConfig(shapes, { scaling_factor: this.kind === 'xl' ? 0.13025 : 0.18215 });
      case 'text_encoder':
      case 'text_encoder_2':
        return clipConfig(shapes, this.kind === 2 || component === 'text_encoder_2');
    }
  }

  #unetConfig(shapes: Shapes): Record<string, unknown> {
    const shape = (name: string) => shapes.of(name);
    const encoder = unetEncoderConfig(shapes);
    const { block_out_channels: channels, layers_per_block: layers } = encoder;
    const blocks = channels.length;
    const attends = (block: string) =>
      [...shapes.tensors.keys()].some((name) => name.startsWith(`${block}.attentions.`));
    const [downs, ups] = (['down', 'up'] as const).map((side) =>
      each(blocks, (i) => transformerDepths(shapes, `${side}_blocks.${i}`, side === 'up' ? layers + 1 : layers)),
    );
    const isMirrored = JSON.stringify([...downs].reverse()) === JSON.stringify(ups);
    const added = shape('add_embedding.linear_1.weight')[1];
    return {
      ...encoder,
      in_channels: shape('conv_in.weight')[1],
      out_channels: shape('conv_out.weight')[0],
      up_block_types: each(blocks, (i) => (attends(`up_blocks.${i}`) ? 'CrossAttnUpBlock2D' : 'UpBlock2D')),
      ...(!isMirrored && { reverse_transformer_layers_per_block: ups }),
      // diffusers means the number of heads by it.
      attention_head_dim:
        this.kind === 1 ? HEADS : channels.map((width) => Math.max(1, Math.floor(width / HEAD_WIDTH))),
      use_linear_projection: this.kind !== 1,
      upcast_attention: this.kind === 2,
      ...(added !== undefined && {
        addition_embed_type: 'text_time',
        addition_time_embed_dim: SIZE_WIDTH,
        projection_class_embeddings_input_dim: added,
      }),
      norm_num_groups: 32,
      sample_size: this.#sampleSize(),
    };
  }

  /** Of the latents that it was trained at: as its metadata say, else as the published ones of its kind were. */
  #sampleSize(): [number, number] {
    const [, width, height] = /^(\d+)x(\d+)$/.exec(this.metadata.get('modelspec.resolution') ?? '') ?? [];
    if (width !== undefined && height !== undefined) {
      return [Math.round(Number(height) / 8), Math.round(Number(width) / 8)];
    }
    if (this.kind === 'xl') {
      return [128, 128];
    }
    return this.kind === 2 && this.prediction !== 'epsilon' ? [96, 96] : [64, 64];
  }
}

/** The range of a tensor that a module has, under the module's name. */
function viewOf(tensor: StoredTensor, name: string, third: 0 | 1 | 2 | undefined): StoredTensor {
  const { shape } = tensor;
  if (third !== undefined) {
    return rowsOf(tensor, { from: third, to: third + 1, of: 3 }, name);
  }
  // The autoencoder's attention is made of 1×1 convolutions there and of linear layers here: the same bytes.
  const isLinear = /\.mid_block\.attentions\.0\.to_/.test(name) && shape.length === 4;
  return { ...tensor, name, shape: isLinear ? shape.slice(0, 2) : shape };
}

/** @throws StudioError `checkpoint_incomplete`, naming all that is missing and what follows from it */
function requireParts(path: string, tensors: SingleFile['tensors'], kind: SingleFileKind): void {
  const lacking = PARTS.filter(
    ({ component, has }) =>
      (component !== 'text_encoder_2' || kind === 'xl') &&
      ![...tensors[component].keys()].some((name) => has.test(name)),
  );
  if (lacking.length > 0) {
    const parts = lacking.map(({ missing }) => missing).join(' and ');
    const follows = [...new Set(lacking.map(({ without }) => without))].join(' and ');
    throw new StudioError(
      'checkpoint_incomplete',
      `${path} has ${parts} in it, so ${follows}; choose a checkpoint that is complete, or a diffusers folder.`,
    );
  }
}

/** @param unet of a Stable Diffusion 2, whose weights tell it where nothing else does; else null */
async function predictionOf(
  { tensors, metadata }: SafetensorsHeader,
  unet: Map<string, StoredTensor> | null,
  blob: Blob,
): Promise<keyof typeof SCHEDULERS> {
  const velocity = tensors.has('ztsnr') ? 'v_prediction_zero_snr' : 'v_prediction';
  if (tensors.has('v_pred')) {
    return velocity;
  }
  const said = metadata.get('modelspec.prediction_type')?.trim().toLowerCase();
  if (said !== undefined && /^(v|eps)/.test(said)) {
    return said.startsWith('v') ? velocity : 'epsilon';
  }
  // kohya's name of the one published kind that predicts the velocity.
  if (/^stable-diffusion-v2-768-v\b/.test(metadata.get('modelspec.architecture') ?? '')) {
    return velocity;
  }
  return unet && (await hasVelocityBias(unet, blob)) ? velocity : 'epsilon';
}

async function hasVelocityBias(unet: Map<string, StoredTensor>, blob: Blob): Promise<boolean> {
  const biases = [...unet.keys()].filter((name) => /^up_blocks\..*\.transformer_blocks\.0\.norm1\.bias$/.test(name));
  const last = unet.get(biases.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1) ?? '');
  if (!last) {
    return false;
  }
  const bytes = await blob.slice(last.offset, last.offset + last.shape[0] * BYTES[last.dtype]).arrayBuffer();
  const values = asFloats(new Uint8Array(bytes), last.dtype);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return Math.sqrt(variance) > VELOCITY_BIAS;
}

/** What to say of a file that is something else. */
function whatElse(path: string, names: ReadonlySet<string>): string {
  const has = (pattern: RegExp) => [...names].some((name) => pattern.test(name));
  if (has(/^model_ema\./)) {
    return `${path} is a copy for training: it has only averaged weights (EMA), whose names no longer say which layer they are of; get the pruned or the full version of this checkpoint.`;
  }
  if (has(/\.lora_(down|up|A|B)\b|_lora\.(down|up)\./)) {
    return `${path} is a LoRA and no checkpoint; add it to the LoRAs, and use it with a checkpoint of its kind.`;
  }
  if (has(/^(conv_in|down_blocks\.0\..*|encoder\.conv_in|text_model\..*)\.weight$/)) {
    return `${path} is one part of a diffusers folder; open the whole folder, the one that holds model_index.json.`;
  }
  return `${path} is in a layout that Darkroom cannot run; it runs single files of Stable Diffusion 1, 2, 3 and XL, FLUX.1, FLUX.2, Qwen-Image, Wan and Z-Image, and diffusers folders.`;
}
