/** Qwen-Image-Edit, and those of 2509 and 2511 that work from several pictures, from unconverted diffusers folders. */
import { Checkpoint } from '../weights/checkpoint.ts';
import type { Family } from './family.ts';
import { openQwenImage } from './flow_transformer/qwen_image_checkpoint.ts';

const SEVERAL = 'QwenImageEditPlusPipeline';
const PIPELINE_CLASSES = ['QwenImageEditPipeline', SEVERAL];

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json') && PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass),
  open: async (files, engine, { weights }) => {
    const checkpoint = await Checkpoint.open(files);
    const kind = checkpoint.pipelineClass === SEVERAL ? 'edit_plus' : 'edit';
    return openQwenImage(files, checkpoint, engine, weights, kind);
  },
};
