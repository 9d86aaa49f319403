/**
 * The networks of ACE-Step 1.5 as graphs of our own over a checkpoint's files: Qwen3 reads the words, three small networks make of them, of the
 * lyrics and of a timbre what one transformer is told, an AutoencoderOobleck encodes and decodes. All compute in f32, on weights of 8 or 4 bits
 * where these are asked for.
 */
import type { SoundLatents } from '../../core/music_model.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Network } from '../../engine/runtime.ts';
import * as detokenizer from '../../graphs/ace_step_audio_token_detokenizer.ts';
import * as audioTokenizer from '../../graphs/ace_step_audio_tokenizer.ts';
import * as encoder from '../../graphs/ace_step_condition_encoder.ts';
import { angles, paddingBias, windowBias, windowDims, type AttentionConfig } from '../../graphs/ace_step_layers.ts';
import * as dit from '../../graphs/ace_step_transformer1d.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as qwen3 from '../../graphs/qwen3.ts';
import type { PlainTokenizer } from '../../text/plain_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import { LayerText } from '../flow_transformer/layer_text.ts';
import { qwen3Reader } from '../flow_transformer/qwen3_text.ts';
import type { EstimatedNetworks, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { OobleckSounds } from './oobleck_sounds.ts';

/** Tokens that are read of the words in their form, and of the lyrics in theirs. */
export const MOST_WORDS = 256;
export const MOST_LYRICS = 2048;
/** Lengths of texts go in such steps, so that a changed word does not reload the networks that it is told to. */
const TEXT_STEP = 256;
/** Seconds of a sound that say what its timbre is. */
export const TIMBRE_SECONDS = 30;
/** What the estimate reckons the texts to be together. */
const USUAL_TEXT = 512;

export interface AceStepComponents {
  textEncoder: Component;
  encoder: Component;
  transformer: Component;
  /** Of covers; a checkpoint may lack them. */
  tokenizer: Component | null;
  detokenizer: Component | null;
  vae: Component;
}

/** What the transformer is told, filled up with what nobody looks at. */
export interface Told {
  /** [rows, width] */
  states: DeviceTensor;
  rows: number;
  /** Rows that count. */
  kept: number;
}

/** One run of the transformer on the CPU's numbers. */
export interface MusicDenoiser {
  /** @param sample [channels, length] @returns a prediction for each of what it is told */
  predict(sample: Float32Array<ArrayBuffer>, timestep: number): Promise<Float32Array<ArrayBuffer>[]>;
  dispose(): void;
}

export class AceStepNetworks extends BaseNetworks implements EstimatedNetworks {
  readonly config: dit.Config;
  readonly encoderConfig: encoder.Config;
  readonly text: LayerText;
  readonly sounds: OobleckSounds;
  readonly covers: { tokenizer: audioTokenizer.Config; detokenizer: detokenizer.Config } | null;
  readonly #parts: AceStepComponents;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    parts: AceStepComponents,
    readonly tokenizer: PlainTokenizer,
    weights: WeightVariant,
  ) {
    const { textEncoder, encoder: told, transformer, tokenizer: codes, detokenizer: latents, vae } = parts;
    const optional = [codes, latents].filter((part) => part !== null);
    super(engine, files, 'ACE-Step', [textEncoder, told, transformer, ...optional, vae], weights);
    this.#parts = parts;
    this.config = dit.parseConfig(transformer.config);
    this.encoderConfig = encoder.parseConfig(told.config);
    this.covers = codes &&
      latents && {
        tokenizer: audioTokenizer.parseConfig(codes.config),
        detokenizer: detokenizer.parseConfig(latents.config),
      };
    const words = {
      limit: MOST_WORDS,
      pad: 0,
      encode: (text: string) => ({ ...tokenizer.encode(text, MOST_WORDS), text }),
    };
    const reader = qwen3Reader(textEncoder, { after: [-1], padded: false });
    this.text = new LayerText(engine, this.shelf, files, words, weights, reader);
    this.sounds = new OobleckSounds(engine, this.shelf, vae);
  }

  get form(): SoundForm {
    const { sampling_rate: rate, audio_channels: channels } = this.sounds.config;
    return { rate, channels, seconds: this.silenceLength / this.latentsPerSecond };
  }

  get latentsPerSecond(): number {
    return this.sounds.config.sampling_rate / this.sounds.hop;
  }

  /** Latents of the silence that the checkpoint brings, which is as long as the longest song. */
  get silenceLength(): number {
    const { shape } = this.#silence;
    return this.#isByChannel ? shape[2] : shape[1];
  }

  /** As the estimate counts: latents along time take the place of a picture's. */
  get latents(): EstimatedNetworks['latents'] {
    return { channels: this.config.audio_acoustic_hidden_dim, factor: 1, scale: 1 };
  }

  /** Guidance is in a distilled checkpoint's weights. */
  get leastGuidance(): number {
    return dit.isTurbo(this.config) ? Infinity : 1;
  }

  /** The first latents of silence, from the beginning again where there are no more. */
  async silence(length: number): Promise<Float32Array<ArrayBuffer>> {
    const rows = Array.from({ length }, (_, row) => row % this.silenceLength);
    if (!this.#isByChannel) {
      return readRows(this.files, this.#silence, rows);
    }
    const channels = this.#silence.shape[1];
    const all = await readRows(
      this.files,
      this.#silence,
      Int32Array.from({ length: channels }, (_, n) => n),
    );
    const at = (row: number, channel: number) => all[channel * this.silenceLength + row];
    return Float32Array.from({ length: length * channels }, (_, n) => at(rows[Math.floor(n / channels)], n % channels));
  }

  /**
   * What the transformer is told of lyrics, timbre and words, in this order.
   * @param text in the form that the model was taught
   */
  async told(text: string, lyrics: ArrayLike<number>, timbre: SoundLatents): Promise<{ told: Told; tokens: number }> {
    const { arithmetic } = this.engine;
    const { hidden_size: width } = this.encoderConfig;
    const held = new Held();
    try {
      const { tensors, tokens } = await this.text.encode(text);
      const words = held.hold(tensors.prompt_embeds);
      const count = words.dims[1];
      const projected = held.hold(await this.#projected(words, count));
      const sung = held.hold(await this.#sung(lyrics));
      const sounding = held.hold(await this.#sounding(timbre));
      const kept = lyrics.length + 1 + count;
      const rows = stepped(kept);
      const states = arithmetic.upload(new Float32Array(rows * width), [rows, width]);
      arithmetic.copy(sung, 0, states, 0, lyrics.length * width);
      arithmetic.copy(sounding, 0, states, lyrics.length * width, width);
      arithmetic.copy(projected, 0, states, (lyrics.length + 1) * width, count * width);
      return { told: { states, rows, kept }, tokens };
    } finally {
      held.dispose();
    }
  }

  /** What guidance leads away from: as much of it as of `told`. */
  async nothing({ rows, kept }: Told): Promise<Told> {
    const { hidden_size: width } = this.encoderConfig;
    const { encoder: component } = this.#parts;
    const table = component.weights.get(encoder.NOTHING) as StoredTensor;
    const all = await readRows(this.files, table, new Int32Array(rows));
    return { states: this.engine.arithmetic.upload(all, [rows, width]), rows, kept };
  }

  /** @param context what it is told of each latent, [in_channels − channels, length] */
  async denoiser(told: readonly Told[], context: Float32Array<ArrayBuffer>, length: number): Promise<MusicDenoiser> {
    const { engine, config } = this;
    const { arithmetic } = engine;
    const { audio_acoustic_hidden_dim: channels, in_channels, patch_size: patch } = config;
    const { weights } = this.#parts.transformer;
    const width = Math.ceil(length / patch) * patch;
    const [{ rows: text }] = told;
    const network = await this.shelf.get('transformer', { width, text }, ({ provider }) =>
      dit.build(config, weights, { ...this.#shape(provider), width, text }),
    );
    const held = new Held();
    const sample = held.hold(arithmetic.empty([1, channels, 1, width]));
    const out = held.hold(arithmetic.empty([1, channels, 1, width]));
    const about = in_channels - channels;
    const fixed = {
      sample,
      context_latents: held.hold(arithmetic.upload(widened(context, length, width), [1, about, 1, width])),
      time_proj: held.hold(arithmetic.upload(dit.timeProjection(1), [1, dit.timeProjection(1).length])),
      ...this.#sight(held, width / patch, config),
    };
    const biases = told.map(({ kept }) => held.hold(arithmetic.upload(paddingBias(text, kept), [1, 1, 1, text])));
    return {
      async predict(x, timestep) {
        arithmetic.write(sample, widened(x, length, width));
        arithmetic.write(fixed.time_proj, dit.timeProjection(timestep));
        const predictions: Float32Array<ArrayBuffer>[] = [];
        for (const [n, { states }] of told.entries()) {
          const own = { encoder_hidden_states: states, text_bias: biases[n] };
          await engine.run(network, { ...fixed, ...own }, { out_sample: out });
          predictions.push(narrowed(await arithmetic.read(out), length, width));
        }
        return predictions;
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  /** A sound's latents as a cover is told of them: through the model's codes and back. */
  async throughCodes({ length, values }: SoundLatents): Promise<SoundLatents> {
    const { covers } = this;
    const { tokenizer: codes, detokenizer: latents } = this.#parts;
    if (!covers || !codes || !latents) {
      throw new Error('This checkpoint makes no covers.');
    }
    const { pool_window_size: pooled, audio_acoustic_hidden_dim: channels } = covers.tokenizer;
    const batch = Math.ceil(length / pooled);
    const all = new Float32Array(batch * pooled * channels);
    all.set(values);
    // What is missing of the last code is silence.
    all.set(await this.silence(batch * pooled - length), values.length);
    const coder = await this.shelf.get('audio_tokenizer', { batch }, ({ provider }) =>
      audioTokenizer.build(covers.tokenizer, codes.weights, { ...this.#shape(provider), batch }),
    );
    const { fsq_dim: width } = covers.tokenizer;
    const held = new Held();
    const hidden = held.hold(this.engine.arithmetic.empty([batch, width]));
    const shortSight = (config: AttentionConfig, tokens: number) => (own: Held) => this.#turns(own, tokens, config);
    try {
      await this.#run(coder, { latents: [all, [batch * pooled, channels]] }, shortSight(covers.tokenizer, pooled + 1), {
        hidden_states: hidden,
      });
      const decoder = await this.shelf.get('audio_token_detokenizer', { batch }, ({ provider }) =>
        detokenizer.build(covers.detokenizer, latents.weights, { ...this.#shape(provider), batch }),
      );
      const out = held.hold(this.engine.arithmetic.empty([batch * pooled, channels]));
      await this.#run(decoder, { hidden_states: hidden }, shortSight(covers.detokenizer, pooled), { latents: out });
      const read = await this.engine.arithmetic.read(out);
      return { length, values: read.slice(0, length * channels) };
    } finally {
      held.dispose();
    }
  }

  planned({ width: length, rows, calls, steps, startsFromPicture }: NetworkRequest): Promise<PlannedNetwork[]> {
    const { config, encoderConfig, costs } = this;
    const { provider } = this.engine;
    const { transformer, encoder: told } = this.#parts;
    const shape = { provider, batch: 1, height: 1 };
    const runs = rows * calls;
    const once = { runs: 1, runsPerStep: 0, precision: 'f32' as const };
    const width = Math.ceil(length / config.patch_size) * config.patch_size;
    const timbre = Math.min(this.silenceLength, Math.ceil(TIMBRE_SECONDS * this.latentsPerSecond));
    const part = (name: string, sequence: number, build: typeof encoder.buildText) =>
      costs.network({ name, ...once }, { ...shape, width: 0, sequence }, (options) =>
        build(encoderConfig, told.weights, options),
      );
    return Promise.resolve([
      this.text.planned(costs, 1),
      part('text_projector', MOST_WORDS, encoder.buildText),
      part('lyric_encoder', TEXT_STEP, encoder.buildLyrics),
      part('timbre_encoder', timbre, encoder.buildTimbre),
      costs.network(
        { name: 'transformer', runs: runs * steps, runsPerStep: runs, precision: 'f32' },
        { ...shape, width, text: USUAL_TEXT },
        (options) => dit.build(config, transformer.weights, options),
      ),
      ...this.sounds.planned(costs, rows, startsFromPicture, length),
    ]);
  }

  get #silence(): StoredTensor {
    const { weights } = this.#parts.encoder;
    return weights.get(this.#isByChannel ? encoder.SILENCE_BY_CHANNEL : encoder.SILENCE) as StoredTensor;
  }

  get #isByChannel(): boolean {
    return this.#parts.encoder.weights.get(encoder.SILENCE_BY_CHANNEL) !== undefined;
  }

  async #projected(words: DeviceTensor, count: number): Promise<DeviceTensor> {
    const { encoderConfig: config } = this;
    const { arithmetic } = this.engine;
    const width = config.text_hidden_dim;
    const network = await this.#part('text_projector', MOST_WORDS, encoder.buildText);
    const text = arithmetic.upload(new Float32Array(MOST_WORDS * width), [MOST_WORDS, width]);
    const out = arithmetic.empty([MOST_WORDS, config.hidden_size]);
    try {
      arithmetic.copy(words, 0, text, 0, count * width);
      await this.engine.run(network, { text }, { hidden_states: out });
      return out;
    } finally {
      text.dispose();
    }
  }

  /** Of lyrics only the rows of the embedding table are read by the language model; their own network does the rest. */
  async #sung(ids: ArrayLike<number>): Promise<DeviceTensor> {
    const { encoderConfig: config } = this;
    const { textEncoder } = this.#parts;
    const sequence = stepped(ids.length);
    const network = await this.#part('lyric_encoder', sequence, encoder.buildLyrics);
    const table = textEncoder.weights.get(qwen3.embeddingTable(textEncoder.weights)) as StoredTensor;
    const rows = new Float32Array(sequence * config.text_hidden_dim);
    rows.set(await readRows(this.files, table, ids));
    const out = this.engine.arithmetic.empty([sequence, config.hidden_size]);
    const inputs = {
      lyrics: [rows, [sequence, config.text_hidden_dim]],
      bias: [paddingBias(sequence, ids.length), [1, 1, 1, sequence]],
    } as const;
    await this.#run(network, inputs, (held) => this.#sight(held, sequence, config, ids.length), { hidden_states: out });
    return out;
  }

  async #sounding({ length, values }: SoundLatents): Promise<DeviceTensor> {
    const { encoderConfig: config } = this;
    const network = await this.#part('timbre_encoder', length, encoder.buildTimbre);
    const out = this.engine.arithmetic.empty([1, config.hidden_size]);
    const inputs = { timbre: [values, [length, config.timbre_hidden_dim]] } as const;
    await this.#run(network, inputs, (held) => this.#sight(held, length, config), { hidden_states: out });
    return out;
  }

  #part(name: string, sequence: number, build: typeof encoder.buildText): Promise<Network> {
    const { weights } = this.#parts.encoder;
    return this.shelf.get(name, { sequence }, ({ provider }) =>
      build(this.encoderConfig, weights, { ...this.#shape(provider), sequence }),
    );
  }

  #shape(provider: Engine['provider']) {
    return { provider, dtype: 'f32' as const, batch: 1, height: 1, width: 0, weights: this.weights };
  }

  /** Runs a network of attention on numbers, or on what is on the device already. */
  async #run(
    network: Network,
    inputs: Readonly<Record<string, DeviceTensor | readonly [Float32Array<ArrayBuffer>, readonly number[]]>>,
    sight: (held: Held) => Record<string, DeviceTensor>,
    outputs: Record<string, DeviceTensor>,
  ): Promise<void> {
    const held = new Held();
    const own = Object.entries(inputs).map(([name, value]): [string, DeviceTensor] => [
      name,
      'ort' in value ? value : held.hold(this.engine.arithmetic.upload(value[0], value[1])),
    ]);
    try {
      await this.engine.run(network, { ...Object.fromEntries(own), ...sight(held) }, outputs);
    } finally {
      held.dispose();
    }
  }

  /** What `sightInputs` of a graph asks for. */
  #sight(held: Held, tokens: number, config: AttentionConfig, kept = tokens): Record<string, DeviceTensor> {
    const { arithmetic } = this.engine;
    const dims = windowDims(tokens, config.sliding_window);
    return {
      ...this.#turns(held, tokens, config),
      ...(dims && { window: held.hold(arithmetic.upload(windowBias(tokens, config.sliding_window, kept), dims)) }),
    };
  }

  #turns(held: Held, tokens: number, config: AttentionConfig): Record<'cos' | 'sin', DeviceTensor> {
    const { arithmetic } = this.engine;
    const { cos, sin } = angles(config, tokens);
    const half = [tokens, config.head_dim / 2];
    return { cos: held.hold(arithmetic.upload(cos, half)), sin: held.hold(arithmetic.upload(sin, half)) };
  }
}

/** The next length of texts that networks are built for. */
function stepped(tokens: number): number {
  return Math.ceil(tokens / TEXT_STEP) * TEXT_STEP;
}

/** Rows of `length` as rows of `width`, filled up with zeros. */
function widened(rows: Float32Array<ArrayBuffer>, length: number, width: number): Float32Array<ArrayBuffer> {
  if (length === width) {
    return rows;
  }
  const all = new Float32Array((rows.length / length) * width);
  for (let row = 0; row * length < rows.length; row++) {
    all.set(rows.subarray(row * length, (row + 1) * length), row * width);
  }
  return all;
}

/** The way back from {@link widened}. */
function narrowed(rows: Float32Array<ArrayBuffer>, length: number, width: number): Float32Array<ArrayBuffer> {
  if (length === width) {
    return rows;
  }
  const all = new Float32Array((rows.length / width) * length);
  for (let row = 0; row * width < rows.length; row++) {
    all.set(rows.subarray(row * width, row * width + length), row * length);
  }
  return all;
}
