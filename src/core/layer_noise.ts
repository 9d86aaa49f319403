/** The noise of a picture in layers: a generator draws it layer by layer, while they are one tall picture of latents here. */
import type { LatentDims, NoiseInterval, NoiseSource } from './noise.ts';
import { OrderedNoise, transposed } from './ordered_noise.ts';

export class LayerNoise extends OrderedNoise {
  /** @param layers that lie below each other in what is asked for */
  constructor(
    source: NoiseSource,
    readonly layers: number,
  ) {
    super(source);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.#below(this.source.ofStart(this.#apart(dims)), dims);
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    return this.#below(this.source.ofStep(this.#apart(dims), interval), dims);
  }

  #apart([, channels, height, width]: LatentDims): LatentDims {
    return [this.layers, channels, height / this.layers, width];
  }

  #below(drawn: Float32Array<ArrayBuffer>, [, channels, height, width]: LatentDims): Float32Array<ArrayBuffer> {
    return transposed(drawn, this.layers, channels, (height / this.layers) * width);
  }
}
