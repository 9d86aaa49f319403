/**
 * Videos to latents and back by an AutoencoderKLWan, piece by piece: the first frame, then four for each of the latents. What its layers have
 * seen stays on the device between the pieces, so together they are what the whole would be.
 */
import { cancelled } from '../../core/errors.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import * as wan from '../../graphs/autoencoder_kl_wan.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { putFrame, takeFrame } from '../latent_diffusion/latent_frames.ts';
import { SeenFrames } from './seen_frames.ts';
import type { VideoDecoding } from './video_decoding.ts';

const F32 = { batch: 1, dtype: 'f32' as const };

export class WanVideos {
  readonly config: wan.Config;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly component: Component,
  ) {
    this.config = wan.parseConfig(component.config);
  }

  /** Scales of the channels are part of the graphs. */
  get latents(): LatentSpace {
    return { channels: this.config.z_dim, factor: wan.factorOf(this.config), scale: 1 };
  }

  /** Of the latents of a video. */
  framesOf(frames: number): number {
    return (frames - 1) / wan.framesPerLatent(this.config) + 1;
  }

  /**
   * @param latents [1, channels, frames · height, width], as sampling leaves them
   * @throws StudioError `cancelled` between two pieces, `result_invalid` for NaN or infinity
   */
  async decode(latents: DeviceTensor, frames: number, { signal, take }: VideoDecoding): Promise<void> {
    const { engine } = this;
    const { arithmetic } = engine;
    const [, channels, rows, width] = latents.dims;
    const height = rows / frames;
    const one = arithmetic.empty([1, channels, height, width]);
    const seen = new SeenFrames(arithmetic);
    try {
      for (let n = 0; n < frames; n++) {
        if (signal.aborted) {
          throw cancelled();
        }
        const network = await this.#decoder({ height, width }, n === 0);
        takeFrame(arithmetic, latents, frames, n, one);
        const sample = arithmetic.empty(dimsOf(network, 'sample'));
        try {
          const outputs = { sample, ...seen.outputs(network) };
          await engine.run(network, { latent_sample: one, ...seen.inputs(network) }, outputs);
          seen.advance();
          for (const frame of await arithmetic.toPixels(sample, one)) {
            await take(frame);
          }
        } finally {
          sample.dispose();
        }
      }
    } finally {
      one.dispose();
      seen.dispose();
    }
  }

  /**
   * A video that begins with a picture and is grey after it, as the transformer is shown it.
   * @param picture [1, 3, height, width] in [-1, 1]
   * @param frames of the latents
   * @param last the picture that it ends with, like the first, where there are more frames; undefined = it is grey to its end
   * @returns [1, channels, frames · h, w], as sampling takes them
   */
  async encode(picture: DeviceTensor, frames: number, last?: DeviceTensor): Promise<DeviceTensor> {
    const { engine, config, component } = this;
    const { arithmetic } = engine;
    const { channels, factor } = this.latents;
    const [, , height, width] = picture.dims;
    const latents = arithmetic.empty([1, channels, (frames * height) / factor, width / factor]);
    const one = arithmetic.empty([1, channels, height / factor, width / factor]);
    const rest = wan.framesPerLatent(config);
    const grey =
      frames > 1 ? arithmetic.upload(new Float32Array(3 * rest * height * width), [rest, 3, height, width]) : null;
    const seen = new SeenFrames(arithmetic);
    try {
      for (let n = 0; n < frames; n++) {
        const isFirst = n === 0;
        const network = await this.shelf.get('vae_encoder', { height, width, isFirst: Number(isFirst) }, (options) =>
          wan.buildEncoder(config, component.weights, { ...options, ...F32, height, width, isFirst }),
        );
        if (grey && last && n === frames - 1) {
          const count = 3 * height * width;
          arithmetic.copy(last, 0, grey, (rest - 1) * count, count);
        }
        const outputs = { latents: one, ...seen.outputs(network) };
        await engine.run(network, { sample: isFirst || !grey ? picture : grey, ...seen.inputs(network) }, outputs);
        seen.advance();
        putFrame(arithmetic, one, latents, frames, n);
      }
      return latents;
    } catch (error) {
      latents.dispose();
      throw error;
    } finally {
      one.dispose();
      grey?.dispose();
      seen.dispose();
    }
  }

  /** See `CommonNetworks.decoder`: of single frames, as at the beginning of a video. */
  async decoder(size: LatentSize): Promise<Decoder> {
    const { engine, shelf } = this;
    const { arithmetic } = engine;
    const name = 'preview_decoder';
    const network = await this.#decoder(size, true, name);
    const seen = new SeenFrames(arithmetic);
    const output = arithmetic.empty(dimsOf(network, 'sample'));
    return {
      async decode(latents) {
        await engine.run(network, { latent_sample: latents }, { sample: output, ...seen.outputs(network) });
        seen.advance();
        return output;
      },
      dispose: async () => {
        output.dispose();
        seen.dispose();
        await shelf.drop(name);
      },
    };
  }

  /**
   * The networks of a video.
   * @param frames of its latents
   * @param encoded of the latents that are made of a given picture; 0 = there is none
   */
  planned(costs: GraphCosts, frames: number, { height, width }: LatentSize, encoded: number): PlannedNetwork[] {
    const { config, component } = this;
    const isFirst = frames === 1;
    const shape = { provider: this.engine.provider, batch: 1, height, width, isFirst, weights: 'full' as const };
    const decoder = costs.network(
      { name: 'vae_decoder', phase: 'decode', runs: frames, runsPerStep: 0, precision: 'f32' },
      shape,
      (options) => wan.buildDecoder(config, component.weights, options),
    );
    const { factor } = this.latents;
    const encoder = () =>
      costs.network(
        { name: 'vae_encoder', phase: 'read', runs: encoded, runsPerStep: 0, precision: 'f32' },
        { ...shape, height: height * factor, width: width * factor, isFirst: encoded === 1 },
        (options) => wan.buildEncoder(config, component.weights, options),
      );
    return encoded > 0 ? [decoder, encoder()] : [decoder];
  }

  #decoder({ height, width }: LatentSize, isFirst: boolean, name = 'vae_decoder'): Promise<Network> {
    return this.shelf.get(name, { height, width, isFirst: Number(isFirst) }, (options) =>
      wan.buildDecoder(this.config, this.component.weights, { ...options, ...F32, height, width, isFirst }),
    );
  }
}

function dimsOf(network: Network, name: string): number[] {
  return network.outputs.find((port) => port.name === name)?.dims.map(Number) ?? [];
}
