/** What chunks that make videos share: writing one while it is decoded. */
import type { Context } from './chunk.ts';
import type { Latents, Model } from './model.ts';
import type { Video, VideoFormat } from './video.ts';

export interface Film {
  frames: number;
  rate: number;
  format: VideoFormat;
  tile_size?: number | undefined;
  phased?: boolean | undefined;
}

/** Each frame is encoded as soon as it is decoded. A video that is cancelled half way keeps its frames so far, as the output `video`. */
export async function film(
  { frames, rate, format, tile_size, phased }: Film,
  size: { width: number; height: number },
  latents: Latents,
  model: Model,
  { progress, signal, notice, writeVideo, keepPart }: Context,
): Promise<Video> {
  const writer = await writeVideo({ ...size, rate, format });
  let done = 0;
  try {
    await model.decode(latents, {
      tile_size,
      phased,
      frames,
      signal,
      take: async (frame) => {
        await writer.add(frame);
        done += 1;
        progress('decode', done, frames);
      },
      onPart: () => undefined,
    });
    return await writer.finish();
  } catch (error) {
    if (signal.aborted && done > 0) {
      notice(`Cancelled after ${done} of ${frames} frames, which are kept as a shorter video.`);
      await keepPart('video', await writer.finish());
    } else {
      await writer.discard();
    }
    throw error;
  }
}
