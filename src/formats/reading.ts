/** What could be read about how a picture was made, by any tool, in our terms. */
import type { GuidanceMethod } from '../core/guidance.ts';
import type { HiresUpscaler } from '../core/hires.ts';
import type { TextRequest } from '../core/model.ts';
import type { ModelSamplingName } from '../core/model_sampling.ts';
import type { NoiseName } from '../core/noise.ts';
import type { Metadata } from './metadata.ts';

/** Only values that an operation takes; unknown ones are absent. */
export interface ReadParameters {
  prompt?: string;
  negative_prompt?: string;
  steps?: number;
  guidance_scale?: number;
  /** ComfyUI's ids, whether or not we have that sampler or schedule. */
  sampler?: string;
  schedule?: string;
  seed?: string;
  width?: number;
  height?: number;
  strength?: number;
  /** The noise source of its seed, and whose formulas its sampler followed. */
  noise?: NoiseName;
  follows?: 'diffusers' | 'comfyui';
  guidance_method?: GuidanceMethod;
  /** How the levels of a flow were shifted. */
  model_sampling?: ModelSamplingName;
  shift?: number;
  base_shift?: number;
  max_shift?: number;
  shift_width?: number;
  shift_height?: number;
  apg_eta?: number;
  apg_norm_threshold?: number;
  variation_seed?: string;
  variation_strength?: number;
  eta_noise_seed_delta?: number;
  guidance_rescale?: number;
  clip_skip?: number;
  /** The second pass at a larger size; see `core/hires.ts`. */
  hires_scale?: number;
  hires_steps?: number;
  hires_denoising_strength?: number;
  hires_upscaler?: HiresUpscaler;
  /** A picture that was painted in tiles; see `core/tiled.ts`. */
  tiled_scale?: number;
  tiled_size?: number;
  tiled_overlap?: number;
  tiled_upscaler?: string;
  /** The factor by which it was enlarged afterwards; only in Darkroom's own files. */
  scale?: number;
  /** Manual settings about the network; only in Darkroom's own files. */
  prediction_type?: string;
  rescale_betas_zero_snr?: boolean;
}

export interface Reading {
  /** Its name as people know it. */
  tool: string;
  parameters: ReadParameters;
  /** Hints: the tool's file name or key, and its hash, short or long. */
  checkpoint: { name: string | null; hash: string | null };
  /** LoRAs and the like; `hash` as the tool writes it, or `sha256` of the whole file. */
  loras: ReadLora[];
  /** How its prompts are meant to be read; absent = literally. */
  prompt_syntax?: PromptReading;
  /** The operation that it is of, with all that was settled; only in Darkroom's own sounds and videos. */
  recipe?: Recipe;
  /** What could not be restored, each as a part of a sentence: `the LoRA "paper" at 0.8`. */
  notRestored: string[];
}

export interface Recipe {
  config: string;
  /** Files that were given are there by the names under which they were recorded. */
  parameters: Readonly<Record<string, string | number | boolean>>;
  /** Among several that were made at once, from 0. */
  index: number;
}

export type PromptReading = NonNullable<TextRequest['prompt_syntax']>;

export interface ReadLora {
  /** As prompts have it: a file without its ending. */
  name: string;
  weight: number;
  hash: string | null;
  sha256: string | null;
  /** As in `LoraUse`. */
  blocks?: number[] | undefined;
  start?: number | undefined;
  end?: number | undefined;
}

/** One file of src/formats/tools: how one tool's pictures are known and read. */
export interface Tool {
  name: string;
  /** When it is tried: `own` has a unique signature; `shared` takes a format that others also write, so those go first.
   */
  turn: 'own' | 'shared';
  /** @returns null if the picture is not from this tool */
  read(metadata: Metadata): Reading | null;
}
