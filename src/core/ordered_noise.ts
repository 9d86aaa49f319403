/** Noise that a generator draws in another order than the one it is used in. */
import type { LatentDims, NoiseInterval, NoiseSource, NoiseState } from './noise.ts';

export abstract class OrderedNoise implements NoiseSource {
  constructor(readonly source: NoiseSource) {}

  abstract ofStart(dims: LatentDims): Float32Array<ArrayBuffer>;
  abstract ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer>;

  ofPosterior(count: number): Float32Array<ArrayBuffer> | null {
    return this.source.ofPosterior(count);
  }

  get state(): NoiseState {
    return this.source.state;
  }

  set state(state: NoiseState) {
    this.source.state = state;
  }
}

/**
 * @param drawn [rows, columns, plane]
 * @returns [columns, rows, plane]
 */
export function transposed(
  drawn: Float32Array<ArrayBuffer>,
  rows: number,
  columns: number,
  plane: number,
): Float32Array<ArrayBuffer> {
  const ordered = new Float32Array(drawn.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const from = (row * columns + column) * plane;
      ordered.set(drawn.subarray(from, from + plane), (column * rows + row) * plane);
    }
  }
  return ordered;
}
