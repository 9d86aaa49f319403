/** Pictures to latents and back by an AutoencoderKL, whose latents may lie around something else than 0. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as autoencoderKl from '../../graphs/autoencoder_kl.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { GraphCosts, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';

const F32 = { batch: 1, dtype: 'f32' as const };

export class KlPictures {
  readonly config: autoencoderKl.Config;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly component: Component,
  ) {
    this.config = autoencoderKl.parseConfig(component.config);
  }

  get latents(): LatentSpace {
    const { latent_channels: channels, block_out_channels, scaling_factor: scale, shift_factor } = this.config;
    return { channels, factor: 2 ** (block_out_channels.length - 1), scale, shift: shift_factor ?? 0 };
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { config, component } = this;
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    const network = await this.shelf.get('vae_encoder', { height, width }, (options) =>
      autoencoderKl.buildEncoder(config, component.weights, { ...options, ...F32, height, width }),
    );
    const tensor = this.engine.arithmetic.empty([1, 2 * channels, height / factor, width / factor]);
    await this.engine.run(network, { sample: pixels }, { latent_parameters: tensor });
    return { kind: 'moments', tensor };
  }

  /** See `CommonNetworks.decoder`. */
  async decoder({ height, width }: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    const { engine, shelf, config, component } = this;
    const { arithmetic } = engine;
    const { channels, factor, scale, shift = 0 } = this.latents;
    const name = purpose === 'picture' ? 'vae_decoder' : 'preview_decoder';
    const network = await shelf.get(name, { height, width }, (options) =>
      autoencoderKl.buildDecoder(config, component.weights, { ...options, ...F32, height, width }),
    );
    const input = arithmetic.empty([1, channels, height, width]);
    const output = arithmetic.empty([1, 3, height * factor, width * factor]);
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
    const { config, component } = this;
    const { factor } = this.latents;
    const { provider } = this.engine;
    const about = { runsPerStep: 0, precision: 'f32' as const };
    const decoder = costs.network(
      { name: 'vae_decoder', runs: decodings, ...about },
      component.weights,
      { provider, batch: 1, ...decoded, weights: 'full' as const },
      (options) => autoencoderKl.buildDecoder(config, component.weights, options),
    );
    const encoder = () =>
      costs.network(
        { name: 'vae_encoder', runs: 1, ...about },
        component.weights,
        { provider, batch: 1, height: height * factor, width: width * factor, weights: 'full' as const },
        (options) => autoencoderKl.buildEncoder(config, component.weights, options),
      );
    return startsFromPicture ? [decoder, encoder()] : [decoder];
  }
}
