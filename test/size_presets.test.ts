/** Sizes that configs say their checkpoints do well: each is taken by the chunk that is to paint it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { presetsOf, sizesOf } from '../src/app/fields/size_presets.ts';
import { configFiles } from '../src/pipelines/config_files.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { MEGAPIXEL, sidesWithArea } from '../src/core/area_sides.ts';
import { entriesOf } from '../src/core/steps.ts';

const own = Object.entries(configFiles).flatMap(([id, { sizes, parameters }]) =>
  sizes ? [{ id, sizes, chunk: String(parameters.OUTPUT_CHUNK) }] : [],
);

test.each(own)('$id: every size is one that its chunk takes, and none stands twice', ({ sizes, chunk }) => {
  const { width, height } = entriesOf(catalogue.chunks[chunk]);
  for (const bucket of sizes.buckets) {
    const [wide, tall] = bucket[0];
    for (const { megapixels, presets } of presetsOf(sizes, wide * tall)) {
      const texts = presets.map((one) => `${one.width}×${one.height}`);
      expect(new Set(texts).size).toBe(texts.length);
      for (const one of presets) {
        expect(v.is(width, one.width) && v.is(height, one.height), `${one.width}×${one.height}`).toBe(true);
        const area = one.width * one.height;
        expect(megapixels === null || Math.abs(area / (megapixels * 1024 * 1024) - 1) < 0.07, String(area)).toBe(true);
      }
    }
  }
});

test('a config has the sizes of its family, of which those near the area that the checkpoint was trained at count', () => {
  expect(sizesOf('text_to_speech')).toBeNull();
  expect(sizesOf('__proto__')).toBeNull();
  const sizes = sizesOf('stable_diffusion_xl');
  expect(sizes).toEqual(sizesOf('stable_diffusion'));
  const firsts = [512, 768, 1024].map((side) => sizes && presetsOf(sizes, side * side)[0].presets[0].width);
  expect(firsts).toEqual([512, 768, 1024]);
  const landscape =
    sizes && presetsOf(sizes, 1024 * 1024)[0].presets.map(({ width, height, ratio }) => [width, height, ratio]);
  expect(landscape).toContainEqual([1152, 896, null]);
  expect(landscape).toContainEqual([1344, 768, '16:9']);
  expect(landscape).toContainEqual([768, 1344, '9:16']);
});

test('docs/sizes.md says of every list where it comes from', () => {
  const rows = readFileSync(join(import.meta.dirname, '..', 'docs', 'sizes.md'), 'utf8').split('\n');
  const named = rows.flatMap((row) => [...(row.split('|').at(1) ?? '').matchAll(/`(\w+)`/g)].map(([, id]) => id));
  expect(named.sort()).toEqual(own.map(({ id }) => id).sort());
});

test('those of Qwen-Image-Edit are what its pipeline makes of their proportions', () => {
  const [sizes] = configFiles.qwen_image_edit.sizes?.buckets ?? [];
  const proportions = [
    [1, 1],
    [4, 3],
    [3, 2],
    [16, 9],
  ].flatMap(([a, b]) =>
    a === b
      ? [[a, b]]
      : [
          [a, b],
          [b, a],
        ],
  );
  const made = proportions.map(([width, height]) => sidesWithArea({ width, height }, MEGAPIXEL));
  expect(sizes).toEqual(made.map(({ width, height }) => [width, height]));
});
