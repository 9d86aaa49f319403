/** ComfyUI's ModelSampling nodes in operations; their levels are held to ComfyUI's in test/samplers.test.ts and test/fidelity. */
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { parameters as flux2 } from '../chunks/output_image_flux2.ts';
import { parameters as qwenImage } from '../chunks/output_image_qwen_image.ts';
import { openModel } from '../src/models/family.ts';
import { filesOf } from './checkpoint_folder.ts';
import { paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

const STRAY = /^base_shift, max_shift, shift_width and shift_height belong to the model_sampling ModelSamplingFlux/;

test.each([
  [qwenImage, { model_sampling: 'ModelSamplingAuraFlow', shift: 3.1 }, null],
  [qwenImage, { model_sampling: 'ModelSamplingFlux', base_shift: 0.3, max_shift: 2, shift_width: 640 }, null],
  [qwenImage, { model_sampling: 'ModelSamplingFlux', shift: 3 }, STRAY],
  [flux2, { model_sampling: 'ModelSamplingSD3', max_shift: 1 }, STRAY],
  [flux2, { shift_height: 512 }, STRAY],
  [flux2, { model_sampling: 'ModelSamplingStableCascade' }, /^model_sampling must be one of ModelSamplingAuraFlow, /],
  [flux2, { model_sampling: 'ModelSamplingFlux', shift_height: 8 }, /^shift_height must be a whole number from 16/],
])('%#: %o', (schema, given, expected) => {
  const result = v.safeParse(schema, { operation: 'image_generation', prompt: 'a fox', ...given });
  expect(result.issues?.[0].message ?? null).toEqual(expected === null ? null : expect.stringMatching(expected));
});

test("a node's shift takes the place of the checkpoint's, with ComfyUI's schedules, and Flux's goes by the size", async () => {
  const files = filesOf('tiny-qwen-image', weightlessContents('tiny-qwen-image'));
  const model = await openModel(files, startNodeEngine().engine);
  const make = async (chosen: Record<string, unknown>) => {
    const parameters = { prompt: 'a fox', seed: '1', width: 32, height: 48, steps: 2, guidance_scale: 1, ...chosen };
    const operation = { operation: 'image_generation', config: 'qwen_image', parameters };
    const { latents } = await paint(model, operation, '');
    return { values: [...latents.data].join(), used: await model.provenance() };
  };
  const own = await make({});
  const sd3 = await make({ model_sampling: 'ModelSamplingSD3' });
  expect(sd3.used).toMatchObject({ sampler: 'euler', schedule: 'normal', follows: 'comfyui' });
  expect(sd3.values).not.toBe(own.values);
  // As its own sampler does once the levels are ComfyUI's.
  const same = await make({ model_sampling: 'ModelSamplingAuraFlow', shift: 3, sampler: 'euler', schedule: 'normal' });
  expect(same.values).toBe(sd3.values);
  const flux = await make({ model_sampling: 'ModelSamplingFlux' });
  expect((await make({ model_sampling: 'ModelSamplingFlux', shift_width: 32, shift_height: 48 })).values).toBe(
    flux.values,
  );
  expect((await make({ model_sampling: 'ModelSamplingFlux', shift_width: 1024 })).values).not.toBe(flux.values);
  await model.release();
});
