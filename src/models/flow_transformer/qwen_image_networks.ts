/**
 * The networks of Qwen-Image, Qwen-Image-Edit and Qwen-Image-Layered as our own graphs over a checkpoint's files: Qwen2.5-VL encodes the text, which may speak of
 * pictures that it sees, a transformer paints and an autoencoder for videos decodes. All compute in f32, with 8- or 4-bit weights if requested.
 */
import { MEGAPIXEL } from '../../core/area_sides.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as autoencoder from '../../graphs/autoencoder_kl_qwen_image.ts';
import * as qwenImage from '../../graphs/qwen_image_transformer2d.ts';
import * as tokenGuidance from '../../graphs/token_guidance.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { QwenImageTokenizer } from '../../text/qwen_image_prompts.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { BaseNetworks, Held } from './base_networks.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest, FlowNetworks, SeenPicture } from './flow_networks.ts';
import { KlPictures, type PictureNetwork } from './kl_pictures.ts';
import { QwenSight, SIGHTS } from './qwen_sight.ts';
import { QwenVision, type VisionSettings } from './qwen_vision.ts';
import { QwenVlText } from './qwen_vl_text.ts';

/** Latents per side of the picture for fitting preview colours: more uniform patches than the 16 channels. */
const PREVIEW_SIZE = 32;
/** Networks read a whole multiple of so many tokens of text, so that another prompt seldom needs a new one. */
const MULTIPLE = 64;

export interface QwenImageComponents {
  textEncoder: Component;
  transformer: Component;
  vae: Component;
}

export class QwenImageNetworks extends BaseNetworks implements FlowNetworks {
  readonly usualGuidance = 'cfg_norm';
  readonly config: qwenImage.Config;
  readonly text: QwenVlText;
  readonly pictures: KlPictures;
  readonly sight?: QwenSight;
  readonly #transformer: Component;

  /** @param editing how it looks at pictures; null for one that works from words alone */
  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, vae }: QwenImageComponents,
    tokenizer: QwenImageTokenizer,
    weights: WeightVariant,
    editing: { kind: keyof typeof SIGHTS; settings: VisionSettings } | null,
  ) {
    super(engine, files, 'Qwen-Image', [textEncoder, transformer, vae], weights);
    this.#transformer = this.withLoras(transformer);
    this.config = qwenImage.parseConfig(transformer.config);
    this.text = new QwenVlText(engine, this.shelf, files, textEncoder, tokenizer, weights);
    this.pictures = new KlPictures(engine, this.shelf, vae, autoencoderOf(vae));
    if (editing) {
      const { kind, settings } = editing;
      const vision = new QwenVision(engine, this.shelf, textEncoder, weights, settings);
      const multiple = this.latents.factor * qwenImage.PATCH;
      this.sight = new QwenSight(files.name, kind, vision, this.pictures, multiple);
    }
  }

  get latents(): LatentSpace {
    return this.pictures.latents;
  }

  encodeText(prompt: string, seen?: readonly SeenPicture[]): Promise<EncodedText> {
    return this.text.encode(prompt, seen);
  }

  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeImage(pixels);
  }

  async denoiser(request: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { height, width, frames = 1, texts, shown, guidance, mixes = false } = request;
    const { engine, config } = this;
    const { arithmetic, provider } = engine;
    const dims = [1, qwenImage.channelsOf(config), height, width];
    const extents = shown.map(({ dims: own }) => ({ height: own[2], width: own[3] }));
    const text = paddedTokens(Math.max(...texts.map(({ tensors }) => tensors.prompt_embeds.dims[1])));
    const shape = Object.fromEntries(
      extents.flatMap((one, k) => [
        [`h${k}`, one.height],
        [`w${k}`, one.width],
      ]),
    ) as Record<string, number>;
    const options = { provider, dtype: 'f32' as const, batch: 1, height, width, text, weights: this.weights };
    const own = Array.from({ length: frames }, () => ({ height: height / frames, width }));
    const network = await this.shelf.get('transformer', { height, width, text, ...shape }, () =>
      qwenImage.build(config, this.#transformer.weights, { ...options, shown: extents }),
    );
    const mixing =
      mixes && texts.length > 1
        ? await this.shelf.get('guidance', { height, width }, () =>
            tokenGuidance.build({ ...options, channels: dims[1], patch: qwenImage.PATCH }),
          )
        : null;
    const held = new Held();
    const hold = (tensor: DeviceTensor) => held.hold(tensor);
    try {
      const half = config.attention_head_dim / 2;
      const { cos, sin } = qwenImage.angles(config, text, [...own, ...extents]);
      const rows = cos.length / half;
      const fixed = {
        cos: hold(arithmetic.upload(cos, [rows, half])),
        sin: hold(arithmetic.upload(sin, [rows, half])),
        time_proj: hold(arithmetic.upload(qwenImage.timeProjection(0), [2, 256])),
        ...Object.fromEntries(shown.map((tensor, k) => [`shown_${k}`, tensor])),
      };
      const inputs = texts.map(({ tensors: { prompt_embeds: embeds } }) => {
        const [, tokens, features] = embeds.dims;
        const padded = hold(arithmetic.upload(new Float32Array(text * features), [1, text, features]));
        arithmetic.copy(embeds, 0, padded, 0, tokens * features);
        const mask = hold(arithmetic.upload(qwenImage.wordsMask(tokens, text, rows - text), [1, 1, 1, rows]));
        return { prompt_embeds: padded, mask };
      });
      const outputs = texts.map(() => hold(arithmetic.empty(dims)));
      const mixed = hold(arithmetic.empty(dims));
      const scale = hold(arithmetic.upload(Float32Array.of(guidance), [1]));
      return {
        async predict(sample, timestep) {
          arithmetic.write(fixed.time_proj, qwenImage.timeProjection(timestep));
          for (const [k, words] of inputs.entries()) {
            await engine.run(network, { sample, ...fixed, ...words }, { out_sample: outputs[k] });
          }
          if (!mixing) {
            return outputs;
          }
          const [uncond, cond] = outputs;
          await engine.run(mixing, { cond, uncond, scale }, { mixed });
          return [mixed];
        },
        dispose: () => {
          held.dispose();
        },
      };
    } catch (error) {
      held.dispose();
      throw error;
    }
  }

  decoder(size: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    return this.pictures.decoder(size, purpose);
  }

  course({ height, width }: LatentSize & { frames?: number | undefined }): Omit<FlowCourse, 'steps'> {
    return { tokens: (height / qwenImage.PATCH) * (width / qwenImage.PATCH), shift: 'linear', least: 'step' };
  }

  guidance(scale: number): number {
    return scale;
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  /** With pictures: as if one of usual proportions were given. */
  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width } = request;
    const { sight } = this;
    const { factor } = this.latents;
    const { limit } = this.text.tokenizer;
    const side = Math.sqrt(MEGAPIXEL);
    const shown = sight ? [{ height: side / factor, width: side / factor }] : [];
    const seen = sight ? Math.sqrt(SIGHTS[sight.kind].seen) : 0;
    const tokens = sight ? limit + sight.vision.tokensOf({ width: seen, height: seen }) : limit;
    const text = this.textTokens(tokens);
    const pictures = sight
      ? { ...request, startsFromPicture: true, height: side / factor, width: side / factor }
      : request;
    return Promise.resolve([
      ...(sight ? [sight.vision.planned(this.costs, 1, { width: seen, height: seen })] : []),
      this.text.planned(this.costs, texts, tokens),
      this.plannedTransformer(rows * calls, steps, { height, width, text, shown }),
      ...this.pictures.planned(this.costs, pictures),
    ]);
  }

  /** @param runs in each of the steps */
  protected plannedTransformer(
    runs: number,
    steps: number,
    shape: LatentSize & { text: number; shown: readonly qwenImage.Extent[] },
  ): PlannedNetwork {
    const { weights } = this.#transformer;
    return this.costs.network(
      { name: 'transformer', phase: 'sample', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
      { provider: this.engine.provider, batch: 1, ...shape },
      (options) => qwenImage.build(this.config, weights, options),
    );
  }

  /** Tokens of text that the transformer is built for. @param tokens of a prompt in its frame */
  protected textTokens(tokens: number): number {
    return paddedTokens(tokens - this.text.tokenizer.frame.dropped);
  }
}

const paddedTokens = (tokens: number) => Math.ceil(tokens / MULTIPLE) * MULTIPLE;

function autoencoderOf({ config: values, weights }: Component): PictureNetwork {
  const config = autoencoder.parseConfig(values);
  return {
    latents: {
      channels: config.z_dim,
      factor: autoencoder.factorOf(config),
      scale: 1,
      isTransparent: config.input_channels === 4,
    },
    buildEncoder: (options) => autoencoder.buildEncoder(config, weights, options),
    buildDecoder: (options) => autoencoder.buildDecoder(config, weights, options),
  };
}
