/**
 * The networks of LTX-Video as our own graphs over a checkpoint's files: T5 reads, a transformer makes the video and an AutoencoderKLLTXVideo decodes it.
 * All compute in f32, with 8- or 4-bit weights if requested: they were trained in bfloat16, whose range exceeds f16's.
 */
import type { LatentScales, WeightVariant } from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Network } from '../../engine/runtime.ts';
import * as autoencoder from '../../graphs/autoencoder_kl_ltx.ts';
import * as ltx from '../../graphs/ltx_transformer3d.ts';
import { paddingMask } from '../../graphs/t5_encoder.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { T5Tokenizer } from '../../text/t5_tokenizer.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import type { EncodedText, FlowDenoiser, FlowDenoiserRequest } from '../flow_transformer/flow_networks.ts';
import { T5Text } from '../flow_transformer/t5_text.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import type { FlowVideoNetworks, GivenEnds, ShownEnds } from './flow_video_model.ts';
import { putFrame } from '../latent_diffusion/latent_frames.ts';
import { LtxVideos } from './ltx_videos.ts';

/** How a version of LTX-Video is sampled. */
export interface LtxHabits {
  /** Tokens of the text, padding included. */
  tokens: number;
  /**
   * Whether it is sampled as by LTXConditionPipeline: words see nothing of the padding after them, a latent's frames count by the last of them,
   * steps are small at first, and a given frame gets noise of its own in each step, which helps motion.
   */
  isConditioned: boolean;
  /** What the decoder multiplies times by. */
  times: number;
}

/** The share of noise in a given frame at the beginning; afterwards it goes with the square of the time. */
const GIVEN_NOISE = 0.15;
/** Timesteps of training. */
const TRAINED = 1000;
/** Frames per second that the authors train and make videos with. */
const USUAL_RATE = 25;
/** Latents per side of the picture for fitting preview colours: more uniform patches than the channels. */
const PREVIEW_SIZE = 16;

export interface LtxComponents {
  textEncoder: Component;
  transformer: Component;
  vae: Component;
}

export class LtxNetworks extends BaseNetworks implements FlowVideoNetworks {
  readonly config: ltx.Config;
  readonly text: T5Text;
  readonly videos: LtxVideos;
  readonly #transformer: Component;

  constructor(
    engine: Engine,
    files: CheckpointFiles,
    { textEncoder, transformer, vae }: LtxComponents,
    readonly habits: LtxHabits,
    tokenizer: T5Tokenizer,
    weights: WeightVariant,
  ) {
    super(engine, files, 'LTX-Video', [textEncoder, transformer, vae], weights);
    this.#transformer = this.withLoras(transformer);
    this.config = ltx.parseConfig(transformer.config);
    this.text = new T5Text(engine, this.shelf, files, textEncoder, tokenizer, weights, habits.isConditioned);
    this.videos = new LtxVideos(engine, this.shelf, files, vae, habits.times);
  }

  get startsFirst(): boolean {
    return this.habits.isConditioned;
  }

  get latents(): LatentSpace {
    return this.videos.latents;
  }

  /** The transformer sees no padding. */
  async encodeText(prompt: string): Promise<EncodedText> {
    const { states, tokens, text } = await this.text.encode(prompt);
    const { limit } = this.text.tokenizer;
    const mask = this.engine.arithmetic.upload(paddingMask(limit, Math.min(tokens, limit)), [1, 1, 1, limit]);
    return { tensors: { prompt_embeds: states, mask }, tokens, limit, text };
  }

  encodeImage(): Promise<EncodedPicture> {
    throw new Error('A picture is encoded as the beginning of a video.');
  }

  /** Both are shown beside what is made. */
  async ends({ first, last }: GivenEnds, _frames: number, random: NoiseSource): Promise<ShownEnds> {
    const shown: DeviceTensor[] = [];
    try {
      if (first) {
        shown.push(await this.videos.encode(first.pixels, random));
      }
      if (!last) {
        return { shown };
      }
      const end = await this.videos.encode(last.pixels, random);
      // The reference draws as much again, for frames that are given in part.
      random.ofStart(end.dims as [number, number, number, number]);
      return { shown, last: end };
    } catch (error) {
      shown.forEach((frame) => {
        frame.dispose();
      });
      throw error;
    }
  }

  latentScales(): Promise<LatentScales> {
    return this.videos.scales();
  }

  settle(latents: DeviceTensor, frames: number, condition: DeviceTensor): void {
    putFrame(this.engine.arithmetic, condition, latents, frames, 0);
  }

  /** Changes what it is shown: given frames have the noise of the last step then, as the first is decoded. */
  async denoiser(request: FlowDenoiserRequest): Promise<FlowDenoiser> {
    const { height: rows, width, frames = 1, rate = USUAL_RATE, texts, shown, last, random } = request;
    const { engine, config, habits } = this;
    const { arithmetic } = engine;
    const { factor, channels } = this.latents;
    const height = rows / frames;
    const isBegun = shown.length > 0;
    const given = [...(last ? [last] : []), ...shown];
    const beside = last ? 1 : 0;
    const seconds = [...(last ? [this.#lastSecond(frames, rate)] : []), ...this.#seconds(frames, rate)];
    const all = { frames: seconds.length, height, width };
    const { cos, sin } = ltx.angles(config, all, { seconds, pixels: factor });
    const half = config.cross_attention_dim / 2;
    const turns = [cos.length / half, half];
    const held = new Held();
    const hold = (tensor: DeviceTensor) => held.hold(tensor);
    try {
      const condition = given.length > 0 ? hold(arithmetic.empty([1, channels, given.length * height, width])) : null;
      const show = () => {
        given.forEach((frame, n) => {
          putFrame(arithmetic, frame, condition as DeviceTensor, given.length, n);
        });
      };
      show();
      const fixed = {
        time_proj: hold(arithmetic.empty([condition ? 2 : 1, ltx.WAVES])),
        cos: hold(arithmetic.upload(cos, turns)),
        sin: hold(arithmetic.upload(sin, turns)),
        ...(condition && { condition }),
      };
      const outputs = texts.map(() => hold(arithmetic.empty([1, channels, rows, width])));
      const network = await this.#network({ frames, height, width, isBegun, beside });
      const clean = habits.isConditioned ? await Promise.all(given.map((frame) => arithmetic.read(frame))) : [];
      return {
        async predict(sample, timestep) {
          if (clean.length > 0) {
            const drawn = random.ofStart([1, all.frames * height * width, 1, channels]);
            const share = GIVEN_NOISE * (timestep / TRAINED) ** 2;
            clean.forEach((frame, n) => {
              arithmetic.write(given[n], noisy(frame, drawn.subarray(n * frame.length), channels, share));
            });
            show();
          }
          const times = condition ? [0, timestep] : [timestep];
          const waves = times.flatMap((time) => [...ltx.timeProjection(time)]);
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
    const { isConditioned } = this.habits;
    return {
      tokens: height * width,
      shift: 'linear',
      least: 'step',
      ...(isConditioned && { levels: 'linear_quadratic', floors: true }),
    };
  }

  guidance(scale: number): number {
    return scale;
  }

  previewSize(): Promise<number> {
    return Promise.resolve(PREVIEW_SIZE);
  }

  /** @param request whose rows are the frames of one video */
  planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows, calls, steps, texts, height, width, startsFromPicture: isBegun } = request;
    const { provider } = this.engine;
    const frames = this.videos.framesOf(rows);
    const shape = { provider, batch: 1, frames, height, width, text: this.habits.tokens, isBegun };
    return Promise.resolve([
      { ...this.text.planned(this.costs, texts), phase: 'read' },
      this.costs.network(
        { name: 'transformer', phase: 'sample', runs: calls * steps, runsPerStep: calls, precision: 'f32' },
        shape,
        (options) => ltx.build(this.config, this.#transformer.weights, options),
      ),
      ...this.videos.planned(this.costs, frames, { height, width }, isBegun),
    ]);
  }

  /** The second that each frame of the latents counts as. */
  #seconds(frames: number, rate: number): number[] {
    const f = Math.fround;
    const piece = autoencoder.framesPerLatent(this.videos.config);
    return Array.from({ length: frames }, (_, n) =>
      this.habits.isConditioned ? f(Math.max(0, n * piece + 1 - piece) * f(1 / rate)) : f(n * f(piece / rate)),
    );
  }

  #lastSecond(frames: number, rate: number): number {
    const piece = autoencoder.framesPerLatent(this.videos.config);
    return Math.fround((frames - 1) * piece * Math.fround(1 / rate));
  }

  #network(shape: ltx.Extent & { isBegun: boolean; beside: number }): Promise<Network> {
    const { name, weights } = this.#transformer;
    return this.shelf.get(name, { ...shape, isBegun: Number(shape.isBegun) }, ({ provider }) =>
      ltx.build(this.config, weights, {
        provider,
        dtype: 'f32',
        batch: 1,
        ...shape,
        text: this.habits.tokens,
        weights: this.weights,
      }),
    );
  }
}

/**
 * A given frame [channels, pixels] with noise.
 * @param drawn [tokens, channels], the frame's first
 */
function noisy(clean: Float32Array, drawn: Float32Array, channels: number, share: number): Float32Array<ArrayBuffer> {
  const pixels = clean.length / channels;
  return Float32Array.from(
    clean,
    (value, at) => value + share * drawn[(at % pixels) * channels + Math.floor(at / pixels)],
  );
}
