/** What the checkpoints of `test/architectures` can do and what they refuse; their pictures are compared by test/fidelity/pictures.ts. */
import 'fake-indexeddb/auto';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { CpuTensor } from '../src/core/media.ts';
import * as unet2d from '../src/graphs/unet2d_condition.ts';
import { openModel } from '../src/models/family.ts';
import { Checkpoint } from '../src/weights/checkpoint.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensors } from '../src/weights/safetensors.ts';
import { architectureContents, architectureFile, architectureFiles } from './architecture_checkpoints.ts';
import { filesOf, type Contents } from './checkpoint_folder.ts';
import { paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import { readTensors, run } from './onnx_node.ts';

test('LCM’s network takes the guidance scale as an input', async () => {
  const files = architectureFiles('lcm');
  const { config: json, weights, files: paths } = await (await Checkpoint.open(files)).component('unet');
  const blobs = new Map(await Promise.all(paths.map(async (path) => [path, await files.blob(path)] as const)));
  const config = unet2d.parseConfig(json);
  const size = { provider: 'wasm', dtype: 'f32', batch: 1, height: 8, width: 8 } as const;
  const graph = unet2d.build(config, weights, size);
  const golden = readTensors(join(import.meta.dirname, 'goldens', 'lcm_unet.safetensors'));
  const data = (name: string) => golden.get(name)!.data as Float32Array;
  for (const scale of [1.5, 8.5]) {
    const { out_sample } = await run(
      graph,
      { get: (name) => weights.get(name), names: () => weights.names(), blobs },
      {
        sample: data('sample'),
        time_proj: unet2d.timeProjection(config, 499),
        timestep_cond: unet2d.guidanceProjection(config, scale),
        encoder_hidden_states: data('states'),
      },
    );
    expect(largest(out_sample, data(`out.${scale}`))).toBeLessThan(1e-4);
  }
  expect(largest(data('out.1.5'), data('out.8.5'))).toBeGreaterThan(1e-2);

  // So there is no negative prompt and one network call per step.
  const model = await openModel(files, startNodeEngine().engine);
  const text = { prompt: 'a fox', negative_prompt: 'blurry', guidance_scale: 8, batch_size: 1 };
  expect((await model.encodeText(text)).texts.negative).toBeNull();
  expect(model.summary.pipelineClass).toBe('LatentConsistencyModelPipeline');
});

const text = (parameters: Record<string, unknown>) => ({
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters,
});

describe('a checkpoint', () => {
  const open = (name: string, change: (contents: Contents) => void = () => undefined) => {
    const contents = architectureContents(name);
    change(contents);
    return openModel(filesOf(name, contents), startNodeEngine().engine);
  };
  const edit = (contents: Contents, path: string, more: object) => {
    const before = JSON.parse(new TextDecoder().decode(contents.get(path))) as object;
    contents.set(path, new TextEncoder().encode(JSON.stringify({ ...before, ...more })));
  };

  test('that is the refiner is refused by its name', async () => {
    const refiner = open('sdxl', (contents) => {
      edit(contents, 'model_index.json', { requires_aesthetics_score: true, text_encoder: [null, null] });
    });
    await expect(refiner).rejects.toMatchObject({
      code: 'checkpoint_unsupported',
      message:
        '"sdxl" is the refiner of Stable Diffusion XL, which only goes over what the base checkpoint made and which Darkroom cannot run; choose the base checkpoint.',
    });
  });

  test('whose networks do not fit each other is refused', async () => {
    await expect(
      open('sdxl', (contents) => edit(contents, 'text_encoder_2/config.json', { projection_dim: 32 })),
    ).rejects.toThrow(
      'The UNet of "sdxl" takes 40 numbers of the text as a whole and its text encoder gives 32; its files do not belong together.',
    );
    await expect(
      open('sd1-inpaint', (contents) => edit(contents, 'unet/config.json', { in_channels: 8 })),
    ).rejects.toThrow(
      'The UNet of "sd1-inpaint" takes 8 channels and its autoencoder gives 4; of special checkpoints Darkroom runs those for inpainting, which take 9.',
    );
  });

  test('for inpainting does nothing else, and sizes are for Stable Diffusion XL', async () => {
    const [inpaint, plain] = [await open('sd1-inpaint'), await open('bk-sdm')];
    await expect(paint(inpaint, text({ prompt: 'a fox' }), '')).rejects.toMatchObject({
      code: 'invalid_operation',
      message:
        '"sd1-inpaint" only paints in the white part of a mask; give it a picture and a mask, or choose another checkpoint.',
    });
    await expect(paint(plain, text({ prompt: 'a fox', crop_top: 8 }), '')).rejects.toMatchObject({
      code: 'invalid_operation',
      message: 'crop_top counts only for Stable Diffusion XL, and "bk-sdm" is none; leave it out.',
    });
    expect([inpaint.summary.inpaints, inpaint.summary.takesSizes]).toEqual([true, undefined]);
    expect([plain.summary.inpaints, plain.summary.takesSizes]).toEqual([undefined, undefined]);
    expect((await open('sdxl')).summary).toMatchObject({
      pipelineClass: 'StableDiffusionXLPipeline',
      takesSizes: true,
      defaults: { width: 32, height: 32, sampler: 'euler', schedule: 'leading' },
    });
  });

  test('is on the device in phases where that is asked for, with the same picture', async () => {
    const { engine, log } = startNodeEngine();
    const model = await openModel(filesOf('sdxl', architectureContents('sdxl')), engine);
    const most: number[] = [];
    const parameters = { prompt: 'a fox', negative_prompt: 'day', steps: 2, seed: '1', width: 32, height: 32 };
    const runs: CpuTensor[] = [];
    for (const phased of [false, true]) {
      let alive = 0;
      const create = engine.createNetwork.bind(engine);
      Object.assign(engine, {
        createNetwork: async (...given: Parameters<typeof create>) => {
          const network = await create(...given);
          alive = Math.max(alive, log.created - log.released);
          return network;
        },
      });
      await model.release();
      runs.push((await paint(model, text({ ...parameters, phased }), '')).latents);
      most.push(alive);
    }
    expect(largest(runs[1].data, runs[0].data)).toBe(0);
    // Two encoders, the UNet with its text projections, and the decoder; two at a time.
    expect(most).toEqual([5, 2]);
  });

  test('of Stable Diffusion XL knows a LoRA by the names of every trainer', async () => {
    const model = await open('sdxl');
    const file = architectureFile('sdxl-kohya.safetensors');
    const renamed = (change: (name: string) => string) => {
      const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, 'lora');
      const { tensors } = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, 'lora');
      const entries = [...tensors.values()].map(({ name, shape, offset, length: bytes }) => {
        const data = new Float32Array(file.slice(offset, offset + bytes).buffer);
        return [change(name), { dims: shape, data }] as [string, { dims: number[]; data: Float32Array<ArrayBuffer> }];
      });
      return new Blob([writeSafetensors(entries)]);
    };
    for (const change of [
      (name: string) => name,
      (name: string) =>
        name.replace('lora_te1_', 'lora_te1_text_model_').replace('text_model_text_model', 'text_model'),
      (name: string) =>
        name
          .replace('lora_unet_down_blocks_1_attentions_0', 'lora_unet_input_blocks_3_1')
          .replace('lora_unet_mid_block_attentions_0', 'lora_unet_middle_block_1')
          .replace('lora_unet_up_blocks_0_attentions_1', 'lora_unet_output_blocks_1_1'),
      (name: string) =>
        name
          .replace('lora_te1_', 'text_encoders.clip_l.transformer.')
          .replace('lora_te2_', 'text_encoders.clip_g.transformer.')
          .replace('lora_unet_', 'unet.'),
      (name: string) => name.replace('lora_te1_', 'text_encoder.').replace('lora_te2_', 'text_encoder_2.'),
    ]) {
      expect(await model.useLoras([{ file: renamed(change), name: 'lora', strength: 1 }])).toEqual([]);
    }
  });
});

function largest(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  return Array.from(actual).reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
}
