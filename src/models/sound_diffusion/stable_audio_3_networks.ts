/**
 * The networks of Stable Audio 3 as graphs of our own over a checkpoint's files: T5Gemma reads, one transformer samples as many latents as the sound
 * needs, an AutoencoderSAME decodes. All compute in f32, on weights of 8 or 4 bits where these are asked for.
 */
import type { WeightVariant } from '../../core/model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as dit from '../../graphs/stable_audio3_dit.ts';
import type { GemmaTokenizer } from '../../text/gemma_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import type { FlowDenoiser } from '../flow_transformer/flow_networks.ts';
import type { EstimatedNetworks, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { DurationEmbedder } from './duration_embedder.ts';
import { SameSounds } from './same_sounds.ts';
import type { SoundConditions } from './sound_texts.ts';
import { storedNumbers } from './stored_numbers.ts';
import { T5GemmaText } from './t5gemma_text.ts';

export interface StableAudio3Components {
  textEncoder: Component;
  duration: Component;
  transformer: Component;
  vae: Component;
}

export class StableAudio3Networks extends BaseNetworks implements EstimatedNetworks {
  readonly config: dit.Config;
  readonly text: T5GemmaText;
  readonly duration: DurationEmbedder;
  readonly sounds: SameSounds;
  readonly #transformer: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, duration, transformer, vae }: StableAudio3Components,
    tokenizer: GemmaTokenizer,
    weights: WeightVariant,
  ) {
    super(engine, files, 'Stable Audio 3', [textEncoder, duration, transformer, vae], weights);
    this.#transformer = transformer;
    this.config = dit.parseConfig(transformer.config);
    this.text = new T5GemmaText(engine, this.shelf, files, textEncoder, tokenizer, weights);
    this.duration = new DurationEmbedder(duration);
    this.sounds = new SameSounds(engine, this.shelf, vae);
  }

  get form(): SoundForm {
    const { sampling_rate: rate, audio_channels: channels } = this.sounds.config;
    return { rate, channels, seconds: this.duration.config.max_val };
  }

  get latentsPerSecond(): number {
    return this.sounds.config.sampling_rate / this.sounds.hop;
  }

  /** As the estimate counts: latents along time take the place of a picture's. */
  get latents(): EstimatedNetworks['latents'] {
    return { channels: this.config.io_channels, factor: 1, scale: 1 };
  }

  /** Where a second lies among the latents. */
  placeOf(second: number): number {
    // In the order in which the reference computes it.
    return (second * this.sounds.config.sampling_rate) / this.sounds.hop;
  }

  /** Words, what stands in place of padding, and the duration, which is also told by itself. */
  async conditions(prompt: string, seconds: number): Promise<SoundConditions> {
    const { arithmetic } = this.engine;
    const { cond_token_dim: width } = this.config;
    const { limit } = this.text.tokenizer;
    const embedded = await this.duration.embed(this.files, seconds);
    const padding = await storedNumbers(this.files, this.#transformer, dit.PADDING, width);
    const { states: read, kept, tokens, text } = await this.text.encode(prompt);
    try {
      const rows = new Float32Array((limit + 1) * width);
      for (let row = kept; row < limit; row++) {
        rows.set(padding, row * width);
      }
      rows.set(embedded, limit * width);
      const states = arithmetic.upload(rows, [limit + 1, width]);
      arithmetic.copy(read, 0, states, 0, kept * width);
      return { states, whole: arithmetic.upload(embedded, [1, width]), tokens, text };
    } finally {
      read.dispose();
    }
  }

  /**
   * For one sound at a time; gives a prediction for each of the conditions, which outlive it.
   * @param kept what is to stay, [length, local_add_cond_dim]; null = nothing
   */
  async denoiser(
    conditions: readonly SoundConditions[],
    length: number,
    kept: Float32Array<ArrayBuffer> | null,
  ): Promise<FlowDenoiser> {
    const { engine, config } = this;
    const { arithmetic } = engine;
    const { io_channels: channels, num_memory_tokens: memory } = config;
    const { weights } = this.#transformer;
    const text = this.text.tokenizer.limit + 1;
    const shape = { text, width: length };
    const keeps = kept !== null;
    const network = await this.shelf.get('transformer', { ...shape, keeps: Number(keeps) }, ({ provider }) =>
      dit.build(config, weights, {
        ...shape,
        keeps,
        provider,
        dtype: 'f32',
        batch: 1,
        height: 1,
        weights: this.weights,
      }),
    );
    const speeds = await storedNumbers(this.files, this.#transformer, dit.SPEEDS, dit.turnedOf(config) / 2);
    const { cos, sin } = dit.angles(speeds, memory + length);
    const turns = [memory + length, speeds.length];
    const held = new Held();
    const fixed = {
      time_proj: held.hold(arithmetic.empty([1, config.timestep_features_dim])),
      cos: held.hold(arithmetic.upload(cos, turns)),
      sin: held.hold(arithmetic.upload(sin, turns)),
      ...(kept && { local_add_cond: held.hold(arithmetic.upload(kept, [length, config.local_add_cond_dim])) }),
    };
    const outputs = conditions.map(() => held.hold(arithmetic.empty([1, channels, 1, length])));
    return {
      async predict(sample, timestep, wanted = conditions.length) {
        arithmetic.write(fixed.time_proj, dit.timeProjection(config, timestep));
        for (const [k, { states, whole }] of conditions.slice(0, wanted).entries()) {
          const own: Record<string, DeviceTensor> = { encoder_hidden_states: states, global_hidden_states: whole };
          await engine.run(network, { sample, ...fixed, ...own }, { out_sample: outputs[k] });
        }
        return outputs.slice(0, wanted);
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  planned({ width, rows, calls, steps, texts, startsFromPicture }: NetworkRequest): Promise<PlannedNetwork[]> {
    const { config, text } = this;
    const { weights } = this.#transformer;
    const { provider } = this.engine;
    const shape = { provider, batch: 1, height: 1, width, text: text.tokenizer.limit + 1, keeps: startsFromPicture };
    const runs = rows * calls;
    return Promise.resolve([
      text.planned(this.costs, texts),
      this.costs.network(
        { name: 'transformer', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        shape,
        (options) => dit.build(config, weights, options),
      ),
      ...this.sounds.planned(this.costs, rows, startsFromPicture, width),
    ]);
  }
}
