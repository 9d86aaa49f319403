/** Waveforms to latents and back by an AutoencoderOobleck. */
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import type { Component } from '../../weights/checkpoint.ts';
import { withWeightNorm } from '../../weights/weight_norm.ts';
import { PiecewiseSounds } from './piecewise_sounds.ts';

export class OobleckSounds extends PiecewiseSounds {
  readonly config: oobleck.Config;

  /** What its encoder gives are means, and then what `oobleck.deviation` makes deviations of. */
  constructor(engine: Engine, shelf: NetworkShelf, component: Component) {
    const { weights } = withWeightNorm(component);
    const config = oobleck.parseConfig(component.config);
    const { decoder_input_channels: channels, audio_channels, decoder_channels, encoder_hidden_size } = config;
    const hop = oobleck.hopOf(config);
    super(engine, shelf, {
      weights,
      hop,
      channels,
      encoded: 2 * channels,
      audioChannels: audio_channels,
      overlap: oobleck.overlapOf(config),
      bytes: 4 * hop * Math.max(decoder_channels, encoder_hidden_size),
      buildDecoder: (options) => oobleck.buildDecoder(config, weights, options),
      buildEncoder: (options) => oobleck.buildEncoder(config, weights, options),
      encoderOutput: 'latent_parameters',
    });
    this.config = config;
  }
}
