/**
 * The networks of Stable Audio as graphs of our own over a checkpoint's files: T5 reads, a projection adds the seconds, one transformer
 * samples, an AutoencoderOobleck decodes. All compute in f32, on weights of 8 or 4 bits where these are asked for.
 */
import type { WeightVariant } from '../../core/model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import type { Engine } from '../../engine/engine.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as dit from '../../graphs/stable_audio_dit.ts';
import * as projection from '../../graphs/stable_audio_projection.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import type { FlowDenoiser } from '../flow_transformer/flow_networks.ts';
import { T5Text, type T5States } from '../flow_transformer/t5_text.ts';
import type { EstimatedNetworks, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { OobleckSounds } from './oobleck_sounds.ts';
import type { SoundConditions } from './sound_texts.ts';

export interface StableAudioComponents {
  t5: Component;
  projection: Component;
  transformer: Component;
  vae: Component;
}

export class StableAudioNetworks extends BaseNetworks implements EstimatedNetworks {
  readonly config: dit.Config;
  readonly projection: projection.Config;
  readonly t5: T5Text;
  readonly sounds: OobleckSounds;
  readonly #transformer: Component;
  readonly #projection: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { t5, projection: projector, transformer, vae }: StableAudioComponents,
    tokenizer: T5Tokenizer,
    weights: WeightVariant,
  ) {
    super(engine, files, 'Stable Audio', [t5, projector, transformer, vae], weights);
    this.#transformer = transformer;
    this.#projection = projector;
    this.config = dit.parseConfig(transformer.config);
    this.projection = projection.parseConfig(projector.config);
    this.t5 = new T5Text(engine, this.shelf, files, t5, tokenizer, weights, true);
    this.sounds = new OobleckSounds(engine, this.shelf, vae);
  }

  get form(): SoundForm {
    const { sampling_rate: rate, audio_channels: channels } = this.sounds.config;
    return { rate, channels, seconds: (this.config.sample_size * this.sounds.hop) / rate };
  }

  /** As the estimate counts: latents along time take the place of a picture's. */
  get latents(): EstimatedNetworks['latents'] {
    return { channels: this.config.in_channels, factor: 1, scale: 1 };
  }

  /**
   * @param prompt null = no words at all, as the transformer was taught to be led away from
   * @param from where the sound begins within the whole, and where it ends, in seconds
   */
  async conditions(prompt: string | null, from: number, until: number): Promise<SoundConditions> {
    const { arithmetic } = this.engine;
    const { conditioning_dim: width } = this.projection;
    const { limit } = this.t5.tokenizer;
    const held = new Held();
    const read: T5States = prompt === null ? this.#nothing() : await this.t5.encode(prompt);
    held.hold(read.states);
    const states = arithmetic.upload(new Float32Array((limit + 2) * width), [limit + 2, width]);
    const whole = arithmetic.empty([1, 2 * width]);
    try {
      const kept = Math.min(read.tokens, limit);
      const waves = await this.#waves(from, until);
      const network = await this.#projector(waves);
      const outputs = {
        text_hidden_states: held.hold(arithmetic.empty([limit, width])),
        start_hidden_states: held.hold(arithmetic.empty([1, width])),
        end_hidden_states: held.hold(arithmetic.empty([1, width])),
      };
      const inputs = {
        text: read.states,
        mask: held.hold(arithmetic.upload(new Float32Array(limit).fill(1, 0, kept), [limit, 1])),
        start: held.hold(arithmetic.upload(waves[0], [1, waves[0].length])),
        end: held.hold(arithmetic.upload(waves[1], [1, waves[1].length])),
      };
      await this.engine.run(network, inputs, outputs);
      const seconds = [outputs.start_hidden_states, outputs.end_hidden_states];
      seconds.forEach((token, n) => {
        arithmetic.copy(token, 0, whole, n * width, width);
      });
      if (prompt !== null) {
        arithmetic.copy(outputs.text_hidden_states, 0, states, 0, limit * width);
        seconds.forEach((token, n) => {
          arithmetic.copy(token, 0, states, (limit + n) * width, width);
        });
      }
      return { states, whole, tokens: read.tokens, text: read.text };
    } catch (error) {
      states.dispose();
      whole.dispose();
      throw error;
    } finally {
      held.dispose();
    }
  }

  /** For one sound at a time; gives a prediction for each of the conditions, which outlive it. */
  async denoiser(conditions: readonly SoundConditions[]): Promise<FlowDenoiser> {
    const { engine, config, files, weights } = this;
    const { arithmetic } = engine;
    const { sample_size: length, in_channels: channels } = config;
    const { weights: tensors } = this.#transformer;
    const text = this.t5.tokenizer.limit + 2;
    const network = await this.shelf.get('transformer', { text }, ({ provider }) =>
      dit.build(config, tensors, { provider, dtype: 'f32', batch: 1, height: 1, width: length, text, weights }),
    );
    const frequencies = await readRows(files, tensors.get(dit.FREQUENCIES) as StoredTensor, [0]);
    const held = new Held();
    const { cos, sin } = dit.angles(config);
    const turns = [length + 1, config.attention_head_dim / 4];
    const fixed = {
      time_proj: held.hold(arithmetic.empty([1, config.time_proj_dim])),
      cos: held.hold(arithmetic.upload(cos, turns)),
      sin: held.hold(arithmetic.upload(sin, turns)),
    };
    const outputs = conditions.map(() => held.hold(arithmetic.empty([1, channels, 1, length])));
    return {
      async predict(sample, timestep, wanted = conditions.length) {
        arithmetic.write(fixed.time_proj, dit.timeProjection(timestep, frequencies));
        for (const [k, { states, whole }] of conditions.slice(0, wanted).entries()) {
          const own = { encoder_hidden_states: states, global_hidden_states: whole };
          await engine.run(network, { sample, ...fixed, ...own }, { out_sample: outputs[k] });
        }
        return outputs.slice(0, wanted);
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  planned({ rows, calls, steps, texts, startsFromPicture }: NetworkRequest): Promise<PlannedNetwork[]> {
    const { config, t5 } = this;
    const { provider } = this.engine;
    const { weights } = this.#transformer;
    const shape = { provider, batch: 1, height: 1, width: config.sample_size, text: t5.tokenizer.limit + 2 };
    const runs = rows * calls;
    return Promise.resolve([
      t5.planned(this.costs, texts),
      this.costs.network(
        { name: 'transformer', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        shape,
        (options) => dit.build(config, weights, options),
      ),
      ...this.sounds.planned(this.costs, rows, startsFromPicture, config.sample_size),
    ]);
  }

  /** States that no words gave. */
  #nothing(): T5States {
    const { limit } = this.t5.tokenizer;
    const { text_encoder_dim: width } = this.projection;
    const states = this.engine.arithmetic.upload(new Float32Array(limit * width), [1, limit, width]);
    return { states, tokens: 0, text: '' };
  }

  /** What the projection takes of both numbers. */
  #waves(from: number, until: number): Promise<Float32Array<ArrayBuffer>[]> {
    const seconds = { start: from, end: until };
    return Promise.all(
      projection.NUMBERS.map(async (number) => {
        const tensor = this.#projection.weights.get(projection.frequenciesOf(number));
        return projection.secondsProjection(
          this.projection,
          seconds[number],
          tensor ? await readRows(this.files, tensor, [0]) : new Float32Array(0),
        );
      }),
    );
  }

  #projector([waves]: readonly Float32Array[]) {
    const { weights } = this;
    const sequence = this.t5.tokenizer.limit;
    const frequencies = (waves.length - 1) / 2;
    return this.shelf.get('projection_model', { sequence, frequencies }, ({ provider }) =>
      projection.build(this.projection, this.#projection.weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        height: 0,
        width: 0,
        sequence,
        frequencies,
        weights,
      }),
    );
  }
}
