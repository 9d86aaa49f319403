/** Encoding and decoding pictures with FLUX.2's autoencoder, which FLUX.3 has as well: its latents are whole tokens, and no Gaussian. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as autoencoder from '../../graphs/autoencoder_kl_flux2.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { GraphCosts, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';

const F32 = { batch: 1, dtype: 'f32' as const };

export class Flux2Pictures {
  readonly config: autoencoder.Config;

  /** @throws StudioError `checkpoint_unsupported` */
  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly component: Component,
  ) {
    this.config = autoencoder.parseConfig(component.config);
  }

  get latents(): LatentSpace {
    const { block_out_channels } = this.config;
    return { channels: autoencoder.channelsOf(this.config), factor: 2 ** block_out_channels.length, scale: 1 };
  }

  async encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    const { channels, factor } = this.latents;
    const [, , height, width] = pixels.dims;
    const network = await this.shelf.get('vae_encoder', { height, width }, (options) =>
      autoencoder.buildEncoder(this.config, this.component.weights, { ...options, ...F32, height, width }),
    );
    const tensor = this.engine.arithmetic.empty([1, channels, height / factor, width / factor]);
    await this.engine.run(network, { sample: pixels }, { latents: tensor });
    return { kind: 'latents', tensor };
  }

  /** See `CommonNetworks.decoder`. */
  async decoder({ height, width }: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    const { engine, shelf } = this;
    const { factor } = this.latents;
    const name = purpose === 'picture' ? 'vae_decoder' : 'preview_decoder';
    const network = await shelf.get(name, { height, width }, (options) =>
      autoencoder.buildDecoder(this.config, this.component.weights, { ...options, ...F32, height, width }),
    );
    const output = engine.arithmetic.empty([1, 3, height * factor, width * factor]);
    return {
      async decode(latents) {
        await engine.run(network, { latent_sample: latents }, { sample: output });
        return output;
      },
      dispose: async () => {
        output.dispose();
        if (purpose === 'preview') {
          await shelf.drop(name);
        }
      },
    };
  }

  planned(costs: GraphCosts, { decodings, decoded }: NetworkRequest): PlannedNetwork {
    const { config, component } = this;
    return costs.network(
      { name: 'vae_decoder', phase: 'decode', runs: decodings, runsPerStep: 0, precision: 'f32' },
      { provider: this.engine.provider, batch: 1, ...decoded, weights: 'full' as const },
      (options) => autoencoder.buildDecoder(config, component.weights, options),
    );
  }
}
