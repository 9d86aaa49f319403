/** Qwen-Image-Layered, which takes a picture apart into transparent layers, from an unconverted diffusers folder, or from files of the original layout. */
import { Checkpoint } from '../weights/checkpoint.ts';
import type { Family } from './family.ts';
import { openQwenImage } from './flow_transformer/qwen_image_checkpoint.ts';
import { openQwenImageFile, qwenImageFileKind } from './flow_transformer/qwen_image_files.ts';

const PIPELINE_CLASSES = ['QwenImageLayeredPipeline'];

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json')
      ? PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass)
      : (await qwenImageFileKind(files)) === 'layered',
  open: async (files, engine, { weights }) => {
    const isFolder = files.has('model_index.json');
    const checkpoint = isFolder ? await Checkpoint.open(files) : await openQwenImageFile(files);
    return openQwenImage(files, checkpoint, engine, weights, 'layered');
  },
};
