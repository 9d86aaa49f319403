/**
 * Sizes reference pictures for a network: FLUX.2's unchanged up to a million pixels and cropped around their centre to whole tokens, as are
 * FLUX.3's where there are several, while a single one is filled up; Qwen-Image's scaled to an area.
 *
 * Reference: diffusers/pipelines/flux2/pipeline_flux2_klein.py, modular_pipelines/flux3/image_processor.py,
 * pipelines/qwenimage/pipeline_qwenimage_edit_plus.py and image_processor.py
 */
import { sidesWithArea } from '../../core/area_sides.ts';
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import { partOf } from '../../core/picture_part.ts';
import { referenceCanvas } from '../../core/reference_canvas.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';

const LARGEST = 1024 * 1024;
const SHORTEST_SIDE = 64;
const LONGEST_RATIO = 8;

/**
 * @param multiple pixels per side of a token
 * @throws StudioError `invalid_operation` for a picture that is too small or too long
 */
export function shownAs(image: PixelImage, multiple: number): PixelImage {
  const { width, height } = image;
  const sides = `${width}×${height} pixels`;
  requireSide(image, SHORTEST_SIDE, image);
  if (Math.max(width / height, height / width) > LONGEST_RATIO) {
    throw new StudioError(
      'invalid_operation',
      `A picture of ${sides} is too long to be shown to this checkpoint; give one that is at most ${LONGEST_RATIO} times as long as wide.`,
    );
  }
  return inWholeTokens(image, multiple);
}

/**
 * At most a million pixels of the picture, cropped around its centre to whole tokens.
 * @throws StudioError `invalid_operation` for a picture smaller than a token
 */
export function inWholeTokens(image: PixelImage, multiple: number): PixelImage {
  const { width, height } = image;
  const scale = Math.sqrt(LARGEST / (width * height));
  const fitted = scale < 1 ? resizeLanczos(image, Math.trunc(width * scale), Math.trunc(height * scale)) : image;
  requireSide(image, multiple, fitted);
  const whole = (side: number) => Math.floor(side / multiple) * multiple;
  return middleOf(fitted, whole(fitted.width), whole(fitted.height));
}

/** @param fitted the picture as it would be shown */
function requireSide({ width, height }: PixelImage, shortest: number, fitted: { width: number; height: number }): void {
  if (Math.min(fitted.width, fitted.height) < shortest) {
    const sides = `${width}×${height} pixels`;
    throw new StudioError(
      'invalid_operation',
      `A picture of ${sides} is too small to be shown to this checkpoint; give one of at least ${shortest} pixels on each side.`,
    );
  }
}

/** Beyond this Qwen2.5-VL's processor sees no picture. */
const LONGEST_SEEN_RATIO = 200;

/**
 * Sides of about this area in the picture's proportions.
 * @param area in pixels
 * @throws StudioError `invalid_operation` for a picture that is too long
 */
export function sidesOf(
  { width, height }: { width: number; height: number },
  area: number,
): { width: number; height: number } {
  const ratio = width / height;
  if (Math.max(ratio, 1 / ratio) > LONGEST_SEEN_RATIO) {
    const sides = `${width}×${height} pixels`;
    throw new StudioError(
      'invalid_operation',
      `A picture of ${sides} is too long to be shown to this checkpoint; give one that is at most ${LONGEST_SEEN_RATIO} times as long as wide.`,
    );
  }
  return sidesWithArea({ width, height }, area);
}

function middleOf(image: PixelImage, width: number, height: number): PixelImage {
  const [left, top] = [Math.floor((image.width - width) / 2), Math.floor((image.height - height) / 2)];
  return partOf(image, { left, top, width, height });
}

/**
 * The picture whole, in the middle of a canvas that its reflection fills, as FLUX.3 sees one that is shown alone.
 * @param multiple pixels per side of a token
 */
export function onCanvas(image: PixelImage, multiple: number): PixelImage {
  const { width, height, picture } = referenceCanvas(image, multiple);
  const isScaled = picture.width !== image.width || picture.height !== image.height;
  const { data } = isScaled ? resizeLanczos(image, picture.width, picture.height) : image;
  // A picture no larger than a token is mirrored with its edge, others without it.
  const edge = Math.min(picture.width, picture.height) > multiple ? 0 : 1;
  const columns = Array.from({ length: width }, (_, x) => reflected(x - picture.left, picture.width, edge));
  const filled = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    const row = reflected(y - picture.top, picture.height, edge) * picture.width;
    columns.forEach((column, x) => {
      const from = 4 * (row + column);
      filled.set(data.subarray(from, from + 4), 4 * (y * width + x));
    });
  }
  return { width, height, data: filled };
}

/** Where a line of `length` points, reflected at both of its ends again and again, shows its point `at`. */
function reflected(at: number, length: number, edge: 0 | 1): number {
  const period = 2 * (length - 1 + edge);
  if (period === 0) {
    return 0;
  }
  const within = ((at % period) + period) % period;
  return within < length ? within : period - edge - within;
}
