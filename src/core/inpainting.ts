/** Inpainting: a given picture and its mask as the network is to see them, and what is laid over the results. Loaded where there is a mask. */
import { StudioError } from './errors.ts';
import type { MaskRequest } from './mask_parameters.ts';
import { shapedMask } from './mask_shape.ts';
import type { PixelImage } from './media.ts';
import type { GroundRequest } from './model.ts';
import type { NoiseRequest } from './noise.ts';
import { cropped, maskedRegion, SAME_SHAPE } from './only_masked.ts';
import { latentGround } from './outpainting.ts';
import type { GivenPicture } from './painting.ts';

type Request = MaskRequest &
  NoiseRequest & { width?: number | undefined; height?: number | undefined; overlay_inpaint?: boolean | undefined };

/**
 * @param usual the size at which a part of the picture is painted where the request says none, in pixels
 * @throws StudioError `invalid_operation` for a mask of another shape, or of another size where pixels count, and for one that changes nothing
 * where only the masked part is painted
 */
export function masked(
  picture: PixelImage,
  given: PixelImage,
  request: Request,
  usual: { width: number; height: number },
): GivenPicture {
  requireFit(picture, given, request);
  const mask = shapedMask(given, request);
  if (request.mask_padding === undefined) {
    const overlay = request.overlay_inpaint === false ? undefined : { picture, mask };
    return { picture, mask, ground: groundOf(request, mask), overlay };
  }
  const { width = usual.width, height = usual.height } = request;
  const region = maskedRegion(mask, { width, height }, request.mask_padding);
  const seen = cropped(mask, region);
  return {
    picture: cropped(picture, region),
    mask: seen,
    ground: groundOf(request, seen),
    overlay: { picture, mask, region },
    width,
    height,
  };
}

function requireFit(picture: PixelImage, mask: PixelImage, request: MaskRequest): void {
  const isItsSize = mask.width === picture.width && mask.height === picture.height;
  const hasItsShape = Math.abs(Math.log((mask.width * picture.height) / (mask.height * picture.width))) <= SAME_SHAPE;
  const countsPixels =
    (request.mask_grow ?? 0) !== 0 || (request.mask_feather ?? 0) !== 0 || request.mask_padding !== undefined;
  if (!(countsPixels ? isItsSize : hasItsShape)) {
    throw new StudioError(
      'invalid_operation',
      `The mask has ${mask.width}×${mask.height} pixels and the picture ${picture.width}×${picture.height}; give a mask of the picture's size.`,
    );
  }
}

function groundOf(request: Request, mask: PixelImage): GroundRequest | undefined {
  const { mask_content: content = 'original' } = request;
  return content === 'original'
    ? undefined
    : content === 'fill'
      ? { mask, content: 'around' }
      : latentGround(content, mask, request);
}
