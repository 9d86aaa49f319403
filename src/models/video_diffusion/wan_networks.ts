/**
 * The networks of Wan as our own graphs over a checkpoint's files: UMT5 reads, a transformer makes the video and an AutoencoderKLWan decodes it.
 * All compute in f32, with 8- or 4-bit weights if requested: they were trained in bfloat16, whose range exceeds f16's.
 */
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Network } from '../../engine/runtime.ts';
import * as wan from '../../graphs/wan_transformer3d.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import { cleanPrompt } from '../../text/prompt_cleaning.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest } from '../flow_transformer/flow_networks.ts';
import { T5Text } from '../flow_transformer/t5_text.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import type { FlowVideoNetworks } from './flow_video_model.ts';
import { putFrame } from './latent_frames.ts';
import { WanVideos } from './wan_videos.ts';

/** Tokens of the text, padding included. */
export const TEXT_TOKENS = 512;
/** Latents per side of the picture for fitting preview colours: more uniform patches than the channels. */
const PREVIEW_SIZE = 32;

export interface WanComponents {
  textEncoder: Component;
  transformer: Component;
  /** The expert for the little noise at the end, if there are two. */
  second: Component | null;
  vae: Component;
}

export interface WanHabits {
  /** The share of training time from which on there is so much noise that the first expert is asked; null = there is one. */
  boundary: number | null;
  /** Whether the first frame may be given, and is told a time of its own then. */
  expandsTimesteps: boolean;
}

/** Timesteps of training. */
const TRAINED = 1000;
/** Channels that say which frames are given, one for each frame of a latent. */
export const MASK_CHANNELS = 4;

export class WanNetworks extends BaseNetworks implements FlowVideoNetworks {
  readonly config: wan.Config;
  readonly text: T5Text;
  readonly videos: WanVideos;
  /** The first of two is for much noise. */
  readonly #experts: readonly Component[];

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, second, vae }: WanComponents,
    readonly habits: WanHabits,
    tokenizer: T5Tokenizer,
    weights: WeightVariant,
  ) {
    const experts = [transformer, ...(second ? [second] : [])];
    super(engine, files, 'Wan', [textEncoder, ...experts, vae], weights);
    // A LoRA does not say which of two experts it is for.
    this.#experts = second ? experts : [this.withLoras(transformer)];
    this.config = wan.parseConfig(transformer.config);
    this.text = new T5Text(engine, this.shelf, files, textEncoder, tokenizer, weights, true);
    this.videos = new WanVideos(engine, this.shelf, vae);
  }

  get latents(): LatentSpace {
    return this.videos.latents;
  }

  /** What follows the words is told to the transformer as zeros. */
  async encodeText(prompt: string): Promise<EncodedText> {
    const { arithmetic } = this.engine;
    const { states, tokens, text } = await this.text.encode(cleanPrompt(prompt));
    const { limit } = this.text.tokenizer;
    const width = this.text.config.d_model;
    const embeds = arithmetic.upload(new Float32Array(limit * width), [1, limit, width]);
    arithmetic.copy(states, 0, embeds, 0, Math.min(tokens, limit) * width);
    states.dispose();
    return { tensors: { prompt_embeds: embeds }, tokens, limit, text };
  }

  encodeImage(): Promise<EncodedPicture> {
    throw new Error('A picture is encoded as the beginning of a video.');
  }

  /**
   * What the transformer is shown of a video that begins with a picture: where it is shown channels of their own, which frames are given, and the
   * video with nothing but them; else its first frame.
   */
  async begun(picture: DeviceTensor, frames: number): Promise<DeviceTensor> {
    const shown = wan.shownChannels(this.config);
    if (shown === 0) {
      return this.videos.encode(picture, 1);
    }
    const { arithmetic } = this.engine;
    const latents = await this.videos.encode(picture, frames);
    const [, channels, rows, width] = latents.dims;
    const plane = rows * width;
    const given = new Float32Array((MASK_CHANNELS + channels) * plane);
    for (let channel = 0; channel < MASK_CHANNELS; channel++) {
      given.fill(1, channel * plane, channel * plane + plane / frames);
    }
    const condition = arithmetic.upload(given, [1, MASK_CHANNELS + channels, rows, width]);
    arithmetic.copy(latents, 0, condition, MASK_CHANNELS * plane, channels * plane);
    latents.dispose();
    return condition;
  }

  /** Puts the frame that was given in the place of the first that was made, as no noise was taken from it. */
  settle(latents: DeviceTensor, frames: number, condition: DeviceTensor): void {
    if (wan.shownChannels(this.config) === 0) {
      putFrame(this.engine.arithmetic, condition, latents, frames, 0);
    }
  }

  async denoiser({ height: rows, width, frames = 1, texts, shown }: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { engine, config, habits } = this;
    const { arithmetic } = engine;
    const shape = { frames, height: rows / frames, width };
    const { cos, sin } = wan.angles(config, shape);
    const half = config.attention_head_dim / 2;
    const turns = [cos.length / half, half];
    const isBegun = shown.length > 0 && wan.shownChannels(config) === 0;
    const held = new Held();
    const hold = (tensor: DeviceTensor) => held.hold(tensor);
    try {
      const fixed = {
        time_proj: hold(arithmetic.empty([isBegun ? 2 : 1, config.freq_dim])),
        cos: hold(arithmetic.upload(cos, turns)),
        sin: hold(arithmetic.upload(sin, turns)),
        ...(shown.length > 0 && { condition: shown[0] }),
      };
      const outputs = texts.map(() => hold(arithmetic.empty([1, wan.channelsOf(config), rows, width])));
      const networkAt = (timestep: number) =>
        this.#expert(habits.boundary !== null && timestep < habits.boundary * TRAINED ? 1 : 0, { ...shape, isBegun });
      await networkAt(TRAINED);
      return {
        async predict(sample, timestep) {
          const network = await networkAt(timestep);
          const times = isBegun ? [0, timestep] : [timestep];
          const waves = times.flatMap((time) => [...wan.timeProjection(config, time)]);
          arithmetic.write(fixed.time_proj, Float32Array.from(waves));
          for (const [k, { tensors }] of texts.entries()) {
            await engine.run(network, { sample, ...fixed, ...tensors }, { out_sample: outputs[k] });
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

  decoder(size: LatentSize): Promise<Decoder> {
    return this.videos.decoder(size);
  }

  course({ height, width }: LatentSize): Omit<FlowCourse, 'steps'> {
    return { tokens: (height / wan.PATCH) * (width / wan.PATCH), shift: 'linear', least: 'trained' };
  }

  guidance(scale: number): number {
    return scale;
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  /** @param request whose rows are the frames of one video */
  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width, startsFromPicture } = request;
    const { provider } = this.engine;
    const frames = this.videos.framesOf(rows);
    const shownChannels = wan.shownChannels(this.config);
    const isBegun = startsFromPicture && shownChannels === 0;
    const shape = { provider, batch: 1, frames, height, width, text: TEXT_TOKENS, isBegun };
    const encoded = startsFromPicture ? (shownChannels === 0 ? 1 : frames) : 0;
    return Promise.resolve([
      this.text.planned(this.costs, texts),
      // Only one expert is on the device at a time, and they are equally large.
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: calls * steps, runsPerStep: calls, precision: 'f32' },
        this.#experts[0].weights,
        shape,
        (options) => wan.build(this.config, this.#experts[0].weights, options),
      ),
      ...this.videos.planned(this.costs, frames, { height, width }, encoded),
    ]);
  }

  /** The network of one expert, for which the other one leaves the device. */
  async #expert(which: 0 | 1, shape: wan.Extent & { isBegun: boolean }): Promise<Network> {
    const { name, weights } = this.#experts[which];
    const others = this.#experts.filter((_, k) => k !== which);
    for (const other of others) {
      await this.shelf.drop(other.name);
    }
    return this.shelf.get(name, { ...shape, isBegun: Number(shape.isBegun) }, ({ provider }) =>
      wan.build(this.config, weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        ...shape,
        text: TEXT_TOKENS,
        weights: this.weights,
      }),
    );
  }
}
