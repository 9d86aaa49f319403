/**
 * How FLUX.3 sees a picture that it is shown alone: whole, on a canvas of whole tokens, which is also the size of what it makes of it.
 * Reference: diffusers/modular_pipelines/flux3/image_processor.py
 */
import { roundHalfToEven } from './area_sides.ts';
import type { PicturePart } from './picture_part.ts';

interface Sides {
  /** In pixels. */
  width: number;
  height: number;
}

export interface ReferenceCanvas extends Sides {
  /** The picture in its middle, scaled down where it is large. */
  picture: PicturePart;
}

const LARGEST = 4 * 1024 * 1024;
const [SHORTEST, LONGEST] = [64, 4096];

/** @param multiple pixels per side of a token */
export function referenceCanvas({ width, height }: Sides, multiple: number): ReferenceCanvas {
  const whole = (side: number) => Math.min(LONGEST, Math.max(SHORTEST, Math.ceil(side / multiple) * multiple));
  let scale = Math.min(1, Math.sqrt(LARGEST / (width * height)), LONGEST / Math.max(width, height));
  for (;;) {
    const scaled = (side: number) => Math.max(1, roundHalfToEven(side * scale));
    const picture = { width: scaled(width), height: scaled(height) };
    const canvas = { width: whole(picture.width), height: whole(picture.height) };
    if (canvas.width * canvas.height <= LARGEST) {
      const before = (side: 'width' | 'height') => Math.floor((canvas[side] - picture[side]) / 2);
      return { ...canvas, picture: { ...picture, left: before('width'), top: before('height') } };
    }
    scale *= 0.995;
  }
}
