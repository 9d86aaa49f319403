/**
 * The networks of Z-Image as our own graphs over a checkpoint's files: Qwen3 encodes the text, a transformer paints and an AutoencoderKL
 * decodes. All compute in f32, with 8- or 4-bit weights if requested: they were trained in bfloat16, whose range exceeds f16's.
 */
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as zImage from '../../graphs/z_image_transformer2d.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { ChatTokenizer } from '../../text/chat_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { BaseNetworks, Held } from './base_networks.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest, FlowNetworks } from './flow_networks.ts';
import { KlPictures } from './kl_pictures.ts';
import { LayerText } from './layer_text.ts';
import { qwen3Reader } from './qwen3_text.ts';

/** Latents per side of the picture for fitting preview colours: more uniform patches than the 16 channels. */
const PREVIEW_SIZE = 32;
/** Length of prompts not known yet: the longest that are read. */
const PLANNED_TOKENS = 512;

export interface ZImageComponents {
  textEncoder: Component;
  transformer: Component;
  vae: Component;
}

export class ZImageNetworks extends BaseNetworks implements FlowNetworks {
  /** diffusers' Z-Image pipeline guides at any scale above 0. */
  readonly leastGuidance = 0;
  readonly config: zImage.Config;
  readonly text: LayerText;
  readonly pictures: KlPictures;
  readonly #transformer: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, vae }: ZImageComponents,
    tokenizer: ChatTokenizer,
    weights: WeightVariant,
  ) {
    super(engine, files, 'Z-Image', [textEncoder, transformer, vae], weights);
    this.#transformer = this.withLoras(transformer);
    this.config = zImage.parseConfig(transformer.config);
    const reader = qwen3Reader(textEncoder, { after: [-2], padded: false });
    this.text = new LayerText(engine, this.shelf, files, tokenizer, weights, reader);
    this.pictures = new KlPictures(engine, this.shelf, vae);
  }

  get latents(): LatentSpace {
    return this.pictures.latents;
  }

  countTokens(prompt: string): TokenCount[] {
    return [this.text.count(prompt)];
  }

  encodeText(prompt: string): Promise<EncodedText> {
    return this.text.encode(prompt);
  }

  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeImage(pixels);
  }

  async denoiser({ height, width, texts }: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { engine, config } = this;
    const { arithmetic } = engine;
    const half = config.dim / config.n_heads / 2;
    const lengths = texts.map(({ tensors }) => tensors.prompt_embeds.dims[1]);
    const text = Math.max(...lengths.map(zImage.textLength));
    const masked = lengths.some((tokens) => zImage.textLength(tokens) < text);
    const held = new Held();
    const hold = (tensor: DeviceTensor) => held.hold(tensor);
    try {
      // What depends on the prompt alone is the same at every step, so it is computed once.
      const inputs: Record<string, DeviceTensor>[] = [];
      for (const [k, tokens] of lengths.entries()) {
        const size = { height, width, tokens, text };
        const { cos, sin } = zImage.angles(config, size);
        const rows = cos.length / half;
        inputs.push({
          context: hold(await this.#context(texts[k].tensors.prompt_embeds, text)),
          cos: hold(arithmetic.upload(cos, [rows, half])),
          sin: hold(arithmetic.upload(sin, [rows, half])),
          ...(masked && { mask: hold(arithmetic.upload(zImage.streamMask(size), [1, 1, 1, rows])) }),
        });
      }
      const network = await this.shelf.get(
        'transformer',
        { height, width, text, masked: Number(masked) },
        ({ provider }) =>
          zImage.build(config, this.#transformer.weights, {
            provider,
            dtype: 'f32',
            batch: 1,
            height,
            width,
            text,
            masked,
            weights: this.weights,
          }),
      );
      const time = hold(arithmetic.empty([1, 256]));
      const outputs = inputs.map(() => hold(arithmetic.empty([1, config.in_channels, height, width])));
      return {
        async predict(sample, timestep) {
          arithmetic.write(time, zImage.timeProjection(config, timestep));
          for (const [k, own] of inputs.entries()) {
            await engine.run(network, { sample, time_proj: time, ...own }, { out_sample: outputs[k] });
          }
          return outputs;
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

  course({ height, width }: LatentSize): Omit<FlowCourse, 'steps'> {
    return { tokens: (height / zImage.PATCH) * (width / zImage.PATCH), shift: 'linear', least: 'step' };
  }

  /** Its pipeline adds the difference to the prompt's prediction, others to the negative prompt's. */
  guidance(scale: number): number {
    return scale + 1;
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width } = request;
    const { weights } = this.#transformer;
    const { provider } = this.engine;
    const shape = { provider, batch: 1, height, width };
    const text = zImage.textLength(PLANNED_TOKENS);
    const runs = rows * calls;
    return Promise.resolve([
      this.text.planned(this.costs, texts),
      this.costs.network(
        { name: 'transformer_text', phase: 'sample', runs: texts, runsPerStep: 0, precision: 'f32' },
        { ...shape, tokens: PLANNED_TOKENS },
        (options) => zImage.buildContext(this.config, weights, options),
      ),
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        { ...shape, text, masked: calls > 1 },
        (options) => zImage.build(this.config, weights, options),
      ),
      ...this.pictures.planned(this.costs, request),
    ]);
  }

  /** @returns [1, `length`, dim], masked after the prompt's own part */
  async #context(embeddings: DeviceTensor, length: number): Promise<DeviceTensor> {
    const { config, engine } = this;
    const { arithmetic } = engine;
    const tokens = embeddings.dims[1];
    const own = zImage.textLength(tokens);
    const network = await this.shelf.get('transformer_text', { tokens }, ({ provider }) =>
      zImage.buildContext(config, this.#transformer.weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        height: 0,
        width: 0,
        tokens,
        weights: this.weights,
      }),
    );
    const half = config.dim / config.n_heads / 2;
    const { cos, sin } = zImage.textAngles(config, tokens);
    const held = [
      arithmetic.upload(cos, [own, half]),
      arithmetic.upload(sin, [own, half]),
      arithmetic.empty([1, own, config.dim]),
    ];
    const context = arithmetic.upload(new Float32Array(length * config.dim), [1, length, config.dim]);
    try {
      await engine.run(network, { prompt_embeds: embeddings, cos: held[0], sin: held[1] }, { context: held[2] });
      arithmetic.copy(held[2], 0, context, 0, own * config.dim);
      return context;
    } catch (error) {
      context.dispose();
      throw error;
    } finally {
      held.forEach((tensor) => {
        tensor.dispose();
      });
    }
  }
}
