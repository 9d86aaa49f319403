/**
 * Stable Diffusion 1.x and 2.x and their relatives (Turbo, distilled and tiny ones): CLIPTextModel,
 * UNet2DConditionModel and AutoencoderKL or AutoencoderTiny, from an unconverted diffusers folder.
 *
 * Reference: diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion{,_img2img,_inpaint}.py
 */
import { StudioError, cancelled } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import type {
  CheckpointSummary,
  Conditioning,
  ImageRequest,
  Latents,
  SampleRequest,
  TextRequest,
} from '../core/model.ts';
import type { DeviceTensor, LoopState, PreviewColours } from '../engine/arithmetic.ts';
import type { Engine } from '../engine/engine.ts';
import { NetworkShelf } from '../engine/network_shelf.ts';
import { imageToTensor, maskToTensor, resizeLanczos } from '../formats/resample.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as autoencoderTiny from '../graphs/autoencoder_tiny.ts';
import * as clipText from '../graphs/clip_text.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import * as unet2d from '../graphs/unet2d_condition.ts';
import { parseSchedulerConfig, type SchedulerConfig } from '../samplers/config.ts';
import { defaultsOf, planSampling } from '../samplers/plan.ts';
import { samplers, schedules } from '../samplers/registry.ts';
import type { SamplerPlan } from '../samplers/sampler.ts';
import { ClipTokenizer } from '../text/clip_tokenizer.ts';
import type { Checkpoint, Component } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { fingerprint } from '../weights/fingerprint.ts';
import type { Family, LoadedModel } from './family.ts';
import { fitPreviewColours, PREVIEW_SIZE } from '../engine/latent_preview.ts';

/** Latents per side above which guidance runs as two batches, so that the widest activation stays in reasonable buffers. */
const WIDEST_ACTIVATION_BYTES = 256 * 2 ** 20;

/** The two autoencoders differ in what the encoder gives: a Gaussian's moments, or latents. */
type Autoencoder =
  | { kind: 'gaussian'; config: autoencoderKl.Config; graphs: typeof autoencoderKl }
  | { kind: 'plain'; config: autoencoderTiny.Config; graphs: typeof autoencoderTiny };

interface Parts {
  textEncoder: Component;
  text: clipText.Config;
  unetComponent: Component;
  unet: unet2d.Config;
  vaeComponent: Component;
  vae: Autoencoder;
  scheduler: SchedulerConfig;
  tokenizer: ClipTokenizer;
}

/** Embeddings of the prompt and, with guidance, of the negative prompt, `[1, tokens, width]` each. */
class ClipConditioning implements Conditioning {
  constructor(
    readonly prompt: DeviceTensor,
    readonly negative: DeviceTensor | null,
    readonly tokens: Conditioning['tokens'],
    readonly guidance: number,
  ) {}

  dispose(): void {
    this.prompt.dispose();
    this.negative?.dispose();
  }
}

class DeviceLatents implements Latents {
  constructor(
    readonly tensor: DeviceTensor,
    readonly engine: Engine,
  ) {}

  get dims(): Latents['dims'] {
    return this.tensor.dims as unknown as Latents['dims'];
  }

  read(): Promise<Float32Array<ArrayBuffer>> {
    return this.engine.arithmetic.read(this.tensor);
  }

  dispose(): void {
    this.tensor.dispose();
  }
}

class StableDiffusion implements LoadedModel {
  readonly #networks: NetworkShelf;
  #previewColours: PreviewColours | undefined;
  #used: Record<string, unknown> = {};

  constructor(
    readonly checkpoint: Checkpoint,
    readonly engine: Engine,
    readonly parts: Parts,
    readonly summary: CheckpointSummary,
  ) {
    this.#networks = new NetworkShelf(engine, checkpoint.files);
  }

  set onLoading(listener: ((network: string) => void) | null) {
    this.#networks.onLoading = listener;
  }

  /** Pixels per latent along one side. */
  get #factor(): number {
    return factorOf(this.parts.vae);
  }

  get #channels(): number {
    return this.parts.unet.in_channels;
  }

  async provenance(): Promise<Record<string, unknown>> {
    const { checkpoint, parts } = this;
    const files = [parts.textEncoder, parts.unetComponent, parts.vaeComponent].flatMap((component) => component.files);
    const sha256: Record<string, string> = {};
    for (const file of files) {
      sha256[file] = await fingerprint(checkpoint.files, file);
    }
    return {
      checkpoint: {
        name: this.summary.name,
        ref: this.summary.ref,
        pipeline_class: this.summary.pipelineClass,
        sha256,
      },
      scheduler_config: parts.scheduler.values,
      precision: { text_encoder: 'f32', unet: this.engine.report.precision, vae: 'f32' },
      ...this.#used,
    };
  }

  async encodeText(request: TextRequest): Promise<Conditioning> {
    const guided = request.guidance_scale > 1;
    const prompt = this.parts.tokenizer.encode(request.prompt);
    const negative = guided ? this.parts.tokenizer.encode(request.negative_prompt) : null;
    const network = await this.#networks.get('text_encoder', { sequence: prompt.ids.length }, (options) =>
      clipText.build(this.parts.text, this.parts.textEncoder.weights, {
        ...options,
        batch: 1,
        height: 0,
        width: 0,
        dtype: 'f32',
        sequence: prompt.ids.length,
      }),
    );
    const encode = async (ids: Int32Array<ArrayBuffer>): Promise<DeviceTensor> => {
      const { arithmetic } = this.engine;
      const input = arithmetic.upload(ids, [1, ids.length]);
      const output = arithmetic.empty([1, ids.length, this.parts.text.hidden_size]);
      try {
        await this.engine.run(network, { input_ids: input }, { last_hidden_state: output });
      } finally {
        input.dispose();
      }
      return output;
    };
    const tokens = { prompt: prompt.tokens, negative: negative?.tokens ?? 0, limit: prompt.ids.length };
    return new ClipConditioning(
      await encode(prompt.ids),
      negative && (await encode(negative.ids)),
      tokens,
      request.guidance_scale,
    );
  }

  async encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents> {
    const { arithmetic } = this.engine;
    const { vae, vaeComponent } = this.parts;
    const { width, height } = request;
    const scaled = image.width === width && image.height === height ? image : resizeLanczos(image, width, height);
    const pixels = imageToTensor(scaled);
    const dims = [1, this.#channels, height / this.#factor, width / this.#factor];
    const network = await this.#networks.get('vae_encoder', { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildEncoder(vae.config, vaeComponent.weights, sized)
        : vae.graphs.buildEncoder(vae.config, vaeComponent.weights, sized);
    });
    const input = arithmetic.upload(pixels.data, pixels.dims);
    const single = arithmetic.empty(dims);
    const latents = arithmetic.empty([request.batch_size, ...dims.slice(1)]);
    try {
      if (vae.kind === 'gaussian') {
        const moments = arithmetic.empty([1, 2 * this.#channels, dims[2], dims[3]]);
        const noise = arithmetic.upload(request.random.randn(dims[1] * dims[2] * dims[3]), dims);
        await this.engine.run(network, { sample: input }, { latent_parameters: moments });
        arithmetic.posterior(single, moments, noise, vae.config.scaling_factor);
        moments.dispose();
        noise.dispose();
        arithmetic.combine(latents, 1, single, 0, null, request.batch_size);
      } else {
        await this.engine.run(network, { sample: input }, { latents: single });
        arithmetic.combine(latents, vae.config.scaling_factor, single, 0, null, request.batch_size);
      }
    } finally {
      input.dispose();
      single.dispose();
    }
    return new DeviceLatents(latents, this.engine);
  }

  async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const { engine } = this;
    const { arithmetic } = engine;
    const text = conditioning as ClipConditioning;
    const plan = planSampling(
      {
        config: this.parts.scheduler,
        sampler: request.sampler,
        schedule: request.schedule,
        steps: request.steps,
        strength: request.start ? request.strength : undefined,
      },
      samplers,
      schedules,
    );
    const [batch, height, width] = [request.batch_size, request.height / this.#factor, request.width / this.#factor];
    const guided = text.negative !== null;
    const batched = guided && this.#guidanceIsBatched(request, batch, height, width);
    const networkBatch = batched ? 2 * batch : batch;
    this.#used = {
      sampler: plan.sampler,
      schedule: plan.schedule,
      guidance_mode: guided ? (batched ? 'batched' : 'serial') : 'none',
    };

    const sized = { batch: networkBatch, height, width, sequence: text.prompt.dims[1] };
    const { unet, unetComponent } = this.parts;
    const network = await this.#networks.get('unet', sized, (options) =>
      unet2d.build(unet, unetComponent.weights, { ...options, ...sized, projected: true }),
    );
    const colours = request.previews ? await this.#colours() : null;

    const held: DeviceTensor[] = [];
    const hold = (tensor: DeviceTensor): DeviceTensor => {
      held.push(tensor);
      return tensor;
    };
    const dims = [batch, this.#channels, height, width];
    const count = batch * this.#channels * height * width;
    const x = arithmetic.empty(dims);
    try {
      const noise = hold(arithmetic.upload(request.random.randn(count), dims));
      this.#start(x, noise, plan, request);
      const state: LoopState = {
        x,
        input: hold(arithmetic.empty([networkBatch, ...dims.slice(1)])),
        copies: networkBatch / batch,
        denoised: hold(arithmetic.empty(dims)),
        history: plan.historyLength > 0 ? hold(arithmetic.empty([plan.historyLength * count])) : null,
        historyLength: plan.historyLength,
        historyHead: 0,
        blend: request.mask ? hold(this.#blend(request, request.mask, noise, count)) : null,
      };
      arithmetic.combine(state.input, plan.steps[0].inputScale, x, 0, null, state.copies);
      const embeddings = batched
        ? [hold(this.#rows([text.negative, text.prompt], batch))]
        : [...(text.negative ? [text.negative] : []), text.prompt].map((rows) => hold(this.#rows([rows], batch)));
      // What the network makes of the text alone is the same at every step, so it is computed once.
      const contexts: Record<string, DeviceTensor>[] = [];
      for (const embedding of embeddings) {
        contexts.push(await this.#context(embedding, hold));
      }
      const outputs = embeddings.map(() => hold(arithmetic.empty([networkBatch, unet.out_channels, height, width])));
      const time = hold(arithmetic.empty([1, unet.block_out_channels[0]]));

      request.onStart(plan.steps.length);
      for (const [i, step] of plan.steps.entries()) {
        if (request.signal.aborted) {
          throw cancelled();
        }
        arithmetic.write(time, unet2d.timeProjection(unet, step.timestep));
        for (const [k, context] of contexts.entries()) {
          await engine.run(network, { sample: state.input, time_proj: time, ...context }, { out_sample: outputs[k] });
        }
        arithmetic.step({
          step,
          state,
          uncond: guided ? outputs[0] : null,
          cond: outputs[outputs.length - 1],
          condOffset: batched ? count : 0,
          guidance: text.guidance,
          nextInputScale: plan.steps[i + 1]?.inputScale ?? 1,
          blend: state.blend ? plan.addNoise(i + 1) : null,
        });
        // Without waiting, every step would be queued at once: no progress to see and nothing left to cancel.
        await arithmetic.settle();
        await request.onStep({
          step: i + 1,
          steps: plan.steps.length,
          preview: colours && ((canvas) => arithmetic.preview(state.denoised, colours, canvas)),
        });
      }
      return new DeviceLatents(x, engine);
    } catch (error) {
      x.dispose();
      throw error;
    } finally {
      held.forEach((tensor) => tensor.dispose());
    }
  }

  async decode(latents: Latents): Promise<PixelImage[]> {
    const { arithmetic } = this.engine;
    const [batch, channels, height, width] = latents.dims;
    const count = channels * height * width;
    const { decode, release } = await this.#decoder('vae_decoder', height, width);
    const images: PixelImage[] = [];
    const one = arithmetic.empty([1, channels, height, width]);
    try {
      // One picture at a time: the decoder's activations are the largest of the whole pipeline.
      for (let n = 0; n < batch; n++) {
        arithmetic.copy((latents as DeviceLatents).tensor, n * count, one, 0, count);
        images.push(...(await decode(one)));
      }
    } finally {
      one.dispose();
      release();
    }
    return images;
  }

  isFrom(files: CheckpointFiles): boolean {
    const own = this.checkpoint.files;
    const paths = own.paths();
    return (
      files.paths().length === paths.length &&
      paths.every((path) => files.has(path) && files.version(path) === own.version(path))
    );
  }

  release(): Promise<void> {
    return this.#networks.clear();
  }

  /** The start of sampling: noise, or the picture with as much noise as the first step to run expects. */
  #start(x: DeviceTensor, noise: DeviceTensor, plan: SamplerPlan, request: SampleRequest): void {
    const { arithmetic } = this.engine;
    // diffusers' inpainting starts from pure noise at full strength, its image-to-image never does.
    if (!request.start || (request.mask && request.strength === 1)) {
      arithmetic.combine(x, plan.initNoise, noise, 0, null);
      return;
    }
    const mix = plan.addNoise(0);
    arithmetic.combine(x, mix.image, (request.start as DeviceLatents).tensor, mix.noise, noise);
  }

  /** image | noise | mask, each the size of the latents. */
  #blend(request: SampleRequest, mask: PixelImage, noise: DeviceTensor, count: number): DeviceTensor {
    const { arithmetic } = this.engine;
    const [height, width] = [request.height / this.#factor, request.width / this.#factor];
    const change = maskToTensor(mask, request.width, request.height, width, height).data;
    const repeated = new Float32Array(count);
    for (let at = 0; at < count; at += change.length) {
      repeated.set(change, at);
    }
    const blend = arithmetic.empty([3 * count]);
    const uploaded = arithmetic.upload(repeated, [count]);
    arithmetic.copy((request.start as DeviceLatents).tensor, 0, blend, 0, count);
    arithmetic.copy(noise, 0, blend, count, count);
    arithmetic.copy(uploaded, 0, blend, 2 * count, count);
    uploaded.dispose();
    return blend;
  }

  /** Each of `rows` [1, tokens, width] repeated `batch` times, one after another. */
  #rows(rows: DeviceTensor[], batch: number): DeviceTensor {
    const { arithmetic } = this.engine;
    const [, tokens, width] = rows[0].dims;
    const all = arithmetic.empty([rows.length * batch, tokens, width]);
    for (let n = 0; n < rows.length * batch; n++) {
      arithmetic.copy(rows[Math.floor(n / batch)], 0, all, n * tokens * width, tokens * width);
    }
    return all;
  }

  /** Keys and values of every attention to the text, for `embeddings` [batch, tokens, width]. */
  async #context(
    embeddings: DeviceTensor,
    hold: (tensor: DeviceTensor) => DeviceTensor,
  ): Promise<Record<string, DeviceTensor>> {
    const { unet, unetComponent } = this.parts;
    const [batch, sequence] = embeddings.dims;
    const network = await this.#networks.get('unet_context', { batch, sequence }, (options) =>
      unet2d.buildContext(unet, unetComponent.weights, { ...options, batch, sequence, height: 0, width: 0 }),
    );
    const context = Object.fromEntries(
      network.outputs.map(({ name, dims }) => [name, hold(this.engine.arithmetic.empty(dims))]),
    );
    await this.engine.run(network, { encoder_hidden_states: embeddings }, context);
    return context;
  }

  #guidanceIsBatched(request: SampleRequest, batch: number, height: number, width: number): boolean {
    if (request.guidance_mode !== 'auto') {
      return request.guidance_mode === 'batched';
    }
    // The GEGLU of the first transformer block: eight times the channels for every latent.
    const widest = 2 * batch * height * width * 8 * this.parts.unet.block_out_channels[0] * 4;
    return (
      widest <= Math.min(WIDEST_ACTIVATION_BYTES, this.engine.report.limits?.maxStorageBufferBindingSize ?? Infinity)
    );
  }

  async #colours(): Promise<PreviewColours> {
    if (!this.#previewColours) {
      const { decode, release } = await this.#decoder('preview_decoder', PREVIEW_SIZE, PREVIEW_SIZE);
      const { arithmetic } = this.engine;
      try {
        this.#previewColours = await fitPreviewColours(this.#channels, this.#factor, async (latents, dims) => {
          const tensor = arithmetic.upload(latents, dims);
          try {
            return (await decode(tensor))[0];
          } finally {
            tensor.dispose();
          }
        });
      } finally {
        release();
        await this.#networks.drop('preview_decoder');
      }
    }
    return this.#previewColours;
  }

  /** The decoder for latents of this size, one picture at a time, with buffers to be released after use. */
  async #decoder(name: string, height: number, width: number) {
    const { vae, vaeComponent } = this.parts;
    const network = await this.#networks.get(name, { height, width }, (options) => {
      const sized = { ...options, batch: 1, height, width, dtype: 'f32' as const };
      return vae.kind === 'gaussian'
        ? vae.graphs.buildDecoder(vae.config, vaeComponent.weights, sized)
        : vae.graphs.buildDecoder(vae.config, vaeComponent.weights, sized);
    });
    const { arithmetic } = this.engine;
    const input = arithmetic.empty([1, this.#channels, height, width]);
    const output = arithmetic.empty([1, 3, height * this.#factor, width * this.#factor]);
    return {
      decode: async (latents: DeviceTensor): Promise<PixelImage[]> => {
        arithmetic.combine(input, 1 / vae.config.scaling_factor, latents, 0, null);
        await this.engine.run(network, { latent_sample: input }, { sample: output });
        return arithmetic.toPixels(output);
      },
      release: () => {
        input.dispose();
        output.dispose();
      },
    };
  }
}

function factorOf(vae: Autoencoder): number {
  const blocks = vae.kind === 'gaussian' ? vae.config.block_out_channels : vae.config.decoder_block_out_channels;
  return 2 ** (blocks.length - 1);
}

async function open(checkpoint: Checkpoint, engine: Engine): Promise<LoadedModel> {
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
      `"${checkpoint.files.name}" has no scheduler/scheduler_config.json; open the whole checkpoint folder.`,
    );
  }
  const tokenizerFiles = new Map<string, string>();
  for (const path of checkpoint.files.paths().filter((path) => /^tokenizer\/[^/]+\.(json|txt)$/.test(path))) {
    tokenizerFiles.set(path.slice('tokenizer/'.length), (await checkpoint.text(path)) ?? '');
  }
  const parts: Parts = {
    textEncoder,
    text: clipText.parseConfig(textEncoder.config),
    unetComponent,
    unet: unet2d.parseConfig(unetComponent.config),
    vaeComponent,
    vae,
    scheduler: parseSchedulerConfig(schedulerText),
    tokenizer: new ClipTokenizer({ read: (name) => tokenizerFiles.get(name) }),
  };
  if (parts.unet.in_channels !== vae.config.latent_channels || parts.unet.out_channels !== vae.config.latent_channels) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The UNet of "${checkpoint.files.name}" takes ${parts.unet.in_channels} channels and its autoencoder gives ${vae.config.latent_channels}; special checkpoints such as 9-channel inpainting ones cannot be run yet.`,
    );
  }
  return new StableDiffusion(checkpoint, engine, parts, await summarise(checkpoint, engine, parts));
}

function expectClass(component: Component, ...known: string[]): void {
  if (!known.includes(component.className)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `This checkpoint's ${component.name} is a ${component.className}; Darkroom can run ${known.join(' or ')} there.`,
    );
  }
}

async function summarise(checkpoint: Checkpoint, engine: Engine, parts: Parts): Promise<CheckpointSummary> {
  const { files } = checkpoint;
  const components = [
    { component: parts.textEncoder, bytes: 4 },
    { component: parts.unetComponent, bytes: engine.report.precision === 'f16' ? 2 : 4 },
    { component: parts.vaeComponent, bytes: 4 },
  ];
  const onDevice = components.flatMap(({ component, bytes }) =>
    [...component.weights.names()].map((name) => elementsOf(component.weights.get(name) as StoredTensor) * bytes),
  );
  const paths = components.flatMap(({ component }) => component.files);
  const sizes = await Promise.all(paths.map(async (path) => (await files.blob(path)).size));
  const factor = factorOf(parts.vae);
  const [height, width] = sampleSize(parts.unetComponent.config.sample_size);
  return {
    ref: files.ref,
    name: files.name,
    pipelineClass: checkpoint.pipelineClass,
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    memoryBytes: onDevice.reduce((sum, size) => sum + size, 0),
    largestTensorBytes: onDevice.reduce((largest, size) => Math.max(largest, size), 0),
    defaults: {
      width: width * factor,
      height: height * factor,
      ...schedulerDefaults(parts.scheduler),
      ...files.habits,
    },
    prompts: files.prompts,
  };
}

/** A checkpoint whose own scheduler is not known can still be run with a named sampler, so this is no refusal yet. */
function schedulerDefaults(config: SchedulerConfig): { sampler: string; schedule: string } {
  try {
    return defaultsOf(config, samplers);
  } catch (error) {
    if (error instanceof StudioError && error.code === 'checkpoint_unsupported') {
      return { sampler: config.className, schedule: '' };
    }
    throw error;
  }
}

function sampleSize(size: unknown): [number, number] {
  if (Array.isArray(size)) {
    return [Number(size[0]), Number(size[1])];
  }
  return typeof size === 'number' ? [size, size] : [64, 64];
}

function elementsOf(tensor: StoredTensor): number {
  return tensor.shape.reduce((product, dim) => product * dim, 1);
}

export const family: Family = {
  pipelineClasses: ['StableDiffusionPipeline', 'StableDiffusionImg2ImgPipeline', 'StableDiffusionInpaintPipeline'],
  open,
};
