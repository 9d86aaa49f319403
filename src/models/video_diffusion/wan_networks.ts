/**
 * The networks of Wan as our own graphs over a checkpoint's files: UMT5 reads, CLIP may see, a transformer makes the video and an AutoencoderKLWan
 * decodes it.
 * All compute in f32, with 8- or 4-bit weights if requested: they were trained in bfloat16, whose range exceeds f16's.
 */
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Network } from '../../engine/runtime.ts';
import * as clipVision from '../../graphs/clip_vision.ts';
import * as wan from '../../graphs/wan_transformer3d.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import { cleanPrompt } from '../../text/prompt_cleaning.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { ModelLora } from '../family.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest } from '../flow_transformer/flow_networks.ts';
import { T5Text } from '../flow_transformer/t5_text.ts';
import { seeByClip } from '../latent_diffusion/clip_sight.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { LowNoiseLoras, noiseOfLora } from './expert_loras.ts';
import type { FlowVideoNetworks, GivenEnds, ShownEnds } from './flow_video_model.ts';
import { putFrame } from '../latent_diffusion/latent_frames.ts';
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
  /** CLIP's vision encoder, by which the pictures are seen that a video begins and ends with; null where none are. */
  imageEncoder: Component | null;
}

export interface WanHabits {
  /** The share of training time from which on there is so much noise that the first expert is asked; null = there is one. */
  boundary: number | null;
  /** Whether the first frame may be given, and is told a time of its own then. */
  expandsTimesteps: boolean;
}

interface Sight {
  component: Component;
  config: clipVision.Config;
}

/** What the transformer is given of what CLIP sees. */
const SEEN = 'penultimate_hidden_state';
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
  readonly #sight: Sight | null;
  /** Those of the second expert, if there are two. */
  readonly #lowNoise: LowNoiseLoras | null;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, second, vae, imageEncoder }: WanComponents,
    readonly habits: WanHabits,
    tokenizer: T5Tokenizer,
    weights: WeightVariant,
  ) {
    const experts = [transformer, ...(second ? [second] : [])];
    const sight = imageEncoder ? [imageEncoder] : [];
    super(engine, files, 'Wan', [textEncoder, ...experts, ...sight, vae], weights);
    this.#lowNoise = second && new LowNoiseLoras(files, second);
    this.#experts = [this.withLoras(transformer), ...(this.#lowNoise ? [this.#lowNoise.component] : [])];
    this.config = wan.parseConfig(transformer.config);
    this.text = new T5Text(engine, this.shelf, files, textEncoder, tokenizer, weights, true);
    this.videos = new WanVideos(engine, this.shelf, vae);
    this.#sight = imageEncoder && { component: imageEncoder, config: clipVision.parseConfig(imageEncoder.config) };
  }

  /** Pictures of a video that its transformer sees by CLIP. */
  get seenPictures(): number {
    const parts = this.#sight ? clipVision.partsOf(this.#sight.config) : 0;
    return parts === 0 ? 0 : (this.config.pos_embed_seq_len ?? parts) / parts;
  }

  /** With two experts each takes those that are not for the other one. */
  override async useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    const low = this.#lowNoise;
    if (!low) {
      return super.useLoras(loras);
    }
    const ofLow = loras.filter(({ name }) => noiseOfLora(name) !== 'high');
    for (const lora of ofLow) {
      // One that fits nowhere is refused before anything changes.
      await low.check(lora);
    }
    const leftOut = await super.useLoras(loras.filter(({ name }) => noiseOfLora(name) !== 'low'));
    if (await low.use(ofLow)) {
      await this.shelf.renew(low.second.name);
    }
    return [...new Set([...leftOut, ...low.leftOut])];
  }

  override checkLora(lora: ModelLora): Promise<string | null> {
    return this.#lowNoise && noiseOfLora(lora.name) === 'low' ? this.#lowNoise.check(lora) : super.checkLora(lora);
  }

  protected override loraFile(name: string): Blob | null {
    return super.loraFile(name) ?? this.#lowNoise?.file(name) ?? null;
  }

  protected override async loraFacts(): Promise<Record<string, unknown>[]> {
    const low = this.#lowNoise;
    if (!low) {
      return super.loraFacts();
    }
    const told = (facts: Record<string, unknown>) => {
      const noise = noiseOfLora(String(facts.name));
      return { ...facts, ...(noise && { noise }) };
    };
    const [own, others] = await Promise.all([super.loraFacts(), low.facts()]);
    return [...own, ...others.filter(({ name }) => noiseOfLora(String(name)) === 'low')].map(told);
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

  /** Where there is an encoder for that, what it sees of the pictures comes after what is shown of them. */
  async ends({ first, last }: GivenEnds, frames: number): Promise<ShownEnds> {
    if (!first) {
      throw new StudioError(
        'invalid_operation',
        'A video that ends with a picture has to begin with one; give image, too.',
      );
    }
    const condition = await this.#condition(first.pixels, frames, last?.pixels);
    try {
      const images = [first, ...(last ? [last] : [])].map(({ image }) => image);
      return { shown: [condition, ...(this.#sight ? [await this.#seen(images)] : [])] };
    } catch (error) {
      condition.dispose();
      throw error;
    }
  }

  /**
   * What the transformer is shown of a video that begins with a picture: where it is shown channels of their own, which frames are given, and the
   * video with nothing but them; else its first frame.
   */
  async #condition(picture: DeviceTensor, frames: number, last?: DeviceTensor): Promise<DeviceTensor> {
    const shown = wan.shownChannels(this.config);
    if (shown === 0) {
      return this.videos.encode(picture, 1);
    }
    const { arithmetic } = this.engine;
    const latents = await this.videos.encode(picture, frames, last);
    const [, channels, rows, width] = latents.dims;
    const plane = rows * width;
    const given = new Float32Array((MASK_CHANNELS + channels) * plane);
    for (let channel = 0; channel < MASK_CHANNELS; channel++) {
      given.fill(1, channel * plane, channel * plane + plane / frames);
    }
    if (last) {
      given.fill(1, MASK_CHANNELS * plane - plane / frames, MASK_CHANNELS * plane);
    }
    const condition = arithmetic.upload(given, [1, MASK_CHANNELS + channels, rows, width]);
    arithmetic.copy(latents, 0, condition, MASK_CHANNELS * plane, channels * plane);
    latents.dispose();
    return condition;
  }

  /** What CLIP sees of each part of the pictures, [1, parts of all, width]. */
  async #seen(images: readonly PixelImage[]): Promise<DeviceTensor> {
    const { component, config } = this.#sight as Sight;
    const network = await this.shelf.get(component.name, {}, ({ provider }) =>
      clipVision.build(
        config,
        component.weights,
        { provider, dtype: 'f32', batch: 1, height: 0, width: 0, weights: this.weights },
        SEEN,
      ),
    );
    const embeds = this.engine.arithmetic.empty([1, images.length * clipVision.partsOf(config), config.hidden_size]);
    try {
      await seeByClip(this.engine, { network, config }, images, SEEN, embeds);
      return embeds;
    } catch (error) {
      embeds.dispose();
      throw error;
    }
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
        ...(shown.length > 1 && { image_embeds: shown[1] }),
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
    const shape = { provider, batch: 1, frames, height, width, text: TEXT_TOKENS, isBegun, seen: this.#parts };
    const encoded = startsFromPicture ? (shownChannels === 0 ? 1 : frames) : 0;
    return Promise.resolve([
      this.text.planned(this.costs, texts),
      // Only one expert is on the device at a time, and they are equally large.
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: calls * steps, runsPerStep: calls, precision: 'f32' },
        shape,
        (options) => wan.build(this.config, this.#experts[0].weights, options),
      ),
      ...this.videos.planned(this.costs, frames, { height, width }, encoded),
      ...this.#plannedSight(),
    ]);
  }

  #plannedSight(): PlannedNetwork[] {
    const { provider } = this.engine;
    const sight = this.#sight;
    return sight
      ? [
          this.costs.network(
            { name: sight.component.name, phase: 'read', runs: this.seenPictures, runsPerStep: 0, precision: 'f32' },
            { provider, batch: 1, height: 0, width: 0 },
            (options) => clipVision.build(sight.config, sight.component.weights, options, SEEN),
          ),
        ]
      : [];
  }

  /** Of the pictures that are seen. */
  get #parts(): number {
    return this.#sight ? this.seenPictures * clipVision.partsOf(this.#sight.config) : 0;
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
        seen: this.#parts,
        weights: this.weights,
      }),
    );
  }
}
