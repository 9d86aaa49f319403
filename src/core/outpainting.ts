/**
 * Outpainting: a picture in a larger frame, whose new ground is painted like the white part of a mask. The result equals inpainting
 * the same framed picture with that mask.
 */
import { StudioError } from './errors.ts';
import type { PixelImage } from './media.ts';
import type { GroundRequest } from './model.ts';
import { noiseSource } from './noise_sources.ts';
import type { NoiseRequest } from './noise.ts';
import { SIDES, type OutpaintContent, type OutpaintRequest } from './outpainting_parameters.ts';

/** Pixels that are added. */
export type Margins = Record<(typeof SIDES)[number], number>;

export function marginsOf(request: OutpaintRequest): Margins {
  const [left, top, right, bottom] = SIDES.map((side) => request[`outpaint_${side}`] ?? 0);
  return { left, top, right, bottom };
}

/**
 * A given picture and its mask as the network is to see them.
 * @param multiple the sides of the new frame must be multiples of it, in pixels
 * @throws StudioError `invalid_operation` for a frame of another size
 */
export function framed(
  picture: PixelImage,
  request: OutpaintRequest & { background?: string | undefined },
  multiple: number,
): { picture: PixelImage; mask: PixelImage } {
  const margins = marginsOf(request);
  const { left, top, right, bottom } = margins;
  const width = requireSide('wide', picture.width, left + right, multiple);
  const height = requireSide('high', picture.height, top + bottom, multiple);
  const ground = request.outpaint_content === 'original' ? colourOf(request.background) : null;
  return {
    picture: { width, height, data: extend(picture, width, height, margins, ground) },
    mask: maskOf(picture, width, height, margins, requireFeather(picture, request.outpaint_feather ?? 0)),
  };
}

/** What the latents of the new ground begin as, where that is not what its pixels become. */
export function groundOf(
  { outpaint_content: content }: { outpaint_content?: OutpaintContent | undefined },
  mask: PixelImage,
  request: NoiseRequest,
): GroundRequest | undefined {
  return content === 'latent_noise' || content === 'latent_nothing' ? latentGround(content, mask, request) : undefined;
}

/** As in AUTOMATIC1111, noise is the seed's own from its beginning. */
export function latentGround(
  content: 'latent_noise' | 'latent_nothing',
  mask: PixelImage,
  request: NoiseRequest,
): GroundRequest {
  return content === 'latent_noise'
    ? { mask, content: 'noise', noise: noiseSource(request) }
    : { mask, content: 'nothing' };
}

function requireSide(how: 'wide' | 'high', side: number, added: number, multiple: number): number {
  const whole = side + added;
  const over = whole % multiple;
  if (over === 0) {
    return whole;
  }
  const more = added + multiple - over;
  throw new StudioError(
    'invalid_operation',
    how === 'wide'
      ? `The new frame would be ${whole} pixels wide, and this checkpoint needs a multiple of ${multiple}; add ${more} pixels to the width in place of ${added}.`
      : `The new frame would be ${whole} pixels high, and this checkpoint needs a multiple of ${multiple}; add ${more} pixels to the height in place of ${added}.`,
  );
}

function requireFeather(picture: { width: number; height: number }, feather: number): number {
  const most = Math.ceil(Math.min(picture.width, picture.height) / 2) - 1;
  if (feather <= most) {
    return feather;
  }
  throw new StudioError(
    'invalid_operation',
    `outpaint_feather is ${feather}, more than half of the picture of ${picture.width}×${picture.height} pixels; choose at most ${most}.`,
  );
}

/** The picture in its frame, and around it one colour, or the colours of its edges stretched outward (numpy.pad's "edge"). */
function extend(
  picture: PixelImage,
  width: number,
  height: number,
  { left, top }: Margins,
  ground: readonly number[] | null,
): PixelImage['data'] {
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.max(y - top, 0), picture.height - 1);
    for (let x = 0; x < width; x++) {
      const column = Math.min(Math.max(x - left, 0), picture.width - 1);
      const at = (y * width + x) * 4;
      if (ground && (row !== y - top || column !== x - left)) {
        data.set(ground, at);
      } else {
        const from = (row * picture.width + column) * 4;
        for (let channel = 0; channel < 4; channel++) {
          data[at + channel] = picture.data[from + channel];
        }
      }
    }
  }
  return data;
}

/**
 * White on the new ground, black on the picture; between them, inside the picture, the square of the nearness to a widened side.
 * Reference: ComfyUI, nodes.py (ImagePadForOutpaint)
 * @param feather width of that seam in pixels, less than half of the picture
 */
function maskOf(
  picture: { width: number; height: number },
  width: number,
  height: number,
  { left, top, right, bottom }: Margins,
  feather: number,
): PixelImage {
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < picture.width; x++) {
      const distance = Math.min(
        left > 0 ? x : Infinity,
        top > 0 ? y : Infinity,
        right > 0 ? picture.width - x : Infinity,
        bottom > 0 ? picture.height - y : Infinity,
      );
      const nearness = distance < feather ? (feather - distance) / feather : 0;
      const at = ((y + top) * width + x + left) * 4;
      data.fill(Math.round(255 * nearness ** 2), at, at + 3);
    }
  }
  return { width, height, data };
}

function colourOf(background = '#ffffff'): number[] {
  return [...[1, 3, 5].map((at) => Number.parseInt(background.slice(at, at + 2), 16)), 255];
}
