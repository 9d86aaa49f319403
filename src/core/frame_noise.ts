/** The noise of a video: a generator draws it as [channels, frames, height, width], while its frames are a batch of pictures here. */
import type { LatentDims, NoiseInterval, NoiseSource } from './noise.ts';
import { OrderedNoise, transposed } from './ordered_noise.ts';

export class FrameNoise extends OrderedNoise {
  /** @param startsByFrame whether what sampling starts from is drawn frame by frame, as diffusers does it where a video is given */
  constructor(
    source: NoiseSource,
    readonly startsByFrame: boolean,
  ) {
    super(source);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.startsByFrame ? this.source.ofStart(dims) : byFrame(this.source.ofStart(asVideo(dims)), dims);
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    return byFrame(this.source.ofStep(asVideo(dims), interval), dims);
  }
}

/** All frames stacked into one tall picture, whose numbers are drawn in the same order. */
function asVideo([frames, channels, height, width]: LatentDims): LatentDims {
  return [1, channels, frames * height, width];
}

function byFrame(drawn: Float32Array<ArrayBuffer>, [frames, channels, height, width]: LatentDims) {
  return transposed(drawn, channels, frames, height * width);
}
