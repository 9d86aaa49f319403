/** Pictures seen by CLIP's vision encoder, on the device. */
import type { PixelImage } from '../../core/media.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Network } from '../../engine/runtime.ts';
import { clipPicture } from '../../formats/clip_picture.ts';
import * as clipVision from '../../graphs/clip_vision.ts';

/**
 * @param pictures null stands for what is left where there is none
 * @param into takes what is seen of them, one after another
 */
export async function seeByClip(
  engine: Engine,
  { network, config }: { network: Network; config: clipVision.Config },
  pictures: readonly (PixelImage | null)[],
  output: clipVision.VisionOutput,
  into: DeviceTensor,
): Promise<void> {
  const { arithmetic } = engine;
  const side = config.image_size;
  const one = arithmetic.empty(clipVision.outputDims(config, output));
  const count = one.dims.reduce((product, dim) => product * dim, 1);
  try {
    for (const [n, picture] of pictures.entries()) {
      const pixels = picture ? clipPicture(picture, side).data : new Float32Array(3 * side * side);
      const input = arithmetic.upload(pixels, [1, 3, side, side]);
      await engine.run(network, { pixel_values: input }, { [output]: one });
      arithmetic.copy(one, 0, into, n * count, count);
      input.dispose();
    }
  } finally {
    one.dispose();
  }
}
