/** Waveforms to latents and back by an AutoencoderSAME. */
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as same from '../../graphs/autoencoder_same.ts';
import type { Component } from '../../weights/checkpoint.ts';
import { withWeightNorm } from '../../weights/weight_norm.ts';
import { PiecewiseSounds } from './piecewise_sounds.ts';

export class SameSounds extends PiecewiseSounds {
  readonly config: same.Config;

  constructor(engine: Engine, shelf: NetworkShelf, component: Component) {
    const { weights } = withWeightNorm(component);
    const config = same.parseConfig(component.config);
    const { latent_dim: channels, audio_channels, ff_mult, sliding_window: window } = config;
    const views = config.use_differential_attention ? 2 : 1;
    // Of a feed-forward layer, or of the keys and values that a latent's tokens look at.
    const wide = Math.max(2 * ff_mult, (2 * window + 1) * (views + 1));
    super(engine, shelf, {
      weights,
      hop: same.hopOf(config),
      channels,
      encoded: channels,
      audioChannels: audio_channels,
      overlap: same.overlapOf(config),
      bytes: 4 * same.segmentOf(config) * same.widthOf(config) * wide,
      tables(latents) {
        const { cos, sin } = same.angles(config, latents);
        const rows = latents * same.segmentOf(config);
        const dims = [rows, cos.length / rows];
        return {
          cos: { data: cos, dims },
          sin: { data: sin, dims },
          band: { data: same.band(config, latents), dims: same.bandDims(config, latents) },
        };
      },
      buildDecoder: (options) => same.buildDecoder(config, weights, options),
      buildEncoder: (options) => same.buildEncoder(config, weights, options),
      encoderOutput: 'latents',
    });
    this.config = config;
  }

  /**
   * @param planes samples of the whole sound, at least one
   * @param most latents that are wanted
   * @returns [channels, latents], no more than the sound has, whose last one is filled up with silence
   */
  async latents(
    planes: readonly Float32Array<ArrayBuffer>[],
    most: number,
    signal: AbortSignal,
  ): Promise<{ values: Float32Array<ArrayBuffer>; length: number }> {
    const { hop, codec } = this;
    // What lies further on is seen by none of them.
    const seen = Math.min(Math.ceil(planes[0].length / hop), most + codec.overlap);
    const whole = planes.map((plane) => {
      const filled = new Float32Array(seen * hop);
      filled.set(plane.subarray(0, seen * hop));
      return filled;
    });
    const encoded = await this.encode(whole, { signal, onPart: () => undefined });
    const length = Math.min(seen, most);
    const values = new Float32Array(codec.channels * length);
    for (let row = 0; row < codec.channels; row++) {
      values.set(encoded.subarray(row * seen, row * seen + length), row * length);
    }
    return { values, length };
  }
}
