/**
 * Sizes reference pictures for a network: FLUX.2's unchanged up to a million pixels and cropped around their centre to whole tokens,
 * Qwen-Image's scaled to an area.
 *
 * Reference: diffusers/pipelines/flux2/pipeline_flux2_klein.py, pipelines/qwenimage/pipeline_qwenimage_edit_plus.py and image_processor.py
 */
import { sidesWithArea } from '../../core/area_sides.ts';
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import { resizeLanczos } from '../../formats/resample.ts';

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
  if (Math.min(width, height) < SHORTEST_SIDE) {
    throw new StudioError(
      'invalid_operation',
      `A picture of ${sides} is too small to be shown to this checkpoint; give one of at least ${SHORTEST_SIDE} pixels on each side.`,
    );
  }
  if (Math.max(width / height, height / width) > LONGEST_RATIO) {
    throw new StudioError(
      'invalid_operation',
      `A picture of ${sides} is too long to be shown to this checkpoint; give one that is at most ${LONGEST_RATIO} times as long as wide.`,
    );
  }
  const scale = Math.sqrt(LARGEST / (width * height));
  const fitted = scale < 1 ? resizeLanczos(image, Math.trunc(width * scale), Math.trunc(height * scale)) : image;
  const whole = (side: number) => Math.floor(side / multiple) * multiple;
  return middleOf(fitted, whole(fitted.width), whole(fitted.height));
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

function middleOf({ width, height, data }: PixelImage, newWidth: number, newHeight: number): PixelImage {
  const [left, top] = [Math.floor((width - newWidth) / 2), Math.floor((height - newHeight) / 2)];
  const middle = new Uint8ClampedArray(4 * newWidth * newHeight);
  for (let row = 0; row < newHeight; row++) {
    const from = 4 * ((top + row) * width + left);
    middle.set(data.subarray(from, from + 4 * newWidth), 4 * row * newWidth);
  }
  return { width: newWidth, height: newHeight, data: middle };
}
