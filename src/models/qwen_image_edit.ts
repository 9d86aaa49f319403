/**
 * Qwen-Image-Edit, and those of 2509 and 2511 that work from several pictures, from unconverted diffusers folders, or from files of the
 * original layout.
 */
import { Checkpoint } from '../weights/checkpoint.ts';
import type { Family } from './family.ts';
import { openQwenImage } from './flow_transformer/qwen_image_checkpoint.ts';
import { openQwenImageFile, qwenImageFileKind } from './flow_transformer/qwen_image_files.ts';

const SEVERAL = 'QwenImageEditPlusPipeline';
const PIPELINE_CLASSES = ['QwenImageEditPipeline', SEVERAL];

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) => {
    if (files.has('model_index.json')) {
      return PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass);
    }
    const kind = await qwenImageFileKind(files);
    return kind === 'edit' || kind === 'edit_plus';
  },
  open: async (files, engine, { weights }) => {
    const isFolder = files.has('model_index.json');
    const checkpoint = isFolder ? await Checkpoint.open(files) : await openQwenImageFile(files);
    const kind = checkpoint.pipelineClass === SEVERAL ? 'edit_plus' : 'edit';
    return openQwenImage(files, checkpoint, engine, weights, kind);
  },
};
