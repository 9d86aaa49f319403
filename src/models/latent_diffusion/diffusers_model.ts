/**
 * A latent diffusion model from an unconverted checkpoint: text encoders, UNet2DConditionModel and AutoencoderKL or AutoencoderTiny, each
 * as our own graph over the checkpoint's files. {@link Layout} describes the family's text encoders and tokenizers.
 */
import { StudioError } from '../../core/errors.ts';
import { WEIGHT_VARIANTS, type CheckpointSummary, type WeightVariant } from '../../core/model.ts';
import type { Engine } from '../../engine/engine.ts';
import * as autoencoderKl from '../../graphs/autoencoder_kl.ts';
import * as autoencoderTiny from '../../graphs/autoencoder_tiny.ts';
import * as clipText from '../../graphs/clip_text.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import { BLOCK, bitsOnDevice } from '../../graphs/quantisation.ts';
import * as unet2d from '../../graphs/unet2d_condition.ts';
import { parseSchedulerConfig, type SchedulerConfig } from '../../schedulers/config.ts';
import { ClipTokenizer, type TokenizerFiles } from '../../text/clip_tokenizer.ts';
import { clipTokenizerFiles } from '../../text/clip_vocabulary.ts';
import type { CheckpointComponents, Component } from '../../weights/checkpoint.ts';
import { familiesOfNetworks } from '../../weights/lora.ts';
import { SingleFile } from '../../weights/single_file.ts';
import { factorOf, type Autoencoder } from '../../weights/vae_file.ts';
import type { LoadedModel } from '../family.ts';
import { filesOf, hasEncoder, storedVariant, type Components } from './components.ts';
import { GraphNetworks } from './graph_networks.ts';
import type { TextEncoder } from './clip_encoding.ts';
import { LatentDiffusion } from './latent_diffusion.ts';
import { schedulerDefaults } from './sampling_offers.ts';

export interface TextLayout {
  /** Folders of the text encoder and of its tokenizer. */
  encoder: TextEncoder['name'];
  tokenizer: string;
  className: string;
  outputs: clipText.TextOutputs;
  /** The padding of its prompts, if the checkpoint is a single file. */
  pad: (file: SingleFile) => '<|endoftext|>' | '!';
}

export interface Layout {
  texts: readonly TextLayout[];
  /** Whether an empty negative prompt stands for zeros. */
  zeroesEmpty: boolean;
  /** Finds the denoiser where it is not a UNet2DConditionModel in the folder `unet`. */
  denoiser?: (checkpoint: CheckpointComponents) => Promise<Denoiser>;
}

export type Denoiser = Pick<Components, 'unetComponent' | 'unet' | 'motion'>;

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` */
export async function openDiffusersModel(
  checkpoint: CheckpointComponents,
  engine: Engine,
  weights: WeightVariant,
  { texts, zeroesEmpty, denoiser = plainDenoiser }: Layout,
): Promise<LoadedModel> {
  const { files } = checkpoint;
  const textEncoders: TextEncoder[] = [];
  for (const { encoder, className, outputs } of texts) {
    const component = await checkpoint.component(encoder);
    expectClass(component, className);
    textEncoders.push({ name: encoder, component, config: clipText.parseConfig(component.config), outputs });
  }
  const [found, vaeComponent] = await Promise.all([denoiser(checkpoint), checkpoint.component('vae')]);
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
    textEncoders,
    ...found,
    vaeComponent,
    vae,
  };
  requireFit(files.name, components);
  const scheduler = parseSchedulerConfig(schedulerText);
  const tokenizers = await Promise.all(texts.map((text) => tokenizerOf(checkpoint, text)));
  return new LatentDiffusion(
    files,
    engine,
    {
      networks: new GraphNetworks(engine, files, components, weights),
      tokenizers,
      zeroesEmpty,
      scheduler,
    },
    await summarise(checkpoint, engine, components, scheduler, weights, texts),
  );
}

export async function plainDenoiser(checkpoint: CheckpointComponents): Promise<Denoiser> {
  const unetComponent = await checkpoint.component('unet');
  expectClass(unetComponent, unet2d.className);
  return { unetComponent, unet: unet2d.parseConfig(unetComponent.config) };
}

/** Checks that the networks' inputs and outputs match. @throws StudioError `checkpoint_unsupported` */
function requireFit(name: string, { unet, vae, textEncoders }: Components): void {
  const channels = vae.config.latent_channels;
  const masked = unet2d.maskChannels(unet);
  if (unet.out_channels !== channels || (masked !== 0 && masked !== channels + 1)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The UNet of "${name}" takes ${unet.in_channels} channels and its autoencoder gives ${channels}; of special checkpoints Darkroom runs those for inpainting, which take ${2 * channels + 1}.`,
    );
  }
  const pooled = unet2d.pooledWidth(unet);
  const given = textEncoders.at(-1);
  const gives = given?.outputs.isPooled ? given.config.projection_dim : null;
  if (pooled !== gives) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The UNet of "${name}" takes ${pooled ?? 'no'} numbers of the text as a whole and its text encoder gives ${gives ?? 'none'}; its files do not belong together.`,
    );
  }
}

/** Reads the tokenizer's files ahead; a single-file checkpoint has none and uses its family's. */
async function tokenizerOf(checkpoint: CheckpointComponents, { tokenizer, pad }: TextLayout): Promise<ClipTokenizer> {
  if (checkpoint instanceof SingleFile) {
    return new ClipTokenizer(await clipTokenizerFiles(pad(checkpoint)));
  }
  const texts = new Map<string, string>();
  for (const path of checkpoint.files.paths().filter((one) => isTokenizerText(one, tokenizer))) {
    texts.set(path.slice(tokenizer.length + 1), (await checkpoint.text(path)) ?? '');
  }
  const files: TokenizerFiles = { read: (name) => texts.get(name) };
  return new ClipTokenizer(files);
}

function isTokenizerText(path: string, folder: string): boolean {
  return path.startsWith(`${folder}/`) && /^[^/]+\.(json|txt)$/.test(path.slice(folder.length + 1));
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
  texts: readonly TextLayout[],
): Promise<CheckpointSummary> {
  const { files } = checkpoint;
  const { unetComponent, vaeComponent, vae } = components;
  const textComponents = components.textEncoders.map(({ component }) => component);
  const tensors = [
    ...textComponents.flatMap((component) => onDevice(component, 4, weights)),
    ...onDevice(unetComponent, engine.report.precision === 'f16' ? 2 : 4, weights),
    ...onDevice(vaeComponent, 4, 'full'),
  ];
  const weightFiles = filesOf(components);
  const sizes = await Promise.all(weightFiles.map(async (path) => (await files.blob(path)).size));
  const stored = storedVariant(files, [...textComponents, unetComponent]);
  const [height, width] = sampleSize(unetComponent.config.sample_size);
  const factor = factorOf(vae);
  const families = familiesOfNetworks({ unet: unetComponent.weights });
  const isText = (path: string) =>
    path === 'model_index.json' ||
    path === 'scheduler/scheduler_config.json' ||
    (components.motion && path === 'motion_adapter/config.json') ||
    [...textComponents, unetComponent, vaeComponent].some(
      ({ name }) => path.startsWith(`${name}/`) && /^[^/]+\.json$/.test(path.slice(name.length + 1)),
    ) ||
    texts.some(({ tokenizer }) => isTokenizerText(path, tokenizer));
  return {
    ref: files.ref,
    name: checkpoint.name,
    // A folder to which motion modules were added still names the pipeline that it was before.
    pipelineClass: components.motion ? 'AnimateDiffPipeline' : checkpoint.pipelineClass,
    parameters: tensors.reduce((sum, { elements }) => sum + elements, 0),
    needs: files.paths().filter((path) => weightFiles.includes(path) || isText(path)),
    variants: stored ? [stored] : [...WEIGHT_VARIANTS],
    takesLoras: true,
    ...(families.length > 0 && { loraFamilies: families }),
    takesControlNets: true,
    ...(!components.motion && { takesImagePrompts: true, takesVae: true }),
    ...(unet2d.maskChannels(components.unet) > 0 && { inpaints: true }),
    ...(components.unet.addition_embed_type !== null && { takesSizes: true }),
    ...(components.motion && { mostFrames: components.motion.longest }),
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    memoryBytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    largestTensorBytes: tensors.reduce((largest, { bytes }) => Math.max(largest, bytes), 0),
    defaults: {
      width: width * factor,
      height: height * factor,
      ...schedulerDefaults(scheduler),
      ...files.habits,
    },
    ...(!hasEncoder(vaeComponent.weights) && {
      lacks: [
        `"${checkpoint.name}" has no encoder in its autoencoder (VAE): it makes pictures from words, but cannot start from a picture.`,
      ],
    }),
    prompts: files.prompts,
  };
}

/** Bytes of a component's tensors on the device, at `width` bytes per number. */
function onDevice(
  { weights: index }: Component,
  width: number,
  weights: WeightVariant,
): { elements: number; bytes: number }[] {
  return [...index.names()].map((name) => {
    const tensor = index.get(name) as StoredTensor;
    const elements = tensor.shape.reduce((product, dim) => product * dim, 1);
    const bits = bitsOnDevice(tensor, tensor.shape, weights);
    return { elements, bytes: bits === null ? elements * width : (elements * bits) / 8 + (elements / BLOCK) * width };
  });
}

function sampleSize(size: unknown): [number, number] {
  if (Array.isArray(size)) {
    return [Number(size[0]), Number(size[1])];
  }
  return typeof size === 'number' ? [size, size] : [64, 64];
}
