/** AnimateDiff: a Stable Diffusion 1.5 whose UNet has motion modules, so that a batch of its pictures is a short video. */
import type { Engine } from '../engine/engine.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { filesWithMotion } from '../weights/motion_file.ts';
import { SingleFile } from '../weights/single_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { openDiffusersModel } from './latent_diffusion/diffusers_model.ts';
import { hasMotionAdapter, movingDenoiser } from './latent_diffusion/motion.ts';
import { LAYOUT, PIPELINE_CLASSES as STILL } from './stable_diffusion.ts';

const PIPELINE_CLASSES = ['AnimateDiffPipeline', 'AnimateDiffVideoToVideoPipeline'];

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const found = await filesWithMotion(files);
  const checkpoint = found ? await SingleFile.open(files, found.still) : await Checkpoint.open(files);
  return openDiffusersModel(checkpoint, engine, weights, { ...LAYOUT, denoiser: movingDenoiser });
}

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  async recognises(files) {
    if (!files.has('model_index.json')) {
      return (await filesWithMotion(files)) !== null;
    }
    const { pipelineClass } = await Checkpoint.open(files);
    return PIPELINE_CLASSES.includes(pipelineClass) || (hasMotionAdapter(files) && STILL.includes(pipelineClass));
  },
  open,
};
