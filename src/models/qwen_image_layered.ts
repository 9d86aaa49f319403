/** Qwen-Image-Layered, which takes a picture apart into transparent layers, from an unconverted diffusers folder. */
import { Checkpoint } from '../weights/checkpoint.ts';
import type { Family } from './family.ts';
import { openQwenImage } from './flow_transformer/qwen_image_checkpoint.ts';

const PIPELINE_CLASSES = ['QwenImageLayeredPipeline'];

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  recognises: async (files) =>
    files.has('model_index.json') && PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass),
  open: async (files, engine, { weights }) =>
    openQwenImage(files, await Checkpoint.open(files), engine, weights, 'layered'),
};
