/**
 * Stable Diffusion as ready-made ONNX files: the layout of optimum and diffusers, and the published web exports listed in
 * `src/models/exports`. The files describe their networks, see `latent_diffusion/onnx_networks.ts`.
 */
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { Engine } from '../engine/engine.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { readOnnxFile } from '../weights/onnx_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { LatentDiffusion } from './latent_diffusion/latent_diffusion.ts';
import { schedulerDefaults } from './latent_diffusion/sampling_offers.ts';
import {
  isReadyMade,
  onnxPipelineClasses,
  optimumLayout,
  publishedExport,
  publishedExportSchema,
  publishedLayout,
  type OnnxLayout,
} from './latent_diffusion/onnx_layout.ts';
import { OnnxNetworks, weightFiles } from './latent_diffusion/onnx_networks.ts';

const publishedExports = Object.values(
  import.meta.glob<unknown>('./exports/*.json', { eager: true, import: 'default' }),
).map((json) => v.parse(publishedExportSchema, json));

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  if (weights !== 'full') {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is ready-made ONNX, whose weights cannot be quantised here; run it as it is, or use its diffusers folder.`,
    );
  }
  const known = publishedExport(files, publishedExports);
  const layout = known ? await publishedLayout(files, known) : await optimumLayout(files);
  const paths = weightFiles(files, layout);
  const sizes = await Promise.all(paths.map(async (path) => (await files.blob(path)).size));
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  const { size, scheduler, tokenizer } = layout;
  return new LatentDiffusion(
    files,
    engine,
    { networks: new OnnxNetworks(engine, files, layout), tokenizers: [tokenizer], zeroesEmpty: false, scheduler },
    {
      ref: files.ref,
      name: files.name,
      pipelineClass: layout.pipelineClass,
      takesLoras: false,
      needs: [...layout.texts, ...paths],
      variants: ['full'],
      bytes,
      memoryBytes: bytes,
      ...(layout.weights ?? (await measure(files, layout))),
      defaults: { width: size, height: size, ...schedulerDefaults(scheduler), ...layout.habits, ...files.habits },
      prompts: files.prompts,
    },
  );
}

/** Facts about the weights from the networks' headers. */
async function measure(files: CheckpointFiles, { networks }: OnnxLayout) {
  const sum = { parameters: 0, largestTensorBytes: 0 };
  for (const path of Object.values(networks)) {
    if (path !== null) {
      const { elements, largestTensorBytes } = await readOnnxFile(files, path);
      sum.parameters += elements;
      sum.largestTensorBytes = Math.max(sum.largestTensorBytes, largestTensorBytes);
    }
  }
  return sum;
}

export const family: Family = {
  pipelineClasses: onnxPipelineClasses,
  async recognises(files) {
    if (!files.has('model_index.json')) {
      return publishedExport(files, publishedExports) !== undefined;
    }
    return isReadyMade(files) && onnxPipelineClasses.includes((await Checkpoint.open(files)).pipelineClass);
  },
  open,
};
