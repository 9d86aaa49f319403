/** Encoding and decoding pictures with an autoencoder whose encoder gives a Gaussian, and whose latents may be shifted. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as autoencoderKl from '../../graphs/autoencoder_kl.ts';
import type { Graph, GraphOptions } from '../../graphs/graph.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { GraphCosts, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import {
  picturePlanes,
  type Decoder,
  type EncodedPicture,
  type LatentSize,
  type LatentSpace,
} from '../latent_diffusion/networks.ts';

const F32 = { batch: 1, dtype: 'f32' as const };

/** An autoencoder's graphs, with inputs and outputs named as an AutoencoderKL's. */
export interface PictureNetwork {
  latents: LatentSpace;
  buildEncoder(options: GraphOptions): Graph;
  buildDecoder(options: GraphOptions): Graph;
}

/** @throws StudioError `checkpoint_unsupported` */
export function autoencoderOf({ config: values, weights }: Component): PictureNetwork {
  const config = autoencoderKl.parseConfig(values);
  const { latent_channels: channels, block_out_channels, scaling_factor: scale, shift_factor } = config;
  return {
    latents: { channels, factor: 2 ** (block_out_channels.length - 1), scale, shift: shift_factor ?? 0 },
    buildEncoder: (options) => autoencoderKl.buildEncoder(config, weights, options),
    buildDecoder: (options) => autoencoderKl.buildDecoder(config, weights, options),
  };
}

export class KlPictures {
  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly component: Component,
    readonly network: PictureNetwork = autoencoderOf(component),
  ) {}

  get latents(): LatentSpace {
    return this.network.latents;
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    const network = await this.shelf.get('vae_encoder', { height, width }, (options) =>
      this.network.buildEncoder({ ...options, ...F32, height, width }),
    );
    const tensor = this.engine.arithmetic.empty([1, 2 * channels, height / factor, width / factor]);
    await this.engine.run(network, { sample: pixels }, { latent_parameters: tensor });
    return { kind: 'moments', tensor };
  }

  /** The middle of the Gaussian that {@link encodeImage} gives. */
  async encodeMiddle(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { tensor: moments } = await this.encodeImage(pixels);
    const [batch, both, height, width] = moments.dims;
    const tensor = this.engine.arithmetic.empty([batch, both / 2, height, width]);
    this.engine.arithmetic.copy(moments, 0, tensor, 0, (both / 2) * height * width);
    moments.dispose();
    return { kind: 'latents', tensor };
  }

  /** See `CommonNetworks.decoder`. */
  async decoder({ height, width }: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    const { engine, shelf } = this;
    const { arithmetic } = engine;
    const { channels, factor, scale, shift = 0 } = this.latents;
    const name = purpose === 'picture' ? 'vae_decoder' : 'preview_decoder';
    const network = await shelf.get(name, { height, width }, (options) =>
      this.network.buildDecoder({ ...options, ...F32, height, width }),
    );
    const input = arithmetic.empty([1, channels, height, width]);
    const output = arithmetic.empty([1, picturePlanes(this.latents), height * factor, width * factor]);
    const one = arithmetic.upload(Float32Array.of(1), [1]);
    return {
      async decode(latents) {
        arithmetic.combine(input, 1 / scale, latents, shift, one);
        await engine.run(network, { latent_sample: input }, { sample: output });
        return output;
      },
      dispose: async () => {
        for (const tensor of [input, output, one]) {
          tensor.dispose();
        }
        if (purpose === 'preview') {
          await shelf.drop(name);
        }
      },
    };
  }

  planned(
    costs: GraphCosts,
    { decodings, decoded, startsFromPicture, height, width }: NetworkRequest,
  ): PlannedNetwork[] {
    const { network } = this;
    const { factor } = this.latents;
    const { provider } = this.engine;
    const about = { runsPerStep: 0, precision: 'f32' as const };
    const decoder = costs.network(
      { name: 'vae_decoder', phase: 'decode', runs: decodings, ...about },
      { provider, batch: 1, ...decoded, weights: 'full' as const },
      (options) => network.buildDecoder(options),
    );
    const encoder = () =>
      costs.network(
        { name: 'vae_encoder', phase: 'read', runs: 1, ...about },
        { provider, batch: 1, height: height * factor, width: width * factor, weights: 'full' as const },
        (options) => network.buildEncoder(options),
      );
    return startsFromPicture ? [decoder, encoder()] : [decoder];
  }
}
