/**
 * Stable Diffusion 1.x and 2.x and their relatives (Turbo, distilled and tiny ones) from an unconverted diffusers folder:
 * CLIPTextModel, UNet2DConditionModel and AutoencoderKL or AutoencoderTiny, each a graph of our own over the checkpoint's files.
 */
import { StudioError } from '../core/errors.ts';
import { WEIGHT_VARIANTS, type CheckpointSummary, type WeightVariant } from '../core/model.ts';
import type { DeviceTensor } from '../engine/arithmetic.ts';
import type { Engine } from '../engine/engine.ts';
import { NetworkShelf, type Loading } from '../engine/network_shelf.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as autoencoderTiny from '../graphs/autoencoder_tiny.ts';
import * as clipText from '../graphs/clip_text.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { BLOCK, quantisedBits } from '../graphs/quantisation.ts';
import * as unet2d from '../graphs/unet2d_condition.ts';
import { parseSchedulerConfig, type SchedulerConfig } from '../samplers/config.ts';
import { ClipTokenizer, type TokenizerFiles } from '../text/clip_tokenizer.ts';
import { clipTokenizerFiles } from '../text/clip_vocabulary.ts';
import { Checkpoint, type CheckpointComponents, type Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { SingleFile, singleFileOf } from '../weights/single_file.ts';
import type { LoraNetwork } from '../weights/lora.ts';
import type { Family, LoadedModel, ModelLora, OpenOptions } from './family.ts';
import { isReadyMade } from './latent_diffusion/onnx_layout.ts';
import { GraphCosts, type NetworkRequest, type PlannedNetwork } from './latent_diffusion/estimate.ts';
import { LatentDiffusion, schedulerDefaults } from './latent_diffusion/latent_diffusion.ts';
import { MergedLoras } from './latent_diffusion/merged_loras.ts';
import type {
  Decoder,
  Denoiser,
  DenoiserRequest,
  EncodedPicture,
  LatentSize,
  LatentSpace,
  Networks,
} from './latent_diffusion/networks.ts';

/** The widest activation for which guidance runs as one batch, so that it stays in reasonable buffers. */
const WIDEST_ACTIVATION_BYTES = 256 * 2 ** 20;
/** Latents per side of the picture that preview colours are fitted on. */
const PREVIEW_SIZE = 16;

/** The two autoencoders differ in what the encoder gives: a Gaussian's moments, or latents. */
type Autoencoder =
  | { kind: 'gaussian'; config: autoencoderKl.Config; graphs: typeof autoencoderKl }
  | { kind: 'plain'; config: autoencoderTiny.Config; graphs: typeof autoencoderTiny };

interface Components {
  textEncoder: Component;
  text: clipText.Config;
  unetComponent: Component;
  unet: unet2d.Config;
  vaeComponent: Component;
  vae: Autoencoder;
}

/** Which networks on the device hold whose weights. */
const HOLDERS: Record<LoraNetwork, string[]> = { text_encoder: ['text_encoder'], unet: ['unet', 'unet_context'] };

class GraphNetworks implements Networks {
  readonly #shelf: NetworkShelf;
  readonly #costs = new GraphCosts();
  readonly #loras: MergedLoras;

  constructor(
    readonly engine: Engine,
    readonly files: CheckpointFiles,
    readonly components: Components,
    readonly weights: WeightVariant,
  ) {
    const { textEncoder, unetComponent } = components;
    this.#loras = new MergedLoras(files, { text_encoder: textEncoder.weights, unet: unetComponent.weights });
    this.#shelf = new NetworkShelf(engine, {
      blob: (path) => {
        const lora = this.#loras.file(path);
        return lora ? Promise.resolve(lora) : files.blob(path);
      },
    });
  }

  get onLoading(): ((loading: Loading) => void) | null {
    return this.#shelf.onLoading;
  }

  set onLoading(listener: ((loading: Loading) => void) | null) {
    this.#shelf.onLoading = listener;
  }

  get onDevice(): readonly string[] {
    return this.#shelf.names;
  }

  get latents(): LatentSpace {
    const { unet, vae } = this.components;
    return { channels: unet.in_channels, factor: factorOf(vae), scale: vae.config.scaling_factor };
  }

  async encodeText(ids: Int32Array<ArrayBuffer>): Promise<DeviceTensor> {
    const { arithmetic } = this.engine;
    const { text } = this.components;
    const sequence = ids.length;
    const network = await this.#shelf.get('text_encoder', { sequence }, (options) =>
      clipText.build(text, this.#loras.weightsOf('text_encoder'), {
        ...options,
        batch: 1,
        height: 0,
        width: 0,
        dtype: 'f32',
        sequence,
        weights: this.weights,
      }),
    );
    const input = arithmetic.upload(ids, [1, sequence]);
    const output = arithmetic.empty([1, sequence, text.hidden_size]);
    try {
      await this.engine.run(network, { input_ids: input }, { last_hidden_state: output });
    } finally {
      input.dispose();
    }
    return output;
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { vae, vaeComponent } = this.components;
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    const network = await this.#shelf.get('vae_encoder', { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildEncoder(vae.config, vaeComponent.weights, sized)
        : vae.graphs.buildEncoder(vae.config, vaeComponent.weights, sized);
    });
    const gaussian = vae.kind === 'gaussian';
    const tensor = this.engine.arithmetic.empty([
      1,
      gaussian ? 2 * channels : channels,
      height / factor,
      width / factor,
    ]);
    await this.engine.run(network, { sample: pixels }, { [gaussian ? 'latent_parameters' : 'latents']: tensor });
    return { kind: gaussian ? 'moments' : 'latents', tensor };
  }

  async denoiser({ batch, height, width, embeddings }: DenoiserRequest): Promise<Denoiser> {
    const { engine } = this;
    const { arithmetic } = engine;
    const { unet } = this.components;
    const sized = { batch, height, width, sequence: embeddings[0].dims[1] };
    const network = await this.#shelf.get('unet', sized, (options) =>
      unet2d.build(unet, this.#loras.weightsOf('unet'), {
        ...options,
        ...sized,
        projected: true,
        weights: this.weights,
      }),
    );
    const held: DeviceTensor[] = [];
    const hold = (dims: readonly number[]): DeviceTensor => {
      const tensor = arithmetic.empty(dims);
      held.push(tensor);
      return tensor;
    };
    const dispose = () => {
      held.forEach((tensor) => {
        tensor.dispose();
      });
    };
    try {
      // What the network makes of the text alone is the same at every step, so it is computed once.
      const contexts: Record<string, DeviceTensor>[] = [];
      for (const embedding of embeddings) {
        contexts.push(await this.#context(embedding, hold));
      }
      const outputs = embeddings.map(() => hold([batch, unet.out_channels, height, width]));
      const time = hold([1, unet.block_out_channels[0]]);
      return {
        async predict(sample, timestep) {
          arithmetic.write(time, unet2d.timeProjection(unet, timestep));
          for (const [k, context] of contexts.entries()) {
            await engine.run(network, { sample, time_proj: time, ...context }, { out_sample: outputs[k] });
          }
          return outputs;
        },
        dispose,
      };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  async decoder({ height, width }: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    const { engine } = this;
    const { vae, vaeComponent } = this.components;
    const { channels, factor, scale } = this.latents;
    const name = purpose === 'picture' ? 'vae_decoder' : 'preview_decoder';
    const network = await this.#shelf.get(name, { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildDecoder(vae.config, vaeComponent.weights, sized)
        : vae.graphs.buildDecoder(vae.config, vaeComponent.weights, sized);
    });
    const { arithmetic } = engine;
    const input = arithmetic.empty([1, channels, height, width]);
    const output = arithmetic.empty([1, 3, height * factor, width * factor]);
    return {
      async decode(latents) {
        arithmetic.combine(input, 1 / scale, latents, 0, null);
        await engine.run(network, { latent_sample: input }, { sample: output });
        return output;
      },
      dispose: async () => {
        input.dispose();
        output.dispose();
        if (purpose === 'preview') {
          await this.#shelf.drop(name);
        }
      },
    };
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { textEncoder, text, unetComponent, unet, vaeComponent, vae } = this.components;
    const { rows, calls, steps, texts, decodings, decoded, startsFromPicture, height, width } = request;
    const { provider } = this.engine;
    const sequence = text.max_position_embeddings;
    const latents = { provider, batch: 1, ...decoded, weights: 'full' as const };
    const pixels = { ...latents, height: height * factorOf(vae), width: width * factorOf(vae) };
    const context = { provider, batch: rows, sequence, height: 0, width: 0 };
    const once = { runsPerStep: 0, precision: 'f32' as const };
    const networks = [
      this.#costs.network(
        { name: 'text_encoder', runs: texts, ...once },
        textEncoder.weights,
        { ...context, batch: 1 },
        (options) => clipText.build(text, textEncoder.weights, options),
      ),
      this.#costs.network(
        { name: 'unet_context', runs: calls, runsPerStep: 0, precision: null },
        unetComponent.weights,
        context,
        (options) => unet2d.buildContext(unet, unetComponent.weights, options),
      ),
      this.#costs.network(
        { name: 'unet', runs: calls * steps, runsPerStep: calls, precision: null },
        unetComponent.weights,
        { ...context, height, width, projected: true },
        (options) => unet2d.build(unet, unetComponent.weights, options),
      ),
      this.#costs.network(
        { name: 'vae_decoder', runs: decodings, ...once },
        vaeComponent.weights,
        latents,
        (options) =>
          vae.kind === 'gaussian'
            ? vae.graphs.buildDecoder(vae.config, vaeComponent.weights, options)
            : vae.graphs.buildDecoder(vae.config, vaeComponent.weights, options),
      ),
    ];
    if (startsFromPicture) {
      networks.push(
        this.#costs.network({ name: 'vae_encoder', runs: 1, ...once }, vaeComponent.weights, pixels, (options) =>
          vae.kind === 'gaussian'
            ? vae.graphs.buildEncoder(vae.config, vaeComponent.weights, options)
            : vae.graphs.buildEncoder(vae.config, vaeComponent.weights, options),
        ),
      );
    }
    return Promise.resolve(networks);
  }

  embedsGuidance(): Promise<boolean> {
    return Promise.resolve(false);
  }

  batchesGuidance(rows: number, { height, width }: LatentSize): Promise<boolean> {
    // The GEGLU of the first transformer block: eight times the channels for every latent.
    const widest = rows * height * width * 8 * this.components.unet.block_out_channels[0] * 4;
    return Promise.resolve(
      widest <= Math.min(WIDEST_ACTIVATION_BYTES, this.engine.report.limits?.maxStorageBufferBindingSize ?? Infinity),
    );
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  async useLoras(loras: readonly ModelLora[]): Promise<void> {
    for (const network of await this.#loras.use(loras)) {
      for (const name of HOLDERS[network]) {
        await this.#shelf.drop(name);
      }
    }
  }

  checkLora(lora: ModelLora): Promise<void> {
    return this.#loras.check(lora);
  }

  async provenance(): Promise<{ files: string[]; facts: Record<string, unknown> }> {
    const { textEncoder, unetComponent } = this.components;
    const loras = await this.#loras.facts();
    return {
      files: filesOf(this.components),
      facts: {
        precision: { text_encoder: 'f32', unet: this.engine.report.precision, vae: 'f32' },
        weights: storedVariant(this.files, [textEncoder, unetComponent]) ?? this.weights,
        ...(loras.length > 0 && { loras }),
      },
    };
  }

  clear(): Promise<void> {
    return this.#shelf.clear();
  }

  /** Keys and values of every attention to the text, for `embeddings` [batch, tokens, width]. */
  async #context(
    embeddings: DeviceTensor,
    hold: (dims: readonly number[]) => DeviceTensor,
  ): Promise<Record<string, DeviceTensor>> {
    const { unet } = this.components;
    const [batch, sequence] = embeddings.dims;
    const network = await this.#shelf.get('unet_context', { batch, sequence }, (options) =>
      unet2d.buildContext(unet, this.#loras.weightsOf('unet'), {
        ...options,
        batch,
        sequence,
        height: 0,
        width: 0,
        weights: this.weights,
      }),
    );
    // Every dimension of our own graphs is a number.
    const context = Object.fromEntries(network.outputs.map(({ name, dims }) => [name, hold(dims as number[])]));
    await this.engine.run(network, { encoder_hidden_states: embeddings }, context);
    return context;
  }
}

function factorOf(vae: Autoencoder): number {
  const blocks = vae.kind === 'gaussian' ? vae.config.block_out_channels : vae.config.decoder_block_out_channels;
  return 2 ** (blocks.length - 1);
}

function filesOf({ textEncoder, unetComponent, vaeComponent }: Components): string[] {
  return [...new Set([textEncoder, unetComponent, vaeComponent].flatMap((component) => component.files))];
}

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
    { networks: new GraphNetworks(engine, files, components, weights), tokenizer, padded: true, scheduler },
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

/** The variant in which the files keep their weights quantised already; null where they are whole. */
function storedVariant({ ref }: CheckpointFiles, components: Component[]): WeightVariant | null {
  const named = WEIGHT_VARIANTS.find((variant) => ref.endsWith(`#${variant}`));
  if (named) {
    return named;
  }
  const bits = components.flatMap(({ weights }) =>
    [...weights.names()].flatMap((name) => weights.get(name)?.quantised?.bits ?? []),
  );
  return bits.length === 0 ? null : bits.includes(4) ? 'q4' : 'q8';
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
