/**
 * The networks of FLUX.1 as our own graphs over a checkpoint's files: T5 encodes the text, CLIP its pooled form, a transformer paints and
 * an AutoencoderKL decodes. All compute in f32, with 8- or 4-bit weights if requested.
 */
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as flux from '../../graphs/flux_transformer2d.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { ClipTokenizer } from '../../text/clip_tokenizer.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { BaseNetworks, Held } from './base_networks.ts';
import { ClipTexts, readByT5Alone, tokensOfClip } from './clip_texts.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest, FlowNetworks } from './flow_networks.ts';
import { KlPictures } from './kl_pictures.ts';
import { T5Text } from './t5_text.ts';

/** Tokens of a prompt that T5 reads. */
export const T5_TOKENS = 512;
/** Latents per side of the picture for fitting preview colours: more uniform patches than the 16 channels. */
const PREVIEW_SIZE = 32;

export interface Flux1Components {
  clip: Component;
  t5: Component;
  transformer: Component;
  vae: Component;
}

export class Flux1Networks extends BaseNetworks implements FlowNetworks {
  /** It was distilled to need no negative prompt. */
  readonly leastGuidance = Infinity;
  readonly config: flux.Config;
  readonly clip: ClipTexts;
  readonly t5: T5Text;
  readonly pictures: KlPictures;
  readonly #transformer: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { clip, t5, transformer, vae }: Flux1Components,
    tokenizers: { clip: ClipTokenizer; t5: T5Tokenizer },
    weights: WeightVariant,
  ) {
    super(engine, files, 'FLUX.1', [clip, t5, transformer, vae], weights);
    const { shelf } = this;
    this.#transformer = this.withLoras(transformer);
    this.config = flux.parseConfig(transformer.config);
    this.clip = new ClipTexts(engine, shelf, [this.withLoras(clip)], [tokenizers.clip], weights, 'last');
    this.t5 = new T5Text(engine, shelf, files, t5, tokenizers.t5, weights);
    this.pictures = new KlPictures(engine, shelf, vae);
  }

  get latents(): LatentSpace {
    return this.pictures.latents;
  }

  countTokens(prompt: string): TokenCount[] {
    return [...tokensOfClip(this.clip.tokenizers, prompt), this.t5.count(prompt)];
  }

  async encodeText(prompt: string): Promise<EncodedText> {
    const {
      encoded: [{ states: words, pooled }],
      ...read
    } = await this.clip.encode(prompt);
    words.dispose();
    try {
      const { states, tokens, text } = await this.t5.encode(prompt);
      const tensors = { prompt_embeds: states, pooled_projections: pooled as DeviceTensor };
      return { tensors, tokens, limit: T5_TOKENS, text, notices: readByT5Alone(read) };
    } catch (error) {
      pooled?.dispose();
      throw error;
    }
  }

  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeImage(pixels);
  }

  async denoiser({ height, width, texts, guidance }: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { engine, config, weights } = this;
    const { arithmetic } = engine;
    const network = await this.shelf.get('transformer', { height, width }, ({ provider }) =>
      flux.build(config, this.#transformer.weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        height,
        width,
        text: T5_TOKENS,
        weights,
      }),
    );
    const held = new Held();
    const half = config.attention_head_dim / 2;
    const { cos, sin } = flux.angles(config, T5_TOKENS, height, width);
    const hold = (data: Float32Array<ArrayBuffer>, dims: readonly number[]) => held.hold(arithmetic.upload(data, dims));
    const fixed = {
      time_proj: held.hold(arithmetic.empty([1, 256])),
      cos: hold(cos, [cos.length / half, half]),
      sin: hold(sin, [sin.length / half, half]),
      ...(config.guidance_embeds && { guidance_proj: hold(flux.guidanceProjection(guidance), [1, 256]) }),
    };
    const channels = flux.channelsOf(config);
    const outputs = texts.map(() => held.hold(arithmetic.empty([1, channels, height, width])));
    return {
      async predict(sample, timestep) {
        arithmetic.write(fixed.time_proj, flux.timeProjection(timestep));
        for (const [k, { tensors }] of texts.entries()) {
          await engine.run(network, { sample, ...fixed, ...tensors }, { out_sample: outputs[k] });
        }
        return outputs;
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  decoder(size: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    return this.pictures.decoder(size, purpose);
  }

  course({ height, width }: LatentSize): Omit<FlowCourse, 'steps'> {
    return { tokens: (height / flux.PATCH) * (width / flux.PATCH), shift: 'linear', least: 'step' };
  }

  guidance(scale: number): number {
    return scale;
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width } = request;
    const { weights } = this.#transformer;
    const { provider } = this.engine;
    const runs = rows * calls;
    return Promise.resolve([
      ...this.clip.planned(this.costs, texts),
      this.t5.planned(this.costs, texts),
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        { provider, batch: 1, height, width, text: T5_TOKENS },
        (options) => flux.build(this.config, weights, options),
      ),
      ...this.pictures.planned(this.costs, request),
    ]);
  }
}
