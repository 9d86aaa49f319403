/** Sides of pictures that shall have a certain area, as diffusers' pipelines of Qwen-Image reckon them (`calculate_dimensions`). */

/** 1024×1024 pixels. */
export const MEGAPIXEL = 1024 * 1024;
/** What sides are whole multiples of, in pixels. */
const STEP = 32;

/** @returns sides in the proportions of the given ones, with about this area in pixels */
export function sidesWithArea(
  { width, height }: { width: number; height: number },
  area: number,
): { width: number; height: number } {
  const ratio = width / height;
  const wide = Math.sqrt(area * ratio);
  const whole = (side: number) => Math.max(1, roundHalfToEven(side / STEP)) * STEP;
  return { width: whole(wide), height: whole(wide / ratio) };
}

/** As {@link sidesWithArea}, in whole multiples of so many pixels, which a model's latents may want. */
export function sidesInMultiples(
  picture: { width: number; height: number },
  area: number,
  multiple: number,
): { width: number; height: number } {
  const { width, height } = sidesWithArea(picture, area);
  const whole = (side: number) => Math.max(multiple, Math.floor(side / multiple) * multiple);
  return { width: whole(width), height: whole(height) };
}

/** As Python rounds. */
export function roundHalfToEven(value: number): number {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}
