/**
 * How Qwen-Image-Edit looks at pictures: the text encoder sees them, and the transformer is shown their latents at about a million pixels.
 * Reference: diffusers/pipelines/qwenimage/pipeline_qwenimage_edit{,_plus}.py
 */
import { MEGAPIXEL } from '../../core/area_sides.ts';
import { passedLimits } from '../../core/checkpoint_limits.ts';
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { EncodedPicture } from '../latent_diffusion/networks.ts';
import type { SeenPicture, Sight } from './flow_networks.ts';
import type { KlPictures } from './kl_pictures.ts';
import type { QwenVision } from './qwen_vision.ts';
import { sidesOf } from './shown_pictures.ts';

/** Area at which the text encoder sees pictures, in pixels, and how many it may be given. */
export const SIGHTS = {
  edit: { seen: MEGAPIXEL, most: 1 },
  // The authors taught it with up to three.
  edit_plus: { seen: 384 * 384, most: 3 },
};

export class QwenSight implements Sight {
  /**
   * @param name of the checkpoint, for people
   * @param multiple pixels per side of a token of the transformer
   */
  constructor(
    readonly name: string,
    readonly kind: keyof typeof SIGHTS,
    readonly vision: QwenVision,
    readonly pictures: KlPictures,
    readonly multiple: number,
  ) {}

  see(images: readonly PixelImage[]): Promise<SeenPicture[]> {
    const { seen, most: mostPictures } = SIGHTS[this.kind];
    const [sentence] = passedLimits({ name: this.name, mostPictures }, { images });
    if (sentence !== undefined) {
      throw new StudioError('invalid_operation', sentence);
    }
    return this.vision.see(images.map((image) => scaledTo(image, seen)));
  }

  sized(image: PixelImage): PixelImage {
    const sides = sidesOf(image, MEGAPIXEL);
    const whole = (side: number) => Math.floor(side / this.multiple) * this.multiple;
    // Of one picture the pipeline scales what it made for the text encoder.
    const first = this.kind === 'edit' ? resizeLanczos(image, sides.width, sides.height) : image;
    return resizeLanczos(first, whole(sides.width), whole(sides.height));
  }

  encode(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeMiddle(pixels);
  }
}

function scaledTo(image: PixelImage, area: number): PixelImage {
  const { width, height } = sidesOf(image, area);
  return resizeLanczos(image, width, height);
}
