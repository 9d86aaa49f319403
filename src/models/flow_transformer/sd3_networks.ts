/**
 * The networks of Stable Diffusion 3 and 3.5 as our own graphs over a checkpoint's files: two CLIP text encoders and optionally T5 encode
 * the text, a transformer paints and an AutoencoderKL decodes. All compute in f32, with 8- or 4-bit weights if requested.
 */
import { StudioError } from '../../core/errors.ts';
import type { TokenCount, WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as sd3 from '../../graphs/sd3_transformer2d.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { ClipTokenizer } from '../../text/clip_tokenizer.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { BaseNetworks, Held } from './base_networks.ts';
import { ClipTexts, disposeAll, readByT5Alone, tokensOfClip } from './clip_texts.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest, FlowNetworks } from './flow_networks.ts';
import { KlPictures } from './kl_pictures.ts';
import { T5Text } from './t5_text.ts';

/** Tokens that T5 reads, or zeros without T5. */
export const T5_TOKENS = 256;
/** Latents per side of the picture for fitting preview colours: more uniform patches than the 16 channels. */
const PREVIEW_SIZE = 32;
const CLIP_TOKENS = 77;

export interface Sd3Components {
  clips: readonly Component[];
  /** Null for a checkpoint without it, whose prompts are only read by CLIP. */
  t5: Component | null;
  transformer: Component;
  vae: Component;
}

export interface Sd3Tokenizers {
  clips: readonly ClipTokenizer[];
  t5: T5Tokenizer | null;
}

export class Sd3Networks extends BaseNetworks implements FlowNetworks {
  readonly config: sd3.Config;
  readonly clips: ClipTexts;
  readonly t5: T5Text | null;
  readonly pictures: KlPictures;
  readonly #transformer: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { clips, t5, transformer, vae }: Sd3Components,
    tokenizers: Sd3Tokenizers,
    weights: WeightVariant,
  ) {
    super(engine, files, 'Stable Diffusion 3', [...clips, ...(t5 ? [t5] : []), transformer, vae], weights);
    const { shelf } = this;
    this.#transformer = this.withLoras(transformer);
    this.config = sd3.parseConfig(transformer.config);
    this.clips = new ClipTexts(
      engine,
      shelf,
      clips.map((clip) => this.withLoras(clip)),
      tokenizers.clips,
      weights,
      'penultimate',
    );
    this.t5 = t5 && tokenizers.t5 && new T5Text(engine, shelf, files, t5, tokenizers.t5, weights);
    this.pictures = new KlPictures(engine, shelf, vae);
  }

  get latents(): LatentSpace {
    return this.pictures.latents;
  }

  countTokens(prompt: string): TokenCount[] {
    return [...tokensOfClip(this.clips.tokenizers, prompt), ...(this.t5 ? [this.t5.count(prompt)] : [])];
  }

  /** CLIP's tokens side by side, zero-padded, followed by T5's. */
  async encodeText(prompt: string): Promise<EncodedText> {
    const { arithmetic } = this.engine;
    const { joint_attention_dim: width, pooled_projection_dim } = this.config;
    const { encoded, ...read } = await this.clips.encode(prompt);
    const length = CLIP_TOKENS + T5_TOKENS;
    const embeds = arithmetic.upload(new Float32Array(length * width), [1, length, width]);
    const pooled = arithmetic.empty([1, pooled_projection_dim]);
    try {
      let [column, place] = [0, 0];
      for (const one of encoded) {
        const [, tokens, own] = one.states.dims;
        for (let token = 0; token < tokens; token++) {
          arithmetic.copy(one.states, token * own, embeds, token * width + column, own);
        }
        column += own;
        if (one.pooled) {
          arithmetic.copy(one.pooled, 0, pooled, place, one.pooled.dims[1]);
          place += one.pooled.dims[1];
        }
      }
      const tensors = { prompt_embeds: embeds, pooled_projections: pooled };
      if (!this.t5) {
        return { tensors, ...read };
      }
      const { states, tokens, text } = await this.t5.encode(prompt);
      arithmetic.copy(states, 0, embeds, CLIP_TOKENS * width, T5_TOKENS * width);
      states.dispose();
      const { limit } = this.t5.tokenizer;
      return { tensors, tokens, limit, text, notices: readByT5Alone(read) };
    } catch (error) {
      embeds.dispose();
      pooled.dispose();
      throw error;
    } finally {
      disposeAll(encoded);
    }
  }

  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeImage(pixels);
  }

  async denoiser({ height, width, texts, skipped }: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { engine, config, files, weights } = this;
    const { arithmetic } = engine;
    const { weights: tensors } = this.#transformer;
    const skips = skipped !== undefined;
    this.#requireBlocks(skipped ?? []);
    const network = await this.shelf.get('transformer', { height, width, skips: Number(skips) }, ({ provider }) =>
      sd3.build(config, tensors, {
        provider,
        dtype: 'f32',
        batch: 1,
        height,
        width,
        text: CLIP_TOKENS + T5_TOKENS,
        skips,
        weights,
      }),
    );
    const held = new Held();
    const hold = (data: Float32Array<ArrayBuffer>, dims: readonly number[]) => held.hold(arithmetic.upload(data, dims));
    const rows = sd3.positionRows(config, height, width);
    const positions = await readRows(files, tensors.get(sd3.POSITIONS) as StoredTensor, rows);
    const fixed = {
      time_proj: held.hold(arithmetic.empty([1, 256])),
      positions: hold(positions, [rows.length, config.caption_projection_dim]),
    };
    const keep = (without: readonly number[]) =>
      hold(
        Float32Array.from({ length: config.num_layers }, (_, layer) => (without.includes(layer) ? 0 : 1)),
        [config.num_layers],
      );
    const inputs = texts.map(({ tensors: { prompt_embeds, pooled_projections } }, k) => ({
      prompt_embeds,
      pooled_projections,
      ...(skips && { keep: keep(k === texts.length - 1 ? skipped : []) }),
    }));
    const outputs = texts.map(() => held.hold(arithmetic.empty([1, config.in_channels, height, width])));
    return {
      async predict(sample, timestep, wanted = texts.length) {
        arithmetic.write(fixed.time_proj, sd3.timeProjection(timestep));
        for (const [k, own] of inputs.slice(0, wanted).entries()) {
          await engine.run(network, { sample, ...fixed, ...own }, { out_sample: outputs[k] });
        }
        return outputs.slice(0, wanted);
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
    return { tokens: (height / sd3.PATCH) * (width / sd3.PATCH), shift: 'linear', least: 'trained' };
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
    const shape = { provider, batch: 1, height, width, text: CLIP_TOKENS + T5_TOKENS };
    const runs = rows * calls;
    return Promise.resolve([
      ...this.clips.planned(this.costs, texts),
      ...(this.t5 ? [this.t5.planned(this.costs, texts)] : []),
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        shape,
        (options) => sd3.build(this.config, weights, options),
      ),
      ...this.pictures.planned(this.costs, request),
    ]);
  }

  /** @throws StudioError `invalid_operation` for blocks that it does not have */
  #requireBlocks(layers: readonly number[]): void {
    const { num_layers } = this.config;
    const wrong = layers.find((layer) => layer >= num_layers);
    if (wrong !== undefined) {
      throw new StudioError(
        'invalid_operation',
        `"${this.files.name}" has no layer ${wrong} to leave out: its layers are 0 to ${num_layers - 1}; change skip_guidance_layers.`,
      );
    }
  }
}
