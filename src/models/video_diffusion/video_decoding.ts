/** How the latents of a video become its frames. */
import type { DecodingNoise } from '../../core/model.ts';
import type { PixelImage } from '../../core/media.ts';

export interface VideoDecoding {
  signal: AbortSignal;
  /** Takes each frame, in order. */
  take: (frame: PixelImage) => Promise<void>;
  /** See `DecodeRequest.noise`. */
  noise?: DecodingNoise | undefined;
}
