/**
 * Videos to latents and back by an AutoencoderKLLTXVideo. A video is decoded by stages, and goes through each of them piece by piece, so no stage
 * ever holds all its frames: as soon as one has made some, the next goes on with them. Together they are what the whole would be.
 */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { DecodingNoise, LatentScales } from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import * as ltx from '../../graphs/autoencoder_kl_ltx.ts';
import { timestepWaves } from '../../graphs/rotary.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { takeFrame } from '../latent_diffusion/latent_frames.ts';
import { SeenFrames } from './seen_frames.ts';
import type { VideoDecoding } from './video_decoding.ts';

const F32 = { batch: 1, dtype: 'f32' as const };

/** Frames of a piece, as its stage is given them: more take more memory and fewer calls. */
const STEP = 4;
/** The authors' values for decoders that are told how much noise there is. */
const USUAL_NOISE = { timestep: 0.05, share: 0.025 };

export class LtxVideos {
  readonly config: ltx.Config;
  readonly stages: readonly ltx.Stage[];

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: CheckpointFiles,
    readonly component: Component,
    /** What times are multiplied by before they become waves. */
    readonly times: number,
    readonly step = STEP,
  ) {
    this.config = ltx.parseConfig(component.config);
    this.stages = ltx.decoderStages(this.config);
  }

  /** Scales of the channels are part of the graphs. */
  get latents(): LatentSpace {
    return { channels: this.config.latent_channels, factor: ltx.factorOf(this.config), scale: 1 };
  }

  /** See `Model.latentScales`. */
  async scales(): Promise<LatentScales> {
    const [mean, deviation] = await Promise.all(
      ['latents_mean', 'latents_std'].map(async (name) => {
        const stored = this.component.weights.get(name);
        if (!stored) {
          throw new StudioError('checkpoint_incomplete', `The vae has no tensor "${name}"; get the checkpoint again.`);
        }
        return readRows(this.files, { ...stored, shape: [1, this.config.latent_channels] }, [0]);
      }),
    );
    return { mean, deviation: deviation.map((value) => value / this.config.scaling_factor) };
  }

  /** Of the latents of a video. */
  framesOf(frames: number): number {
    return (frames - 1) / ltx.framesPerLatent(this.config) + 1;
  }

  /**
   * @param latents [1, channels, frames · height, width], as sampling leaves them
   * @throws StudioError `cancelled` between two pieces, `result_invalid` for NaN or infinity
   */
  async decode(latents: DeviceTensor, frames: number, { signal, take, noise }: VideoDecoding): Promise<void> {
    const { arithmetic } = this.engine;
    const [, channels, rows, width] = latents.dims;
    const height = rows / frames;
    const held = new Held();
    const inputs = this.#timed(noise, held);
    const noises = inputs && this.#noises(latents, frames, noise);
    const run = new Decoding(this, frames, { height, width }, inputs, async (made) => {
      for (const frame of await arithmetic.toPixels(made, latents)) {
        await take(frame);
      }
    });
    try {
      for (let n = 0; n < frames; n++) {
        const one = arithmetic.empty([1, channels, height, width]);
        takeFrame(arithmetic, latents, frames, n, one);
        await run.push(0, { frame: one, noise: noises?.[n] }, signal);
      }
    } finally {
      run.dispose();
      noises?.forEach((one) => {
        one.dispose();
      });
      held.dispose();
    }
  }

  /**
   * @param picture [1, 3, height, width] in [-1, 1]
   * @returns [1, channels, h, w], as sampling takes them
   */
  async encode(picture: DeviceTensor, random: NoiseSource): Promise<DeviceTensor> {
    const { engine, component, config } = this;
    const { arithmetic } = engine;
    const { channels, factor } = this.latents;
    const [, , height, width] = picture.dims;
    const dims = [1, channels, height / factor, width / factor];
    const drawn = random.ofPosterior(elements(dims)) ?? new Float32Array(elements(dims));
    const network = await this.shelf.get('vae_encoder', { height, width }, (options) =>
      ltx.buildEncoder(config, component.weights, { ...options, ...F32, height, width }),
    );
    const noise = arithmetic.upload(drawn, dims);
    const latents = arithmetic.empty(dims);
    try {
      await engine.run(network, { sample: picture, noise }, { latents });
      return latents;
    } catch (error) {
      latents.dispose();
      throw error;
    } finally {
      noise.dispose();
    }
  }

  /** See `CommonNetworks.decoder`: of single frames, each a video. */
  decoder(size: LatentSize): Promise<Decoder> {
    const { engine } = this;
    const { arithmetic } = engine;
    const { factor } = this.latents;
    const output = arithmetic.empty([1, 3, size.height * factor, size.width * factor]);
    const held = new Held();
    const inputs = this.#timed({ timestep: 0, share: 0 }, held);
    const none = inputs && held.hold(arithmetic.upload(new Float32Array(this.#count(size)), this.#dims(size)));
    return Promise.resolve({
      decode: async (latents) => {
        const run = new Decoding(this, 1, size, inputs, (made) => {
          arithmetic.copy(made, 0, output, 0, elements(output.dims));
          return Promise.resolve();
        });
        const one = arithmetic.empty(latents.dims);
        arithmetic.copy(latents, 0, one, 0, elements(latents.dims));
        try {
          await run.push(0, { frame: one, noise: none ?? undefined }, new AbortController().signal);
        } finally {
          run.dispose();
        }
        return output;
      },
      dispose: async () => {
        output.dispose();
        held.dispose();
        for (const stage of this.stages.keys()) {
          await this.shelf.drop(nameOf(stage));
        }
      },
    });
  }

  /** The network of one stage for a piece. @param size of the latents */
  network(stage: number, size: LatentSize, piece: ltx.Piece): Promise<Network> {
    const shape = this.#shape(stage, size, piece);
    const key = { ...shape, isFirst: Number(piece.isFirst), isLast: Number(piece.isLast) };
    return this.shelf.get(nameOf(stage), key, (options) =>
      ltx.buildDecoder(this.config, this.component.weights, { ...options, ...F32, ...shape }),
    );
  }

  /** The frames of the pieces in which a stage is given so many. */
  pieces(stage: number, frames: number): number[] {
    const { step } = this;
    const { reach } = this.stages[stage];
    const more = frames - reach;
    if (more <= step) {
      return [frames];
    }
    const first = reach + (more % step || step);
    return [first, ...Array.from({ length: (frames - first) / step }, () => step)];
  }

  /** Frames that each stage is given of a video. */
  given(frames: number): number[] {
    const counts = [frames];
    for (const { doubles } of this.stages) {
      const last = counts[counts.length - 1];
      counts.push(doubles ? 2 * last - 1 : last);
    }
    return counts;
  }

  /**
   * The networks of a video.
   * @param frames of its latents
   * @param isBegun whether it begins with a picture
   */
  planned(costs: GraphCosts, frames: number, size: LatentSize, isBegun: boolean): PlannedNetwork[] {
    const { config, component } = this;
    const { provider } = this.engine;
    const common = { provider, batch: 1, weights: 'full' as const };
    const counts = this.given(frames);
    const decoders = this.stages.map((_, stage) => {
      const pieces = this.pieces(stage, counts[stage]);
      // The first is the largest, and what lies between it and the end are the most.
      const piece = { frames: pieces[0], isFirst: true, isLast: pieces.length === 1 };
      return costs.network(
        {
          name: nameOf(stage),
          phase: 'decode',
          runs: counts[stage] / pieces[0],
          runsPerStep: 0,
          precision: 'f32',
        },
        { ...common, ...this.#shape(stage, size, piece) },
        (options) => ltx.buildDecoder(config, component.weights, options),
      );
    });
    const { factor } = this.latents;
    const encoder = () =>
      costs.network(
        { name: 'vae_encoder', phase: 'read', runs: 1, runsPerStep: 0, precision: 'f32' },
        { ...common, height: size.height * factor, width: size.width * factor },
        (options) => ltx.buildEncoder(config, component.weights, options),
      );
    return isBegun ? [...decoders, encoder()] : decoders;
  }

  #shape(stage: number, { height, width }: LatentSize, piece: ltx.Piece) {
    const { scale } = this.stages[stage];
    return { stage, height: scale * height, width: scale * width, ...piece };
  }

  #dims({ height, width }: LatentSize): number[] {
    return [1, this.config.latent_channels, height, width];
  }

  #count(size: LatentSize): number {
    return elements(this.#dims(size));
  }

  /** What a decoder is told of noise; null = it is told nothing. */
  #timed(noise: Omit<DecodingNoise, 'random'> | undefined, held: Held): Record<string, DeviceTensor> | null {
    if (!this.config.timestep_conditioning) {
      return null;
    }
    const { arithmetic } = this.engine;
    const { timestep = USUAL_NOISE.timestep } = noise ?? {};
    const share = shareOf(noise);
    return {
      time_proj: held.hold(
        arithmetic.upload(timestepWaves(Math.fround(timestep) * this.times, ltx.WAVES), [1, ltx.WAVES]),
      ),
      kept_share: held.hold(arithmetic.upload(Float32Array.of(1 - share), [1])),
    };
  }

  /** Fresh noise for each frame of the latents, times its share. */
  #noises(latents: DeviceTensor, frames: number, noise: DecodingNoise | undefined): DeviceTensor[] {
    const { arithmetic } = this.engine;
    const [, channels, rows, width] = latents.dims;
    const dims = [1, channels, rows, width] as const;
    const share = shareOf(noise);
    const drawn = noise?.random.ofStart(dims) ?? new Float32Array(elements(dims));
    const plane = (rows / frames) * width;
    return Array.from({ length: frames }, (_, n) => {
      const own = new Float32Array(channels * plane);
      for (let channel = 0; channel < channels; channel++) {
        const from = (channel * frames + n) * plane;
        own.set(
          drawn.subarray(from, from + plane).map((value) => share * value),
          channel * plane,
        );
      }
      return arithmetic.upload(own, [1, channels, rows / frames, width]);
    });
  }
}

interface Given {
  frame: DeviceTensor;
  noise?: DeviceTensor | undefined;
}

/** One video on its way through the stages. */
class Decoding {
  readonly #waiting: Given[][];
  readonly #pieces: number[][];
  readonly #begun: boolean[];
  readonly #seen: SeenFrames[];

  constructor(
    readonly videos: LtxVideos,
    frames: number,
    readonly size: LatentSize,
    readonly inputs: Record<string, DeviceTensor> | null,
    /** Takes a frame [1, 3, H, W], which is gone afterwards. */
    readonly take: (frame: DeviceTensor) => Promise<void>,
  ) {
    const counts = videos.given(frames);
    this.#waiting = videos.stages.map(() => []);
    this.#begun = videos.stages.map(() => false);
    this.#pieces = videos.stages.map((_, stage) => videos.pieces(stage, counts[stage]));
    this.#seen = videos.stages.map(() => new SeenFrames(videos.engine.arithmetic));
  }

  /** Gives a stage its next frame, which belongs to it then. */
  async push(stage: number, given: Given, signal: AbortSignal): Promise<void> {
    const waiting = this.#waiting[stage];
    waiting.push(given);
    if (waiting.length < this.#pieces[stage][0]) {
      return;
    }
    if (signal.aborted) {
      throw cancelled();
    }
    const made = await this.#run(stage);
    const isLast = stage === this.videos.stages.length - 1;
    try {
      while (made.length > 0) {
        const frame = made.shift() as DeviceTensor;
        await (isLast ? this.#give(frame) : this.push(stage + 1, { frame }, signal));
      }
    } finally {
      made.forEach((one) => {
        one.dispose();
      });
    }
  }

  async #give(frame: DeviceTensor): Promise<void> {
    try {
      await this.take(frame);
    } finally {
      frame.dispose();
    }
  }

  /** The next piece of a stage. */
  async #run(stage: number): Promise<DeviceTensor[]> {
    const { engine } = this.videos;
    const { arithmetic } = engine;
    const frames = this.#pieces[stage].shift() as number;
    const isFirst = !this.#begun[stage];
    this.#begun[stage] = true;
    const piece = { frames, isFirst, isLast: this.#pieces[stage].length === 0 };
    const network = await this.videos.network(stage, this.size, piece);
    const given = this.#waiting[stage].splice(0);
    const seen = this.#seen[stage];
    const ports = network.outputs.filter(({ name }) => /^made\.\d+$/.test(name));
    const made = ports.map(({ dims }) => arithmetic.empty(dims.map(Number)));
    const inputs: Record<string, DeviceTensor> = { ...seen.inputs(network) };
    given.forEach(({ frame, noise }, n) => {
      inputs[`frame.${n}`] = frame;
      if (noise) {
        inputs[`noise.${n}`] = noise;
      }
    });
    if (this.inputs) {
      inputs.time_proj = this.inputs.time_proj;
      if (stage === 0) {
        inputs.kept_share = this.inputs.kept_share;
      }
    }
    const outputs = { ...Object.fromEntries(ports.map(({ name }, n) => [name, made[n]])), ...seen.outputs(network) };
    try {
      await engine.run(network, inputs, outputs);
      seen.advance();
      return made;
    } catch (error) {
      made.forEach((one) => {
        one.dispose();
      });
      throw error;
    } finally {
      given.forEach(({ frame }) => {
        frame.dispose();
      });
    }
  }

  dispose(): void {
    for (const { frame } of this.#waiting.flat()) {
      frame.dispose();
    }
    this.#seen.forEach((seen) => {
      seen.dispose();
    });
  }
}

/** Who draws none gets none. */
function shareOf(noise: Omit<DecodingNoise, 'random'> | undefined): number {
  return noise ? (noise.share ?? USUAL_NOISE.share) : 0;
}

function nameOf(stage: number): string {
  return `vae_decoder_${stage}`;
}
