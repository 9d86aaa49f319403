/** The noise of a video: a generator draws it as [channels, frames, height, width], while its frames are a batch of pictures here. */
import type { LatentDims, NoiseInterval, NoiseSource, NoiseState } from './noise.ts';

export class FrameNoise implements NoiseSource {
  /** @param startsByFrame whether what sampling starts from is drawn frame by frame, as diffusers does it where a video is given */
  constructor(
    readonly source: NoiseSource,
    readonly startsByFrame: boolean,
  ) {}

  ofPosterior(count: number): Float32Array<ArrayBuffer> | null {
    return this.source.ofPosterior(count);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.startsByFrame ? this.source.ofStart(dims) : byFrame(this.source.ofStart(asVideo(dims)), dims);
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    return byFrame(this.source.ofStep(asVideo(dims), interval), dims);
  }

  get state(): NoiseState {
    return this.source.state;
  }

  set state(state: NoiseState) {
    this.source.state = state;
  }
}

/** All frames stacked into one tall picture, whose numbers are drawn in the same order. */
function asVideo([frames, channels, height, width]: LatentDims): LatentDims {
  return [1, channels, frames * height, width];
}

function byFrame(drawn: Float32Array<ArrayBuffer>, [frames, channels, height, width]: LatentDims) {
  const plane = height * width;
  const ordered = new Float32Array(drawn.length);
  for (let frame = 0; frame < frames; frame++) {
    for (let channel = 0; channel < channels; channel++) {
      const from = (channel * frames + frame) * plane;
      ordered.set(drawn.subarray(from, from + plane), (frame * channels + channel) * plane);
    }
  }
  return ordered;
}
