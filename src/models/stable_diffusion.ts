/**
 * Stable Diffusion 1.x and 2.x and their relatives (Turbo, inpainting, LCM, distilled and tiny ones) from an unconverted diffusers folder
 * or one file of the original layout.
 */
import type { Engine } from '../engine/engine.ts';
import * as clipText from '../graphs/clip_text.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { mmditFileKind } from '../weights/mmdit_file.ts';
import { SingleFile, isXlFile, singleFileOf } from '../weights/single_file.ts';
import { isUpscalerFile } from '../weights/upscaler_layout.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openDiffusersModel, type Layout } from './latent_diffusion/diffusers_model.ts';
import { hasMotionAdapter } from './latent_diffusion/motion.ts';
import { isReadyMade } from './latent_diffusion/onnx_layout.ts';

export const PIPELINE_CLASSES = [
  'StableDiffusionPipeline',
  'StableDiffusionImg2ImgPipeline',
  'StableDiffusionInpaintPipeline',
  'LatentConsistencyModelPipeline',
];

export const LAYOUT: Layout = {
  texts: [
    {
      encoder: 'text_encoder',
      tokenizer: 'tokenizer',
      className: clipText.className,
      outputs: { states: 'last', isPooled: false },
      pad: ({ kind }) => (kind === 2 ? '!' : '<|endoftext|>'),
    },
  ],
  zeroesEmpty: false,
};

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const single = singleFileOf(files);
  const checkpoint = single === null ? await Checkpoint.open(files) : await SingleFile.open(files, single);
  return openDiffusersModel(checkpoint, engine, weights, LAYOUT);
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  async recognises(files) {
    const single = singleFileOf(files);
    if (single !== null) {
      return (
        !(await isXlFile(files, single)) &&
        !(await isUpscalerFile(files, single)) &&
        (await mmditFileKind(files)) === null
      );
    }
    // ONNX exporters copy model_index.json unchanged, so the files decide.
    if (!files.has('model_index.json') || isReadyMade(files) || hasMotionAdapter(files)) {
      return false;
    }
    return PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass);
  },
  open,
};
