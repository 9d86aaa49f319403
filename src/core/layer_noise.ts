/** The noise of a picture in layers: a generator draws it layer by layer, while they are one tall picture of latents here. */
import type { LatentDims, NoiseInterval, NoiseSource, NoiseState } from './noise.ts';

export class LayerNoise implements NoiseSource {
  /** @param layers that lie below each other in what is asked for */
  constructor(
    readonly source: NoiseSource,
    readonly layers: number,
  ) {}

  ofPosterior(count: number): Float32Array<ArrayBuffer> | null {
    return this.source.ofPosterior(count);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.#below(this.source.ofStart(this.#apart(dims)), dims);
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    return this.#below(this.source.ofStep(this.#apart(dims), interval), dims);
  }

  get state(): NoiseState {
    return this.source.state;
  }

  set state(state: NoiseState) {
    this.source.state = state;
  }

  #apart([, channels, height, width]: LatentDims): LatentDims {
    return [this.layers, channels, height / this.layers, width];
  }

  #below(drawn: Float32Array<ArrayBuffer>, [, channels, height, width]: LatentDims): Float32Array<ArrayBuffer> {
    const { layers } = this;
    const plane = (height / layers) * width;
    const ordered = new Float32Array(drawn.length);
    for (let layer = 0; layer < layers; layer++) {
      for (let channel = 0; channel < channels; channel++) {
        const from = (layer * channels + channel) * plane;
        ordered.set(drawn.subarray(from, from + plane), (channel * layers + layer) * plane);
      }
    }
    return ordered;
  }
}
