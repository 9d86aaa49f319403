import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { PixelImage } from '../src/core/media.ts';
import { isMask } from '../src/core/parameters.ts';
import { resizeLanczos } from '../src/core/pillow_resize.ts';
import { isOpaque, layOn } from '../src/formats/background.ts';
import { overlay } from '../src/formats/overlay.ts';
import { imageToTensor, maskToTensor } from '../src/formats/resample.ts';
import { readSafetensorsHeader } from '../src/weights/safetensors.ts';

interface Case {
  name: string;
  from: [number, number];
  to: [number, number];
}
const path = (name: string) => new URL(`goldens/${name}`, import.meta.url);
const { cases } = JSON.parse(readFileSync(path('resample.json'), 'utf8')) as { cases: Case[] };
const file = readFileSync(path('resample.safetensors'));
const { tensors } = await readSafetensorsHeader(new Blob([file]), 'resample.safetensors');

function tensor(name: string): { shape: number[]; bytes: Uint8Array<ArrayBuffer>; floats(): Float32Array } {
  const { shape, offset, length } = tensors.get(name)!;
  const bytes = Uint8Array.from(file.subarray(offset, offset + length));
  return { shape, bytes, floats: () => new Float32Array(bytes.buffer) };
}

/** A picture from u8 [height, width] or [height, width, 3]. */
function picture(name: string): PixelImage {
  const { shape, bytes } = tensor(name);
  const [height, width, channels = 1] = shape as [number, number, number?];
  const data = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      data[i * 4 + c] = bytes[i * channels + (channels === 1 ? 0 : c)];
    }
  }
  return { width, height, data };
}

const pictures = cases.filter(({ name }) => name.startsWith('picture'));
const masks = cases.filter(({ name }) => name.startsWith('mask'));

describe('pictures equal Pillow and diffusers', () => {
  test.each(pictures)('$name: $from to $to', ({ name, to: [width, height] }) => {
    const resized = resizeLanczos(picture(`${name}.in`), width, height);
    expect(resized).toEqual(picture(`${name}.out`));
    const { dims, data } = imageToTensor(resized);
    expect(dims).toEqual(tensor(`${name}.tensor`).shape);
    expect(data).toEqual(tensor(`${name}.tensor`).floats());
  });
});

describe('masks equal diffusers', () => {
  test.each(masks)('$name: $from to $to', ({ name, to: [width, height] }) => {
    const mask = picture(`${name}.in`);
    expect(maskToTensor(mask, width, height, width, height).data).toEqual(tensor(`${name}.out`).floats());
    const latent = maskToTensor(mask, width, height, width / 8, height / 8);
    expect(latent.dims).toEqual(tensor(`${name}.latent`).shape);
    expect(latent.data).toEqual(tensor(`${name}.latent`).floats());
  });
});

describe('the original laid over the result equals diffusers', () => {
  test.each(cases.filter(({ name }) => name.startsWith('overlay')))('$name: $from to $to', ({ name }) => {
    const [original, mask, result] = ['picture', 'mask', 'result'].map((part) => picture(`${name}.${part}`));
    expect(overlay([result], { picture: original, mask })).toEqual([picture(`${name}.out`)]);
  });
});

describe('pictures on a background', () => {
  const { colours, pixels } = JSON.parse(readFileSync(path('backgrounds/pixels.json'), 'utf8')) as {
    colours: string[];
    /** RGBA, then RGB over each of the colours. */
    pixels: number[][][];
  };
  const row = (values: number[]): PixelImage => ({
    width: values.length / 4,
    height: 1,
    data: Uint8ClampedArray.from(values),
  });
  const above = row(pixels.flatMap(([rgba]) => rgba));

  test.each(colours)('Pillow has the same over %s, within 1 of 255', (colour) => {
    const { width, height, data } = layOn(above, colour);
    expect([width, height]).toEqual([above.width, above.height]);
    pixels.forEach((shown, i) => {
      const wanted = [...shown[1 + colours.indexOf(colour)], 255];
      wanted.forEach((value, channel) => {
        expect(Math.abs(data[i * 4 + channel] - value), `pixel ${i}`).toBeLessThanOrEqual(colour === '#ffffff' ? 0 : 1);
      });
    });
    expect(isOpaque({ width, height, data })).toBe(true);
  });

  test('the colour may be written in capitals', () => {
    expect(layOn(above, '#ABCDEF')).toEqual(layOn(above, '#abcdef'));
  });

  test('one pixel that lets a little through makes a picture transparent', () => {
    expect(isOpaque(row([1, 2, 3, 255, 4, 5, 6, 254]))).toBe(false);
    expect(isOpaque(row([0, 0, 0, 255, 254, 254, 254, 255]))).toBe(true);
  });
});

test('masks are told from pictures by their names', () => {
  const masks = ['image', 'mask', 'mask_image', 'control_image', 'masked_image', 'unmask', 'control_mask'].filter(
    isMask,
  );
  expect(masks).toEqual(['mask', 'mask_image', 'control_mask']);
});

describe('edges', () => {
  const fill = (width: number, height: number, value: number): PixelImage => ({
    width,
    height,
    data: new Uint8ClampedArray(width * height * 4).fill(value),
  });

  test('one colour stays that colour at every size, alpha too', () => {
    for (const [width, height] of [
      [1, 1],
      [1, 300],
      [300, 1],
      [17, 16],
    ] as const) {
      const { data } = resizeLanczos(fill(16, 5, 200), width, height);
      expect(data.every((value) => value === 200)).toBe(true);
    }
  });

  test('the result never shares memory with the picture', () => {
    const image = fill(8, 8, 1);
    expect(resizeLanczos(image, 8, 8).data).not.toBe(image.data);
  });
});
