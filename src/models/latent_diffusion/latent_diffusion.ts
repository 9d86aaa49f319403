/**
 * The five services of a latent diffusion model with text conditioning: what all checkpoints of the Stable Diffusion family share,
 * whatever their networks are made of. Reads as the story of a picture; the networks are asked through {@link Networks}.
 *
 * Reference: diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion{,_img2img,_inpaint}.py
 */
import { StudioError, assert } from '../../core/errors.ts';
import type { CpuTensor, PixelImage } from '../../core/media.ts';
import type {
  CheckpointSummary,
  Conditioning,
  DecodeRequest,
  Estimate,
  EstimateRequest,
  ImageRequest,
  Latents,
  SampleRequest,
  TextRequest,
} from '../../core/model.ts';
import { elements, type DeviceTensor, type Snapshots } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Loading } from '../../engine/network_shelf.ts';
import { runSampling } from '../../engine/sampling_run.ts';
import { overlay } from '../../formats/overlay.ts';
import { imageToTensor, maskToTensor, resizeLanczos } from '../../formats/resample.ts';
import { withPrediction, type SchedulerConfig } from '../../schedulers/config.ts';
import { defaultsOf, planSampling } from '../../schedulers/plan.ts';
import { samplers } from '../../samplers/registry.ts';
import { schedules } from '../../schedules/registry.ts';
import { schedulers } from '../../schedulers/registry.ts';
import type { SamplerPlan } from '../../samplers/sampler.ts';
import { readState } from '../../samplers/state.ts';
import type { ClipTokenizer, Encoded } from '../../text/clip_tokenizer.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import type { Circumstances, LoadedModel, ModelLora } from '../family.ts';
import { blendOf } from './blend.ts';
import { estimate, plannedNetworks } from './estimate.ts';
import { LatentDecoder } from './latent_decoder.ts';
import type { EncodedText, Networks, Sizes } from './networks.ts';

const OFFERS = { samplers, schedules, schedulers };

export interface Parts {
  networks: Networks;
  /** One for each text encoder. */
  tokenizers: ClipTokenizer[];
  /** Whether an empty negative prompt stands for zeros, and not for what the text encoder makes of it. */
  zeroesEmpty: boolean;
  scheduler: SchedulerConfig;
}

/** The prompt and, with guidance, the negative prompt as the denoiser is given them. */
class TextConditioning implements Conditioning {
  constructor(
    readonly prompt: EncodedText,
    readonly negative: EncodedText | null,
    readonly tokens: Conditioning['tokens'],
    readonly texts: Conditioning['texts'],
    readonly guidance: number,
  ) {}

  dispose(): void {
    for (const text of [this.prompt, this.negative]) {
      text?.states.dispose();
      text?.pooled?.dispose();
    }
  }
}

export class DeviceLatents implements Latents {
  /** @param snapshots a copy of them may still be on its way */
  constructor(
    readonly tensor: DeviceTensor,
    readonly engine: Engine,
    readonly snapshots: Snapshots | null = null,
  ) {}

  get dims(): Latents['dims'] {
    return this.tensor.dims as unknown as Latents['dims'];
  }

  read(): Promise<Float32Array<ArrayBuffer>> {
    return this.engine.arithmetic.read(this.tensor);
  }

  dispose(): void {
    this.snapshots?.dispose();
    this.tensor.dispose();
  }
}

export class LatentDiffusion implements LoadedModel {
  readonly #decoder: LatentDecoder;
  #used: Record<string, unknown> = {};
  /** SHA-256 of weight files, by path. */
  readonly #hashes = new Map<string, Promise<string>>();

  constructor(
    readonly files: CheckpointFiles,
    readonly engine: Engine,
    readonly parts: Parts,
    readonly summary: CheckpointSummary,
  ) {
    this.#decoder = new LatentDecoder(engine, parts.networks);
  }

  set onLoading(listener: ((loading: Loading) => void) | null) {
    this.parts.networks.shelf.onLoading = listener;
  }

  async provenance(): Promise<Record<string, unknown>> {
    const { files, facts } = await this.parts.networks.provenance();
    const sha256: Record<string, string> = {};
    for (const file of files) {
      sha256[file] = await this.#hash(file);
    }
    return {
      checkpoint: {
        name: this.summary.name,
        ref: this.summary.ref,
        pipeline_class: this.summary.pipelineClass,
        sha256,
      },
      scheduler_config: this.parts.scheduler.values,
      ...facts,
      ...this.#used,
    };
  }

  /** Begun with the sampling, so that it is there when the picture is: gigabytes of a folder take seconds. */
  async #beginHashing(): Promise<void> {
    for (const file of (await this.parts.networks.provenance()).files) {
      await this.#hash(file);
    }
  }

  #hash(file: string): Promise<string> {
    let hash = this.#hashes.get(file);
    if (!hash) {
      hash = fingerprint(this.files, file);
      this.#hashes.set(file, hash);
      // The next picture may find the file again.
      hash.catch(() => this.#hashes.delete(file));
    }
    return hash;
  }

  async encodeText(request: TextRequest): Promise<Conditioning> {
    const { networks, tokenizers, zeroesEmpty } = this.parts;
    await this.#begin(request);
    const [tokenizer] = tokenizers;
    const readsNegative =
      Object.hasOwn(samplers, request.sampler ?? '') && samplers[request.sampler ?? ''].readsNegative;
    const guided = (request.guidance_scale > 1 || readsNegative === true) && !(await networks.embedsGuidance());
    const prompts = tokenizers.map((one) => one.encode(request.prompt));
    const negatives = guided ? tokenizers.map((one) => one.encode(request.negative_prompt)) : null;
    const [prompt, negative] = [prompts[0], negatives?.[0] ?? null];
    const encode = (texts: Encoded[]) => networks.encodeText(texts.map(({ ids }) => ids));
    const tokens = { prompt: prompt.tokens, negative: negative?.tokens ?? 0, limit: tokenizer.length };
    const texts = { prompt: prompt.text, negative: negative?.text ?? null };
    const encoded = await encode(prompts);
    const against =
      negatives && (zeroesEmpty && request.negative_prompt === '' ? this.#zeros(encoded) : await encode(negatives));
    return new TextConditioning(encoded, against, tokens, texts, request.guidance_scale);
  }

  /** A text of the same shape that says nothing. */
  #zeros({ states, pooled }: EncodedText): EncodedText {
    const like = ({ dims }: DeviceTensor) => this.engine.arithmetic.upload(new Float32Array(elements(dims)), dims);
    return { states: like(states), pooled: pooled && like(pooled) };
  }

  async encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents> {
    const { width, height, batch_size, random } = request;
    const pixels = imageToTensor(resizeLanczos(image, width, height));
    return new DeviceLatents(await this.#encoded(pixels, batch_size, random), this.engine);
  }

  /** A picture [1, 3, H, W] in [-1, 1] as latents, scaled as sampling wants them and repeated `batch` times. */
  async #encoded(pixels: CpuTensor, batch: number, random: ImageRequest['random']): Promise<DeviceTensor> {
    const { arithmetic } = this.engine;
    const { networks } = this.parts;
    const { channels, factor, scale } = networks.latents;
    const [, , height, width] = pixels.dims;
    const dims = [1, channels, height / factor, width / factor];
    const input = arithmetic.upload(pixels.data, pixels.dims);
    const held = [input];
    try {
      const encoded = await networks.encodeImage(input);
      held.push(encoded.tensor);
      const latents = arithmetic.empty([batch, ...dims.slice(1)]);
      if (encoded.kind === 'moments') {
        const noise = arithmetic.upload(random.randn(elements(dims)), dims);
        const single = arithmetic.empty(dims);
        held.push(noise, single);
        arithmetic.posterior(single, encoded.tensor, noise, scale);
        arithmetic.combine(latents, 1, single, 0, null, batch);
      } else {
        arithmetic.combine(latents, scale, encoded.tensor, 0, null, batch);
      }
      return latents;
    } finally {
      held.forEach((tensor) => {
        tensor.dispose();
      });
    }
  }

  get onDevice(): readonly string[] {
    return this.parts.networks.shelf.names;
  }

  async prepare(request: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { arithmetic, device } = this.engine;
    const { networks } = this.parts;
    const { channels, factor } = networks.latents;
    const { batch_size: batch, guidance_scale: guidance, tile_size: tile = Infinity } = request;
    const [height, width] = [request.height / factor, request.width / factor];
    if (request.phased) {
      // What is brought to the device now would leave it again.
      return;
    }
    const held: { dispose(): unknown }[] = [];
    const hold = <T extends { dispose(): unknown }>(one: T): T => {
      held.push(one);
      return one;
    };
    try {
      const words = { prompt: '', negative_prompt: '', guidance_scale: guidance, batch_size: batch };
      const text = hold(await this.encodeText(words)) as TextConditioning;
      if (signal.aborted) {
        return;
      }
      const guided = text.negative !== null;
      const batched = guided && (await this.#guidanceIsBatched(request, 2 * batch, height, width));
      const rows = batched ? 2 * batch : batch;
      const masked = networks.conditions.mask ? hold(arithmetic.empty([rows, 1 + channels, height, width])) : null;
      const denoiser = hold(
        await networks.denoiser({
          batch: rows,
          height,
          width,
          ...this.#texts(text, batch, batched, hold),
          ...(networks.conditions.pooled && { sizes: sizesOf(request) }),
          ...(masked && { masked }),
          guidance,
        }),
      );
      if (device && !signal.aborted) {
        await denoiser.predict(hold(arithmetic.empty([rows, channels, height, width])), 1);
        await arithmetic.settle();
      }
      if (!signal.aborted) {
        await this.#decoder.colours();
      }
      if (!signal.aborted && Math.max(request.height, request.width) <= tile) {
        hold(await networks.decoder({ height, width }, 'picture'));
      }
    } finally {
      for (const one of held) {
        await one.dispose();
      }
    }
  }

  async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const { engine } = this;
    const { arithmetic } = engine;
    const { networks } = this.parts;
    const scheduler = withPrediction(this.parts.scheduler, request);
    const { channels, factor } = networks.latents;
    const text = conditioning as TextConditioning;
    const plan = planSampling(
      {
        config: scheduler,
        sampler: request.sampler,
        schedule: request.schedule,
        follows: request.follows,
        steps: request.steps,
        strength: request.start ? request.strength : undefined,
      },
      OFFERS,
    );
    const [batch, height, width] = [request.batch_size, request.height / factor, request.width / factor];
    const guided = text.negative !== null;
    const batched = guided && (await this.#guidanceIsBatched(request, 2 * batch, height, width));
    const rows = batched ? 2 * batch : batch;
    this.#used = {
      scheduler_config: scheduler.values,
      sampler: plan.sampler,
      schedule: plan.schedule,
      follows: plan.follows,
      guidance_mode: guided ? (batched ? 'batched' : 'serial') : 'none',
    };
    // What cannot be read is said when the hashes are asked for.
    this.#beginHashing().catch(() => undefined);

    const dims = [batch, channels, height, width];
    const count = batch * channels * height * width;
    const state = readState(request.resume, plan, count);
    if (state?.done === plan.steps.length) {
      // Only the picture was missing: the networks of sampling need not be brought to the device for it.
      request.random.state = state.random;
      return new DeviceLatents(arithmetic.upload(state.x, dims), engine);
    }

    const held: { dispose(): void }[] = [];
    const hold = <T extends { dispose(): void }>(one: T): T => {
      held.push(one);
      return one;
    };
    const snapshots = arithmetic.snapshots();
    let x: DeviceTensor | undefined;
    try {
      x = arithmetic.empty(dims);
      const noise = hold(arithmetic.upload(request.random.randn(count), dims));
      this.#start(x, noise, plan, request);
      const masked = networks.conditions.mask ? hold(await this.#masked(request, rows)) : undefined;
      const colours = request.previews ? await this.#decoder.colours() : null;
      await this.#begin(request);
      const denoiser = hold(
        await networks.denoiser({
          batch: rows,
          height,
          width,
          ...this.#texts(text, batch, batched, hold),
          ...(networks.conditions.pooled && { sizes: sizesOf(request) }),
          ...(masked && { masked }),
          guidance: text.guidance,
        }),
      );
      const blend =
        request.mask && !masked
          ? hold(blendOf(arithmetic, request.mask, request, (request.start as DeviceLatents).tensor, noise))
          : null;
      await runSampling({
        engine,
        plan,
        x,
        copies: rows / batch,
        blend,
        snapshots,
        request,
        state,
        colours,
        predict: async (input, timestep) => {
          const predictions = await denoiser.predict(input, timestep);
          return {
            uncond: guided ? predictions[0] : null,
            cond: predictions[predictions.length - 1],
            condOffset: batched ? count : 0,
            guidance: text.guidance,
          };
        },
      });
      return new DeviceLatents(x, engine, snapshots);
    } catch (error) {
      snapshots.dispose();
      x?.dispose();
      throw error;
    } finally {
      held.forEach((one) => {
        one.dispose();
      });
    }
  }

  async decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]> {
    await this.#begin(request);
    const images = await this.#decoder.decode((latents as DeviceLatents).tensor, request);
    return request.overlay ? overlay(images, request.overlay.picture, request.overlay.mask) : images;
  }

  useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    return this.parts.networks.useLoras(loras);
  }

  checkLora(lora: ModelLora): Promise<string | null> {
    return this.parts.networks.checkLora(lora);
  }

  estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return estimate(this.parts.networks, this.summary.variants, request, circumstances);
  }

  async toLoad(request: EstimateRequest): Promise<Map<string, number>> {
    const { networks } = this.parts;
    const onDevice = new Set(networks.shelf.names);
    const { precision } = this.engine.report;
    const planned = await plannedNetworks(networks, request);
    return new Map(
      planned
        .filter(({ name }) => request.phased === true || !onDevice.has(name))
        .map((network) => [
          network.name,
          network.cost(network.precision ?? precision, request.weights ?? 'full').weightBytes,
        ]),
    );
  }

  isFrom(files: CheckpointFiles): boolean {
    const paths = this.files.paths();
    return (
      files.paths().length === paths.length &&
      paths.every((path) => files.has(path) && files.version(path) === this.files.version(path))
    );
  }

  release(): Promise<void> {
    return this.parts.networks.clear();
  }

  /** In phases, the networks of the one before leave the device. */
  async #begin({ phased }: { phased?: boolean | undefined }): Promise<void> {
    if (phased) {
      await this.parts.networks.clear();
    }
  }

  /** The start of sampling: noise, or the picture with as much noise as the first step to run expects. */
  #start(x: DeviceTensor, noise: DeviceTensor, plan: SamplerPlan, request: SampleRequest): void {
    const { arithmetic } = this.engine;
    // diffusers' inpainting starts from pure noise at full strength; its image-to-image never does, nor does ComfyUI.
    if (!request.start || (request.mask && request.strength === 1 && plan.follows === 'diffusers')) {
      arithmetic.combine(x, plan.initNoise, noise, 0, null);
      return;
    }
    const { alpha, sigma } = plan.start;
    arithmetic.combine(x, alpha, (request.start as DeviceLatents).tensor, sigma, noise);
  }

  /** For a network that is shown them: the mask, and the picture without what it covers as latents, for each of the rows. */
  async #masked({ mask, picture, width, height, random }: SampleRequest, rows: number): Promise<DeviceTensor> {
    const { arithmetic } = this.engine;
    assert(mask !== undefined && picture !== undefined, 'the picture and its mask are given');
    const { channels, factor } = this.parts.networks.latents;
    const [latentHeight, latentWidth] = [height / factor, width / factor];
    const seen = imageToTensor(resizeLanczos(picture, width, height));
    const covered = maskToTensor(mask, width, height, width, height).data;
    // Where the mask covers it, the network sees middle grey.
    seen.data.forEach((value, i) => (seen.data[i] = covered[i % covered.length] < 0.5 ? value : 0));
    const stays = await this.#encoded(seen, 1, random);
    const change = maskToTensor(mask, width, height, latentWidth, latentHeight).data;
    const uploaded = arithmetic.upload(change, [change.length]);
    try {
      const masked = arithmetic.empty([rows, 1 + channels, latentHeight, latentWidth]);
      const row = (1 + channels) * change.length;
      for (let n = 0; n < rows; n++) {
        arithmetic.copy(uploaded, 0, masked, n * row, change.length);
        arithmetic.copy(stays, 0, masked, n * row + change.length, channels * change.length);
      }
      return masked;
    } finally {
      uploaded.dispose();
      stays.dispose();
    }
  }

  /** Each of `rows` [1, …] repeated `batch` times, one after another. */
  #rows(rows: DeviceTensor[], batch: number): DeviceTensor {
    const { arithmetic } = this.engine;
    const [, ...dims] = rows[0].dims;
    const size = elements(dims);
    const all = arithmetic.empty([rows.length * batch, ...dims]);
    for (let n = 0; n < rows.length * batch; n++) {
      arithmetic.copy(rows[Math.floor(n / batch)], 0, all, n * size, size);
    }
    return all;
  }

  /** What the denoiser is called with, once for each. */
  #texts(
    { prompt, negative }: TextConditioning,
    batch: number,
    batched: boolean,
    hold: (tensor: DeviceTensor) => DeviceTensor,
  ): { embeddings: DeviceTensor[]; pooled?: DeviceTensor[] } {
    const given = [...(negative ? [negative] : []), prompt];
    const groups = batched ? [given] : given.map((one) => [one]);
    const repeated = (all: DeviceTensor[]) => hold(this.#rows(all, batch));
    return {
      embeddings: groups.map((group) => repeated(group.map(({ states }) => states))),
      ...(this.parts.networks.conditions.pooled && {
        pooled: groups.map((group) => repeated(group.flatMap((one) => one.pooled ?? []))),
      }),
    };
  }

  async #guidanceIsBatched(
    { guidance_mode: mode = 'auto' }: Pick<EstimateRequest, 'guidance_mode'>,
    rows: number,
    height: number,
    width: number,
  ): Promise<boolean> {
    return mode === 'auto' ? this.parts.networks.batchesGuidance(rows, { height, width }) : mode === 'batched';
  }
}

/** As the reference takes them where nothing is said: the whole of a picture of the very size that is made. */
function sizesOf(request: Pick<SampleRequest, 'width' | 'height'> & Partial<SampleRequest>): Sizes {
  const { width, height } = request;
  return {
    original: [request.original_height ?? height, request.original_width ?? width],
    corner: [request.crop_top ?? 0, request.crop_left ?? 0],
    target: [request.target_height ?? height, request.target_width ?? width],
  };
}

/** A checkpoint whose own scheduler is not known can still be run with a named sampler, so this is no refusal yet. */
export function schedulerDefaults(
  config: SchedulerConfig,
): Pick<CheckpointSummary['defaults'], 'sampler' | 'schedule' | 'prediction_type' | 'rescale_betas_zero_snr'> {
  const { prediction_type: prediction = 'epsilon', rescale_betas_zero_snr: zero } = config.values;
  const predicts = {
    ...(typeof prediction === 'string' && { prediction_type: prediction }),
    ...(zero === true && { rescale_betas_zero_snr: true }),
  };
  try {
    return { ...predicts, ...defaultsOf(config, OFFERS) };
  } catch (error) {
    if (error instanceof StudioError && error.code === 'checkpoint_unsupported') {
      return { ...predicts, sampler: config.className, schedule: '' };
    }
    throw error;
  }
}
