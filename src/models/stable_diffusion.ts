/**
 * Stable Diffusion 1.x and 2.x and their relatives (Turbo, distilled and tiny ones) from an unconverted diffusers folder:
 * CLIPTextModel, UNet2DConditionModel and AutoencoderKL or AutoencoderTiny, each a graph of our own over the checkpoint's files.
 */
import { StudioError } from '../core/errors.ts';
import { WEIGHT_VARIANTS, type CheckpointSummary, type WeightVariant } from '../core/model.ts';
import type { Engine } from '../engine/engine.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as autoencoderTiny from '../graphs/autoencoder_tiny.ts';
import * as clipText from '../graphs/clip_text.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { BLOCK, quantisedBits } from '../graphs/quantisation.ts';
import * as unet2d from '../graphs/unet2d_condition.ts';
import { parseSchedulerConfig, type SchedulerConfig } from '../schedulers/config.ts';
import { ClipTokenizer, type TokenizerFiles } from '../text/clip_tokenizer.ts';
import { clipTokenizerFiles } from '../text/clip_vocabulary.ts';
import { Checkpoint, type CheckpointComponents, type Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { SingleFile, singleFileOf } from '../weights/single_file.ts';
import type { Family, LoadedModel, OpenOptions } from './family.ts';
import { isReadyMade } from './latent_diffusion/onnx_layout.ts';
import {
  GraphNetworks,
  factorOf,
  filesOf,
  hasEncoder,
  storedVariant,
  type Autoencoder,
  type Components,
} from './latent_diffusion/graph_networks.ts';
import { LatentDiffusion, schedulerDefaults } from './latent_diffusion/latent_diffusion.ts';

async function open(files: CheckpointFiles, engine: Engine, { weights }: OpenOptions): Promise<LoadedModel> {
  const single = singleFileOf(files);
  const checkpoint = single === null ? await Checkpoint.open(files) : await SingleFile.open(files, single);
  const [textEncoder, unetComponent, vaeComponent] = await Promise.all(
    ['text_encoder', 'unet', 'vae'].map((name) => checkpoint.component(name)),
  );
  expectClass(textEncoder, clipText.className);
  expectClass(unetComponent, unet2d.className);
  expectClass(vaeComponent, autoencoderKl.className, autoencoderTiny.className);
  const vae: Autoencoder =
    vaeComponent.className === autoencoderKl.className
      ? { kind: 'gaussian', config: autoencoderKl.parseConfig(vaeComponent.config), graphs: autoencoderKl }
      : { kind: 'plain', config: autoencoderTiny.parseConfig(vaeComponent.config), graphs: autoencoderTiny };
  const schedulerText = await checkpoint.text('scheduler/scheduler_config.json');
  if (schedulerText === undefined) {
    throw new StudioError(
      'checkpoint_incomplete',
      `"${files.name}" has no scheduler/scheduler_config.json; open the whole checkpoint folder.`,
    );
  }
  const components: Components = {
    textEncoder,
    text: clipText.parseConfig(textEncoder.config),
    unetComponent,
    unet: unet2d.parseConfig(unetComponent.config),
    vaeComponent,
    vae,
  };
  const { unet } = components;
  if (unet.in_channels !== vae.config.latent_channels || unet.out_channels !== vae.config.latent_channels) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The UNet of "${files.name}" takes ${unet.in_channels} channels and its autoencoder gives ${vae.config.latent_channels}; special checkpoints such as 9-channel inpainting ones cannot be run yet.`,
    );
  }
  const scheduler = parseSchedulerConfig(schedulerText);
  const tokenizer = new ClipTokenizer(await tokenizerTexts(checkpoint));
  return new LatentDiffusion(
    files,
    engine,
    { networks: new GraphNetworks(engine, files, components, weights), tokenizer, scheduler },
    await summarise(checkpoint, engine, components, scheduler, weights),
  );
}

/** The texts of the tokenizer's folder, read ahead; one file has none, and its family's are at hand. */
async function tokenizerTexts(checkpoint: CheckpointComponents): Promise<TokenizerFiles> {
  if (checkpoint instanceof SingleFile) {
    return clipTokenizerFiles(checkpoint.isSecond ? '!' : '<|endoftext|>');
  }
  const texts = new Map<string, string>();
  for (const path of checkpoint.files.paths().filter(isTokenizerText)) {
    texts.set(path.slice('tokenizer/'.length), (await checkpoint.text(path)) ?? '');
  }
  return { read: (name) => texts.get(name) };
}

function isTokenizerText(path: string): boolean {
  return /^tokenizer\/[^/]+\.(json|txt)$/.test(path);
}

function expectClass(component: Component, ...known: string[]): void {
  if (!known.includes(component.className)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `This checkpoint's ${component.name} is a ${component.className}; Darkroom can run ${known.join(' or ')} there.`,
    );
  }
}

async function summarise(
  checkpoint: CheckpointComponents,
  engine: Engine,
  components: Components,
  scheduler: SchedulerConfig,
  weights: WeightVariant,
): Promise<CheckpointSummary> {
  const { files } = checkpoint;
  const { textEncoder, unetComponent, vaeComponent, vae } = components;
  const tensors = [
    ...onDevice(textEncoder, 4, weights),
    ...onDevice(unetComponent, engine.report.precision === 'f16' ? 2 : 4, weights),
    ...onDevice(vaeComponent, 4, 'full'),
  ];
  const weightFiles = filesOf(components);
  const sizes = await Promise.all(weightFiles.map(async (path) => (await files.blob(path)).size));
  const stored = storedVariant(files, [textEncoder, unetComponent]);
  const [height, width] = sampleSize(unetComponent.config.sample_size);
  const factor = factorOf(vae);
  return {
    ref: files.ref,
    name: checkpoint.name,
    pipelineClass: checkpoint.pipelineClass,
    parameters: tensors.reduce((sum, { elements }) => sum + elements, 0),
    needs: files.paths().filter((path) => weightFiles.includes(path) || isText(path)),
    variants: stored ? [stored] : [...WEIGHT_VARIANTS],
    takesLoras: true,
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    memoryBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    largestTensorBytes: tensors.reduce((largest, { bytes }) => Math.max(largest, bytes), 0),
    defaults: {
      width: width * factor,
      height: height * factor,
      ...schedulerDefaults(scheduler),
      ...files.habits,
    },
    ...(!hasEncoder(components) && {
      lacks: [
        `"${checkpoint.name}" has no encoder in its autoencoder (VAE): it makes pictures from words, but cannot start from a picture.`,
      ],
    }),
    prompts: files.prompts,
  };
}

/** A component's tensors once on the device, where a number takes `width` bytes. */
function onDevice(
  { weights: index }: Component,
  width: number,
  weights: WeightVariant,
): { elements: number; bytes: number }[] {
  return [...index.names()].map((name) => {
    const tensor = index.get(name) as StoredTensor;
    const elements = tensor.shape.reduce((product, dim) => product * dim, 1);
    const bits = tensor.quantised?.bits ?? quantisedBits(name, tensor.shape, weights);
    return { elements, bytes: bits === null ? elements * width : (elements * bits) / 8 + (elements / BLOCK) * width };
  });
}

/** Small files that say how the networks are put together, and words into numbers. */
function isText(path: string): boolean {
  return (
    path === 'model_index.json' ||
    path === 'scheduler/scheduler_config.json' ||
    /^(text_encoder|unet|vae)\/[^/]+\.json$/.test(path) ||
    isTokenizerText(path)
  );
}

function sampleSize(size: unknown): [number, number] {
  if (Array.isArray(size)) {
    return [Number(size[0]), Number(size[1])];
  }
  return typeof size === 'number' ? [size, size] : [64, 64];
}

const PIPELINE_CLASSES = [
  'StableDiffusionPipeline',
  'StableDiffusionImg2ImgPipeline',
  'StableDiffusionInpaintPipeline',
];

export const family: Family = {
  pipelineClasses: PIPELINE_CLASSES,
  async recognises(files) {
    if (singleFileOf(files) !== null) {
      return true;
    }
    // Exporters to ONNX copy model_index.json as it was, so the files decide.
    if (!files.has('model_index.json') || isReadyMade(files)) {
      return false;
    }
    return PIPELINE_CLASSES.includes((await Checkpoint.open(files)).pipelineClass);
  },
  open,
};
