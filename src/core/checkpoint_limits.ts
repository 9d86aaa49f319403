/** What a checkpoint cannot do as asked, as far as its summary tells: said before anything of it is fetched, and again where it runs. */
import type { CheckpointSummary } from './model.ts';

type Limits = Pick<CheckpointSummary, 'name' | 'longestSide' | 'mostPictures'>;

/** @returns a sentence for each limit that these parameters pass */
export function passedLimits(
  { name, longestSide, mostPictures }: Limits,
  { width, height, images }: Record<string, unknown>,
): string[] {
  const side = (value: unknown) => (typeof value === 'number' ? value : 0);
  const given = Array.isArray(images) ? images.length : 0;
  return [
    ...(mostPictures !== undefined && given > mostPictures ? [tooManyPictures(name, mostPictures, given)] : []),
    ...(longestSide !== undefined && Math.max(side(width), side(height)) > longestSide
      ? [tooLong(name, longestSide, side(width), side(height))]
      : []),
  ];
}

function tooManyPictures(name: string, most: number, given: number): string {
  return most === 1
    ? `"${name}" works from one picture, and ${given} are given; leave the others out, or choose a checkpoint that works from several, such as Qwen-Image-Edit 2509 or 2511.`
    : `"${name}" works from at most ${most} pictures, and ${given} are given; leave some out.`;
}

function tooLong(name: string, longest: number, width: number, height: number): string {
  return width > 0 && height > 0
    ? `"${name}" makes pictures of at most ${longest} pixels per side, not ${width}×${height}; choose a smaller size.`
    : `"${name}" makes pictures of at most ${longest} pixels per side, not ${width || height}; choose a smaller size.`;
}
