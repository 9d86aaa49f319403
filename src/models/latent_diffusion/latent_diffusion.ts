/**
 * The five services of a latent diffusion model with text conditioning, shared by all checkpoints of the Stable Diffusion family, whatever
 * their networks are made of. It reads as the story of a picture; the networks are behind {@link Networks}.
 *
 * Reference: diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion{,_img2img,_inpaint}.py
 */
import type { CheckedAddition } from '../../core/additions.ts';
import type { CpuTensor, PixelImage } from '../../core/media.ts';
import type {
  CheckpointSummary,
  Conditioning,
  DecodeRequest,
  EstimateRequest,
  ImageRequest,
  Latents,
  PromptSyntax,
  SampleRequest,
  TextRequest,
  TokenCount,
} from '../../core/model.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { paint } from '../../engine/pixels.ts';
import { statisticalGuidance } from '../../engine/guidance.ts';
import { runSampling } from '../../engine/sampling_run.ts';
import { overlay } from '../../formats/overlay.ts';
import { imageToTensor } from '../../formats/resample.ts';
import type { SamplerPlan } from '../../samplers/sampler.ts';
import { readState } from '../../samplers/state.ts';
import { withPrediction } from '../../schedulers/config.ts';
import { planSampling } from '../../schedulers/plan.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoadedModel, ModelAddition, ModelAdditions } from '../family.ts';
import { OpenedCheckpoint } from './opened_checkpoint.ts';
import { blendOf, softMask } from './blend.ts';
import { controlRequests } from './control_pictures.ts';
import { ConditionedTexts, type TextConditioning } from './conditioned_texts.ts';
import { DeviceLatents } from './device_latents.ts';
import { ImageEncoding } from './image_encoding.ts';
import { LatentDecoder } from './latent_decoder.ts';
import type { DenoiserRequest, ImagePromptRequest, Networks, Sizes } from './networks.ts';
import { onGround, withGround } from './new_ground.ts';
import { OFFERS } from './sampling_offers.ts';
import { TextEncoding, type ModelParts } from './text_encoding.ts';

export class LatentDiffusion extends OpenedCheckpoint<Networks> implements LoadedModel {
  readonly #texts: TextEncoding;
  readonly #images: ImageEncoding;
  readonly #decoder: LatentDecoder;

  constructor(files: CheckpointFiles, engine: Engine, parts: ModelParts, summary: CheckpointSummary) {
    super(files, engine, parts.networks, parts.scheduler, summary);
    this.#texts = new TextEncoding(engine, parts);
    this.#images = new ImageEncoding(engine, parts.networks);
    this.#decoder = new LatentDecoder(engine, parts.networks);
  }

  async encodeText(request: TextRequest): Promise<Conditioning> {
    await this.#begin(request);
    return this.#texts.encode(request);
  }

  countTokens(prompt: string, syntax: PromptSyntax): TokenCount[] {
    return this.#texts.count(prompt, syntax);
  }

  async encodeImage(image: PixelImage, request: ImageRequest): Promise<Latents> {
    const { width, height, batch_size, random, ground, tile_size } = request;
    const pixels = imageToTensor(withGround(resizeLanczos(image, width, height), ground));
    const latents = new DeviceLatents(await this.#images.encode(pixels, batch_size, random, tile_size), this.engine);
    return onGround(latents, ground, request);
  }

  latentsFrom({ dims, data }: CpuTensor): Latents {
    return new DeviceLatents(this.engine.arithmetic.upload(data, dims), this.engine);
  }

  async prepare(request: EstimateRequest, signal: AbortSignal, runs: boolean): Promise<void> {
    const { arithmetic, device } = this.engine;
    const { networks } = this;
    const { channels, factor } = networks.latents;
    const { batch_size: batch, guidance_scale: guidance, tile_size: tile = Infinity } = request;
    const [height, width] = [request.height / factor, request.width / factor];
    if (request.phased) {
      // Anything loaded now would be freed again.
      return;
    }
    const held: { dispose(): unknown }[] = [];
    const hold = <T extends { dispose(): unknown }>(one: T): T => {
      held.push(one);
      return one;
    };
    try {
      this.beginHashing();
      const words = { prompt: '', negative_prompt: '', guidance_scale: guidance, batch_size: batch };
      const text = hold(await this.encodeText(words)) as TextConditioning;
      if (signal.aborted) {
        return;
      }
      if (request.imagePrompts) {
        // How large the denoiser is then, only the IP-Adapters say, which are not read yet.
        await this.#decoder.colours();
        return;
      }
      const guided = text.negative !== null;
      const batched = guided && (await this.#guidanceIsBatched(request, 2 * batch, height, width));
      const rows = batched ? 2 * batch : batch;
      const masked = networks.conditions.mask ? hold(arithmetic.empty([rows, 1 + channels, height, width])) : null;
      const texts = new ConditionedTexts(arithmetic, text, batch, batched, 1, hold);
      const denoiser = hold(
        await networks.denoiser({
          batch: rows,
          height,
          width,
          embeddings: texts.embeddings,
          ...(networks.conditions.pooled && { pooled: texts.pooled, sizes: sizesOf(request) }),
          ...(masked && { masked }),
          ...((request.controlnets ?? 0) > 0 && { controls: [] }),
          guidance,
        }),
      );
      if (runs && !signal.aborted) {
        await denoiser.predict(hold(arithmetic.empty([rows, channels, height, width])), 1);
        await arithmetic.settle();
      }
      if (!signal.aborted) {
        await this.#decoder.colours();
      }
      if (!signal.aborted && Math.max(request.height, request.width) <= tile) {
        const decoder = hold(await networks.decoder({ height, width }, 'picture'));
        // On a GPU, decoding takes more memory than is certain to be there.
        if (runs && !device && !signal.aborted) {
          await decoder.decode(hold(arithmetic.empty([1, channels, height, width])));
        }
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
    const { networks } = this;
    const scheduler = withPrediction(this.scheduler, request);
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
    const batched = guided && text.isSingle && (await this.#guidanceIsBatched(request, 2 * batch, height, width));
    const rows = batched ? 2 * batch : batch;
    this.used = {
      scheduler_config: scheduler.values,
      sampler: plan.sampler,
      schedule: plan.schedule,
      follows: plan.follows,
      guidance_mode: guided ? (batched ? 'batched' : 'serial') : 'none',
    };
    this.beginHashing();

    const dims = [batch, channels, height, width] as const;
    const count = batch * channels * height * width;
    const state = readState(request.resume, plan, count);
    if (state?.done === plan.steps.length) {
      // Only decoding was left, which does not need the sampling networks.
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
      const noise = hold(arithmetic.upload(request.random.ofStart(dims), dims));
      this.#start(x, noise, plan, request);
      const masked = networks.conditions.mask ? hold(await this.#images.masked(request, rows)) : undefined;
      const colours = request.previews ? await this.#decoder.colours() : null;
      const imagePrompts = await this.#see(request, guided, hold);
      await this.#begin(request);
      const texts = new ConditionedTexts(arithmetic, text, batch, batched, plan.steps.length, hold);
      const asked: DenoiserRequest = {
        batch: rows,
        height,
        width,
        embeddings: texts.embeddings,
        ...(networks.conditions.pooled && { pooled: texts.pooled, sizes: sizesOf(request) }),
        ...(masked && { masked }),
        controls: controlRequests(arithmetic, request, plan.steps.length, hold),
        sides: texts.sides,
        imagePrompts,
        guidance: text.guidance,
      };
      await networks.moveLoras?.(state?.done ?? 0, plan.steps.length);
      let denoiser = hold(await networks.denoiser(asked));
      const blend =
        request.mask && !masked
          ? hold(blendOf(arithmetic, request.mask, request, (request.start as DeviceLatents).tensor, noise))
          : null;
      const guidance = statisticalGuidance(arithmetic, dims, request);
      if (guidance) {
        hold(guidance);
      }
      await runSampling({
        engine,
        plan,
        x,
        copies: rows / batch,
        blend,
        mask: blend && softMask(request, plan, x.dims),
        snapshots,
        request,
        state,
        colours,
        predict: async (input, timestep, call) => {
          if (await networks.moveLoras?.(call, plan.steps.length)) {
            held.splice(held.indexOf(denoiser), 1);
            denoiser.dispose();
            denoiser = hold(await networks.denoiser(asked));
          }
          const predictions = await denoiser.predict(input, timestep, texts.at(call), call);
          const prediction = texts.prediction(predictions, count);
          return guidance ? guidance.apply(prediction) : prediction;
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

  async firstLook(latents: Latents): Promise<((canvas: OffscreenCanvas) => void) | null> {
    const picture = await this.#decoder.first((latents as DeviceLatents).tensor);
    return (
      picture &&
      ((canvas) => {
        paint(canvas, picture);
      })
    );
  }

  async decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]> {
    await this.#begin(request);
    const images = await this.#decoder.decode((latents as DeviceLatents).tensor, request);
    return request.overlay ? overlay(images, request.overlay) : images;
  }

  async useAdditions(additions: Partial<ModelAdditions>): Promise<void> {
    if (await this.networks.useAdditions?.(additions)) {
      this.#decoder.forgetColours();
    }
  }

  async checkAddition(kind: CheckedAddition, addition: ModelAddition): Promise<void> {
    await this.networks.checkAddition?.(kind, addition);
  }

  /** In phased mode, frees the previous phase's networks. */
  async #begin({ phased }: { phased?: boolean | undefined }): Promise<void> {
    if (phased) {
      await this.networks.clear();
    }
  }

  /** What the image prompts are for the denoiser. */
  async #see(
    { imagePrompts: prompts = [] }: SampleRequest,
    guided: boolean,
    hold: (tensor: DeviceTensor) => DeviceTensor,
  ): Promise<ImagePromptRequest[]> {
    const seen = await this.networks.seePictures?.(
      prompts.map(({ pictures }) => pictures),
      guided,
      (dims) => hold(this.engine.arithmetic.empty(dims)),
    );
    return (seen ?? []).map((one, place) => ({ seen: one, weight: prompts[place].weight }));
  }

  /** Where sampling starts: noise, or the picture with as much noise as the first step expects. */
  #start(x: DeviceTensor, noise: DeviceTensor, plan: SamplerPlan, request: SampleRequest): void {
    const { arithmetic } = this.engine;
    // diffusers' inpainting starts from pure noise at full strength; its image-to-image never does, nor does ComfyUI, nor differential diffusion.
    if (
      !request.start ||
      (request.mask && !request.soft_inpainting && request.strength === 1 && plan.follows === 'diffusers')
    ) {
      arithmetic.combine(x, plan.initNoise, noise, 0, null);
      return;
    }
    const { alpha, sigma } = plan.start;
    arithmetic.combine(x, alpha, (request.start as DeviceLatents).tensor, sigma, noise);
  }

  async #guidanceIsBatched(
    { guidance_mode: mode = 'auto' }: Pick<EstimateRequest, 'guidance_mode'>,
    rows: number,
    height: number,
    width: number,
  ): Promise<boolean> {
    return mode === 'auto' ? this.networks.batchesGuidance(rows, { height, width }) : mode === 'batched';
  }
}

/** The reference's defaults: an uncropped picture of the result's size. */
function sizesOf(
  request: Pick<SampleRequest, 'width' | 'height'> &
    Partial<
      Record<'original_height' | 'original_width' | 'crop_top' | 'crop_left' | 'target_height' | 'target_width', number>
    >,
): Sizes {
  const { width, height } = request;
  return {
    original: [request.original_height ?? height, request.original_width ?? width],
    corner: [request.crop_top ?? 0, request.crop_left ?? 0],
    target: [request.target_height ?? height, request.target_width ?? width],
  };
}
