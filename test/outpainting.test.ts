/** The frame of a picture that is widened. Whole pictures are compared with diffusers' in test/fidelity. */
import { expect, test } from 'vitest';
import { framed, groundOf } from '../src/core/outpainting.ts';

/** Two rows of three pixels, each grey by its number. */
const picture = {
  width: 3,
  height: 2,
  data: new Uint8ClampedArray([1, 2, 3, 4, 5, 6].flatMap((value) => [value, value, value, 255])),
};
const greys = ({ data }: { data: Uint8ClampedArray }) => [...data].filter((_, i) => i % 4 === 0);

test("the edge's colours are stretched outward, around corners too, or one colour lies there", () => {
  const { picture: whole, mask } = framed(picture, { outpaint_left: 1, outpaint_bottom: 1 }, 1);
  expect([whole.width, whole.height]).toEqual([4, 3]);
  expect(greys(whole)).toEqual([1, 1, 2, 3, 4, 4, 5, 6, 4, 4, 5, 6]);
  expect(greys(mask)).toEqual([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255]);
  const coloured = { outpaint_right: 1, outpaint_content: 'original', background: '#070809' } as const;
  expect(greys(framed(picture, coloured, 1).picture)).toEqual([1, 2, 3, 7, 4, 5, 6, 7]);
  expect(groundOf(coloured, mask, { seed: '1', batch_size: 1 })).toBeUndefined();
});

test('the seam lies inside the picture, at the sides that grow alone', () => {
  const wide = { width: 8, height: 8, data: new Uint8ClampedArray(256) };
  const { mask } = framed(wide, { outpaint_left: 2, outpaint_feather: 2 }, 2);
  // The squares of 2/2 and 1/2.
  expect(greys(mask).slice(0, 10)).toEqual([255, 255, 255, 64, 0, 0, 0, 0, 0, 0]);
});

test('frames that a checkpoint cannot take, and seams that no picture has, are refused', () => {
  const wide = { width: 60, height: 64, data: new Uint8ClampedArray(60 * 64 * 4) };
  expect(() => framed(wide, { outpaint_left: 8 }, 8)).toThrow(
    'The new frame would be 68 pixels wide, and this checkpoint needs a multiple of 8; add 12 pixels to the width in place of 8.',
  );
  expect(() => framed(wide, { outpaint_left: 4, outpaint_feather: 30 }, 8)).toThrow(/choose at most 29/);
});
