/** A noise source whose initial noise was drawn before anything else. */
import type { LatentDims, NoiseInterval, NoiseSource, NoiseState } from './noise.ts';

export class DrawnStart implements NoiseSource {
  #start: Float32Array<ArrayBuffer> | null;

  constructor(
    readonly source: NoiseSource,
    start: Float32Array<ArrayBuffer>,
  ) {
    this.#start = start;
  }

  ofPosterior(count: number): Float32Array<ArrayBuffer> | null {
    return this.source.ofPosterior(count);
  }

  /** The first time what was drawn, and then what the source draws. */
  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    const drawn = this.#start;
    this.#start = null;
    return drawn ?? this.source.ofStart(dims);
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    return this.source.ofStep(dims, interval);
  }

  get state(): NoiseState {
    return this.source.state;
  }

  set state(state: NoiseState) {
    this.source.state = state;
  }
}
