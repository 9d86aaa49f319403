/**
 * The five services of a flow transformer: prompts of any length, the pictures of a batch one after another, and a schedule that depends
 * on the picture's size.
 *
 * Reference: diffusers/pipelines/z_image/pipeline_z_image{,_img2img,_inpaint}.py, pipelines/flux2/pipeline_flux2_klein.py,
 * pipelines/stable_diffusion_3/pipeline_stable_diffusion_3{,_img2img,_inpaint}.py, pipelines/flux/pipeline_flux{,_img2img}.py,
 * pipelines/qwenimage/pipeline_qwenimage{,_img2img,_inpaint,_edit,_edit_plus,_layered}.py
 */
import { StudioError } from '../../core/errors.ts';
import { DEFAULT_GUIDANCE } from '../../core/guidance.ts';
import type { PixelImage } from '../../core/media.ts';
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
  TokenCount,
} from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import { TorchGenerator } from '../../core/random.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { statisticalGuidance } from '../../engine/guidance.ts';
import { runSampling } from '../../engine/sampling_run.ts';
import { overlay } from '../../formats/overlay.ts';
import { imageToTensor } from '../../formats/resample.ts';
import { readState } from '../../samplers/state.ts';
import { samplers } from '../../samplers/registry.ts';
import { withShift, type SchedulerConfig } from '../../schedulers/config.ts';
import { modelSamplingOf } from '../../schedulers/model_sampling.ts';
import { planSampling } from '../../schedulers/plan.ts';
import { schedulers } from '../../schedulers/registry.ts';
import { schedules } from '../../schedules/registry.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { Circumstances, LoadedModel } from '../family.ts';
import { blendOf, softMask } from '../latent_diffusion/blend.ts';
import { estimate } from '../latent_diffusion/estimate.ts';
import { encodedInTiles } from '../latent_diffusion/tiled_encoding.ts';
import { onGround, withGround } from '../latent_diffusion/new_ground.ts';
import { picturePlanes, type EncodedPicture, type LatentSize } from '../latent_diffusion/networks.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import { LatentDecoder } from '../latent_diffusion/latent_decoder.ts';
import { OpenedCheckpoint } from '../latent_diffusion/opened_checkpoint.ts';
import { DenoisedGuidance, type FlowGuidance } from './denoised_guidance.ts';
import { Held } from './base_networks.ts';
import type { EncodedText, FlowNetworks } from './flow_networks.ts';
import { OneByOne } from './one_by_one.ts';
import { shownAs } from './shown_pictures.ts';

/** Timesteps of training, of which a level is a share. */
const TRAINED = 1000;

class Texts implements Conditioning {
  constructor(
    readonly prompt: EncodedText,
    readonly negative: EncodedText | null,
    readonly guidance: number,
  ) {}

  get tokens(): Conditioning['tokens'] {
    return { prompt: this.prompt.tokens, negative: this.negative?.tokens ?? 0, limit: this.prompt.limit };
  }

  get texts(): Conditioning['texts'] {
    return { prompt: this.prompt.text, negative: this.negative?.text ?? null };
  }

  get notices(): readonly string[] {
    return [
      ...new Set([this.prompt, ...(this.negative ? [this.negative] : [])].flatMap(({ notices = [] }) => notices)),
    ];
  }

  dispose(): void {
    for (const { tensors } of [this.prompt, ...(this.negative ? [this.negative] : [])]) {
      Object.values(tensors).forEach((tensor) => {
        tensor.dispose();
      });
    }
  }
}

/** In pixels; pictures, or frames of a video. */
export type PictureShape = Pick<EstimateRequest, 'width' | 'height' | 'batch_size'>;

/** The latents of a request, [batch, channels, height, width]. */
export interface LatentShape extends LatentSize {
  batch: number;
  /** Frames of a video, or layers of a picture, which lie below each other: the height is that of all. */
  frames?: number | undefined;
}

export class FlowModel<Networks extends FlowNetworks = FlowNetworks>
  extends OpenedCheckpoint<Networks>
  implements LoadedModel
{
  readonly #decoder: LatentDecoder;

  constructor(
    files: CheckpointFiles,
    engine: Engine,
    networks: Networks,
    scheduler: SchedulerConfig,
    summary: CheckpointSummary,
  ) {
    super(files, engine, networks, scheduler, summary);
    this.#decoder = new LatentDecoder(engine, networks);
  }

  async encodeText(request: TextRequest): Promise<Conditioning> {
    const { networks } = this;
    const { guidance_scale: scale } = request;
    await this.begin(request);
    const seen = (await networks.sight?.see(request.images ?? [])) ?? [];
    try {
      const prompt = await networks.encodeText(request.prompt, seen);
      const isGuided = scale > (networks.leastGuidance ?? 1) && !(await networks.embedsGuidance());
      const negative = isGuided ? await networks.encodeText(request.negative_prompt, seen) : null;
      return new Texts(prompt, negative, networks.guidance(scale));
    } finally {
      seen.forEach(({ features }) => {
        features.dispose();
      });
    }
  }

  async prepare(request: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { networks } = this;
    const { guidance_scale, batch_size } = request;
    if (request.phased) {
      // Anything loaded now would be freed again.
      return;
    }
    const words = { prompt: '', negative_prompt: '', guidance_scale, batch_size };
    const text = (await this.encodeText(words)) as Texts;
    try {
      // With pictures its shape depends on theirs, which are not given yet.
      if (!signal.aborted && !networks.sight && !networks.needsPicture) {
        const guidance = guidance_scale;
        const { height, width, frames } = this.shapeOf(request);
        const random = new TorchGenerator('0');
        (
          await networks.denoiser({ height, width, frames, texts: [text.prompt], shown: [], guidance, random })
        ).dispose();
      }
      if (!signal.aborted) {
        await this.#decoder.colours();
      }
    } finally {
      text.dispose();
    }
  }

  countTokens(prompt: string): TokenCount[] {
    return this.networks.countTokens?.(prompt) ?? [];
  }

  async encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents> {
    const { width, height, batch_size, random, ground, tile_size } = request;
    const encode = (pixels: DeviceTensor) => this.networks.encodeImage(pixels);
    const latents = await this.#encode(
      withGround(resizeLanczos(image, width, height), ground),
      batch_size,
      random,
      encode,
      tile_size,
    );
    return onGround(latents, ground, request);
  }

  /** A picture of the size that it is seen at; only families whose pictures are no Gaussians are shown any, so nothing is drawn. */
  async encodeShown(image: PixelImage, together = 1, result?: { width: number; height: number }): Promise<Latents> {
    const { networks } = this;
    const { sight } = networks;
    const sized =
      sight?.sized(image) ??
      networks.sizedToShow?.(image, together, result) ??
      shownAs(image, this.summary.multiple ?? 8);
    const encode = (pixels: DeviceTensor) => (sight ? sight.encode(pixels) : networks.encodeImage(pixels));
    return await this.#encode(sized, 1, new TorchGenerator('0'), encode);
  }

  async #encode(
    image: PixelImage,
    batch: number,
    random: NoiseSource,
    encode: (pixels: DeviceTensor) => Promise<EncodedPicture>,
    tile?: number,
  ): Promise<DeviceLatents> {
    const { arithmetic } = this.engine;
    const { channels, factor, scale, shift = 0 } = this.networks.latents;
    const pixels = imageToTensor(image, picturePlanes(this.networks.latents));
    const dims = [1, channels, image.height / factor, image.width / factor];
    const held = new Held();
    try {
      const encoded = await encodedInTiles(arithmetic, pixels, tile, factor, encode);
      held.hold(encoded.tensor);
      let single = encoded.tensor;
      if (encoded.kind === 'moments') {
        const count = elements(dims);
        const noise = held.hold(arithmetic.upload(random.ofPosterior(count) ?? new Float32Array(count), dims));
        single = held.hold(arithmetic.empty(dims));
        arithmetic.posterior(single, encoded.tensor, noise, 1);
      }
      const one = held.hold(arithmetic.upload(Float32Array.of(1), [1]));
      const latents = arithmetic.empty([batch, ...dims.slice(1)]);
      arithmetic.combine(latents, scale, single, -shift * scale, one, batch);
      return new DeviceLatents(latents, this.engine);
    } finally {
      held.dispose();
    }
  }

  async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const { engine, networks } = this;
    const { arithmetic } = engine;
    const { channels } = networks.latents;
    const text = conditioning as Texts;
    const { batch, height, width, frames } = this.shapeOf(request);
    const { samplers: able = [] } = this.summary;
    if (request.sampler !== undefined && !able.includes(request.sampler)) {
      throw new StudioError(
        'invalid_operation',
        `The sampler ${request.sampler} does not go with this checkpoint, whose noise levels are a flow's; choose ${able.join(', ')}.`,
      );
    }
    const modelSampling = modelSamplingOf(request, request);
    const plan = planSampling(
      {
        config: withShift(this.scheduler, request.shift),
        sampler: request.sampler,
        schedule: request.schedule,
        follows: modelSampling ? 'comfyui' : undefined,
        steps: request.steps,
        strength: request.start ? request.strength : undefined,
        flow: {
          ...networks.course({ height, width, frames }),
          given: request.timesteps?.map((timestep) => timestep / TRAINED),
          modelSampling,
        },
      },
      { samplers, schedules, schedulers },
    );
    this.used = {
      sampler: plan.sampler,
      schedule: plan.schedule,
      follows: plan.follows,
      guidance_mode: text.negative ? 'serial' : 'none',
    };
    this.beginHashing();
    const dims = [batch, channels, height, width] as const;
    const count = batch * channels * height * width;
    const state = readState(request.resume, plan, count);
    if (state?.done === plan.steps.length) {
      // Only decoding was left, which does not need the transformer.
      request.random.state = state.random;
      return new DeviceLatents(arithmetic.upload(state.x, dims), engine);
    }

    await this.begin(request);
    const asked = [...(text.negative ? [text.negative] : []), text.prompt];
    const skipping = text.negative ? skipLayerGuidance(request, plan.steps.length) : null;
    const texts = skipping ? [...asked, text.prompt] : asked;
    const method = request.guidance_method ?? networks.usualGuidance ?? DEFAULT_GUIDANCE.guidance_method;
    const isMixed = method === 'cfg_norm' && text.negative !== null && skipping === null;
    const shown = (request.shown ?? []).map((latents) => (latents as DeviceLatents).tensor);
    const held: { dispose(): void }[] = [];
    const hold = <T extends { dispose(): void }>(one: T): T => {
      held.push(one);
      return one;
    };
    const snapshots = arithmetic.snapshots();
    let x: DeviceTensor | undefined;
    networks.shelf.signal = request.signal;
    try {
      const guidance = request.guidance_scale;
      const skipped = skipping?.layers;
      const { rate, random } = request;
      const last = (request.last as DeviceLatents | undefined)?.tensor;
      const mixes = isMixed;
      const about = { height, width, frames, rate, texts, shown, last, guidance, random, mixes, skipped };
      const single = hold(await networks.denoiser(about));
      const denoiser = hold(new OneByOne(engine, single, dims, isMixed ? 1 : texts.length));
      const between =
        text.negative && !isMixed ? await this.#guidance(dims, { ...request, guidance_method: method }) : null;
      if (between) {
        hold(between);
      }
      const away = skipping && hold(arithmetic.empty(dims));
      const colours = request.previews ? await this.#decoder.colours() : null;
      x = arithmetic.empty(dims);
      const noise = hold(arithmetic.upload(request.random.ofStart(dims), dims));
      const { alpha, sigma } = plan.start;
      const start = request.start as DeviceLatents | undefined;
      arithmetic.combine(x, start ? sigma : plan.initNoise, noise, alpha, start?.tensor ?? null);
      await runSampling({
        engine,
        plan,
        x,
        copies: 1,
        blend: request.mask && start ? hold(blendOf(arithmetic, request.mask, request, start.tensor, noise)) : null,
        mask: request.mask && start ? softMask(request, plan, dims) : null,
        snapshots,
        request,
        state,
        colours,
        predict: async (input, timestep, step) => {
          const isSkipping = skipping?.isIn(step) ?? false;
          const next = plan.steps.at(step + 1)?.timestep ?? 0;
          const predictions = await denoiser.predict(input, timestep, isSkipping ? texts.length : asked.length, next);
          let cond = predictions[isMixed ? 0 : asked.length - 1];
          if (skipping && away && isSkipping) {
            // Guidance multiplies this, so that u + g·(c − u) gains s·(c − k), where k is the prediction without some blocks.
            const share = skipping.scale / text.guidance;
            arithmetic.combine(away, 1 + share, cond, -share, predictions[asked.length]);
            cond = away;
          }
          const uncond = text.negative && !isMixed ? predictions[0] : null;
          const both = { uncond, cond, condOffset: 0, guidance: text.guidance };
          return between ? await between.apply(both, input, plan.steps[step].denoised) : both;
        },
      });
      return new DeviceLatents(x, engine, snapshots);
    } catch (error) {
      snapshots.dispose();
      x?.dispose();
      throw error;
    } finally {
      networks.shelf.signal = null;
      held.reverse().forEach((one) => {
        one.dispose();
      });
    }
  }

  /** Guidance that the step kernel does not do; null where its own is asked for. */
  #guidance(
    dims: readonly [number, number, number, number],
    request: SampleRequest,
  ): Promise<FlowGuidance> | FlowGuidance | null {
    return request.guidance_method === 'comfyui_cfg_norm'
      ? DenoisedGuidance.open(this.engine, this.networks.shelf, dims)
      : statisticalGuidance(this.engine.arithmetic, dims, request);
  }

  async decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]> {
    await this.begin(request);
    const images = await this.#decoder.decode((latents as DeviceLatents).tensor, request);
    return request.overlay ? overlay(images, request.overlay) : images;
  }

  /** In phased mode, frees the previous phase's networks. */
  protected async begin({ phased }: { phased?: boolean | undefined }): Promise<void> {
    if (phased) {
      await this.networks.clear();
    }
  }

  protected shapeOf({ batch_size: batch, height, width }: PictureShape): LatentShape {
    const { factor } = this.networks.latents;
    return { batch, height: height / factor, width: width / factor };
  }

  override estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    const { provider, blocks, ledger } = this.engine;
    const streaming = provider === 'webgpu' && blocks !== 'off' ? { perSecond: ledger.uploads.perSecond } : null;
    return estimate(this.networks, this.summary.variants, request, circumstances, streaming);
  }

  useBlocks(bytes: ReadonlyMap<string, number>): void {
    this.networks.shelf.blockBytes = bytes;
  }
}

/** A request's skip-layer guidance; null if there is none. */
function skipLayerGuidance(
  {
    skip_guidance_layers: layers = [],
    skip_layer_guidance_scale: scale = 0,
    skip_layer_guidance_start: start = 0,
    skip_layer_guidance_stop: stop = 1,
  }: SampleRequest,
  steps: number,
): { layers: readonly number[]; scale: number; isIn(step: number): boolean } | null {
  return layers.length === 0 || scale === 0
    ? null
    : { layers, scale, isIn: (step) => step > steps * start && step < steps * stop };
}
