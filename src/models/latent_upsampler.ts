/** The latent upsamplers of LTX-Video: from a diffusers folder, or from one `.safetensors` file, recognised by its tensors' names. */
import type { Engine } from '../engine/engine.ts';
import * as upsampler from '../graphs/ltx_latent_upsampler.ts';
import { Checkpoint, TensorIndex, type Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { requireReadable, storedTensors } from '../weights/quantise.ts';
import { readSafetensorsHeader } from '../weights/safetensors.ts';
import { singleFileOf } from '../weights/single_file.ts';
import type { Family, LoadedLatentUpsampler } from './family.ts';
import { openPart } from './flow_transformer/flow_checkpoint.ts';
import { LatentUpsamplerModel } from './upscaling/latent_upsampler_model.ts';

const PIPELINE_CLASS = 'LTXLatentUpsamplePipeline';
const COMPONENT = 'latent_upsampler';
/** Tensors that tell one by itself. */
const MARKS = ['initial_conv.weight', 'post_upsample_res_blocks.0.conv1.weight', 'upsampler.0.weight'];

async function open(files: CheckpointFiles, engine: Engine): Promise<LoadedLatentUpsampler> {
  const single = singleFileOf(files);
  const component =
    single === null
      ? await openPart(await Checkpoint.open(files), COMPONENT, upsampler.className)
      : await singleComponent(files, single);
  return LatentUpsamplerModel.open(files, engine, component, PIPELINE_CLASS);
}

/** Its configuration follows from the shapes. */
async function singleComponent(files: CheckpointFiles, path: string): Promise<Component> {
  const header = await readSafetensorsHeader(await files.blob(path), path);
  requireReadable(header, path, () => true);
  const tensors = new Map(storedTensors(header, path).map((tensor) => [tensor.name, tensor]));
  const shape = (name: string) => tensors.get(name)?.shape ?? [];
  const [mid, channels, ...kernel] = shape('initial_conv.weight');
  const blocks = [...tensors.keys()].filter((name) => /^res_blocks\.\d+\.conv1\.weight$/.test(name));
  const more = shape('upsampler.0.weight');
  const config = {
    in_channels: channels,
    mid_channels: mid,
    num_blocks_per_stage: blocks.length,
    dims: kernel.length,
    // One that enlarges in time convolves in time before it.
    temporal_upsample: more.length === 5,
    spatial_upsample: more[0] >= upsampler.FACTOR ** 2 * mid,
  };
  return { name: COMPONENT, className: upsampler.className, config, files: [path], weights: new TensorIndex(tensors) };
}

async function recognises(files: CheckpointFiles): Promise<boolean> {
  if (files.has('model_index.json')) {
    return (await Checkpoint.open(files)).pipelineClass === PIPELINE_CLASS;
  }
  const single = singleFileOf(files);
  try {
    const { tensors } = await readSafetensorsHeader(await files.blob(single ?? ''), single ?? '');
    return MARKS.every((name) => tensors.has(name));
  } catch {
    // What is wrong with it is said when it is opened.
    return false;
  }
}

export const family: Family = { pipelineClasses: [PIPELINE_CLASS], recognises, open };
