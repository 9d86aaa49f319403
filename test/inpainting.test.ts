/** What a mask is made of before it is used. Whole pictures are compared with diffusers' in test/fidelity. */
import { expect, test } from 'vitest';
import { masked } from '../src/core/inpainting.ts';
import { shapedMask } from '../src/core/mask_shape.ts';
import type { PixelImage } from '../src/core/media.ts';
import { cropped, maskedRegion, putBack } from '../src/core/only_masked.ts';

const SIZE = { width: 512, height: 512 };
const drawing = (width: number, height: number, grey: (x: number, y: number) => number): PixelImage => {
  const greys = Array.from({ length: width * height }, (_, i) => grey(i % width, Math.floor(i / width)));
  return { width, height, data: new Uint8ClampedArray(greys.flatMap((one) => [one, one, one, 255])) };
};
const greys = ({ data }: PixelImage) => [...data].filter((_, i) => i % 4 === 0);
const spot = (x: number, y: number) => (x === 2 && y === 2 ? 255 : 0);

test('a mask grows by a diamond, and shrinks back', () => {
  const one = drawing(5, 5, spot);
  expect(shapedMask(one, {})).toBe(one);
  const grown = shapedMask(one, { mask_grow: 1 });
  expect(
    greys(grown)
      .map((grey) => (grey === 255 ? '#' : '.'))
      .join(''),
  ).toBe('.......#...###...#.......');
  expect(greys(shapedMask(grown, { mask_grow: -1 }))).toEqual(greys(one));
});

test('the part around a mask has the shape of the size, moves into the picture, and goes on beyond it only where it must', () => {
  const white = (x: number, y: number) => (x >= 90 && x < 98 && y >= 40 && y < 44 ? 255 : 0);
  const mask = drawing(100, 80, white);
  // 10 around it, of which 2 have no room on the right; then 4 more in width, for which it moves to the left.
  expect(maskedRegion(mask, SIZE, 10)).toEqual({ x: 76, y: 30, width: 24, height: 24 });
  const whole = drawing(100, 80, () => 255);
  expect(maskedRegion(whole, SIZE, 0)).toEqual({ x: 0, y: -10, width: 100, height: 100 });
  const picture = drawing(100, 80, (x, y) => x + y);
  const region = { x: 0, y: -10, width: 100, height: 100 };
  const part = cropped(picture, region);
  expect(greys(part).slice(0, 2)).toEqual([0, 1]);
  expect(putBack(picture, part, region)).toEqual(picture);
  expect(() =>
    maskedRegion(
      drawing(8, 8, () => 0),
      SIZE,
      4,
    ),
  ).toThrow(/^The mask is black everywhere/);
});

test('a mask of another shape is refused, and of another size where pixels count', () => {
  const picture = drawing(16, 16, () => 9);
  const request = { seed: '1', batch_size: 1 };
  const given = (width: number, height: number, more = {}) =>
    masked(
      picture,
      drawing(width, height, () => 255),
      { ...request, ...more },
      SIZE,
    );
  const refused = "The mask has 16×8 pixels and the picture 16×16; give a mask of the picture's size.";
  expect(() => given(16, 8)).toThrow(refused);
  expect(given(8, 8).mask?.width).toBe(8);
  expect(() => given(8, 8, { mask_feather: 2 })).toThrow(/^The mask has 8×8 pixels and the picture 16×16/);
  expect(given(16, 16, { mask_content: 'latent_nothing' }).ground?.content).toBe('nothing');
});
