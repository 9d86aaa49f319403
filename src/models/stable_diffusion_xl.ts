/**
 * Stable Diffusion XL and its relatives (Turbo, Lightning, inpainting, SSD-1B, Vega, those that predict the velocity) from an unconverted
 * diffusers folder or one file of the original layout: two text encoders side by side, the second one's text as a whole, and sizes.
 *
 * Reference: diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import * as clipText from '../graphs/clip_text.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { SingleFile, isXlFile, singleFileOf } from '../weights/single_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openDiffusersModel, type Layout } from './latent_diffusion/diffusers_model.ts';
import { isReadyMade } from './latent_diffusion/onnx_layout.ts';

const PIPELINE_CLASSES = [
  'StableDiffusionXLPipeline',
  'StableDiffusionXLImg2ImgPipeline',
  'StableDiffusionXLInpaintPipeline',
];

const TEXTS: Layout['texts'] = [
  {
    encoder: 'text_encoder',
    tokenizer: 'tokenizer',
    className: clipText.className,
    outputs: { states: 'penultimate', isPooled: false },
    pad: () => '<|endoftext|>',
  },
  {
    encoder: 'text_encoder_2',
    tokenizer: 'tokenizer_2',
    className: clipText.projectedClassName,
    outputs: { states: 'penultimate', isPooled: true },
    pad: () => '!',
  },
];

/** Options in its model_index.json; the defaults are the reference's. */
const optionsSchema = v.object({
  force_zeros_for_empty_prompt: v.fallback(v.boolean(), true),
  requires_aesthetics_score: v.fallback(v.boolean(), false),
});

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const single = singleFileOf(files);
  if (single !== null) {
    const file = await SingleFile.open(files, single);
    return openDiffusersModel(file, engine, weights, { texts: TEXTS, zeroesEmpty: true });
  }
  const checkpoint = await Checkpoint.open(files);
  const options = v.parse(optionsSchema, await checkpoint.json('model_index.json'));
  if (options.requires_aesthetics_score || checkpoint.componentClass('text_encoder') === undefined) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is the refiner of Stable Diffusion XL, which only goes over what the base checkpoint made and which Darkroom cannot run; choose the base checkpoint.`,
    );
  }
  return openDiffusersModel(checkpoint, engine, weights, {
    texts: TEXTS,
    zeroesEmpty: options.force_zeros_for_empty_prompt,
  });
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  async recognises(files) {
    const single = singleFileOf(files);
    if (single !== null) {
      return isXlFile(files, single);
    }
    if (!files.has('model_index.json') || isReadyMade(files)) {
      return false;
    }
    return PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass);
  },
  open,
};
