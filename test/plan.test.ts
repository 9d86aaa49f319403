/** Operations, plans and the contracts that every chunk, pipeline and config must keep. */
import { describe, expect, test } from 'vitest';
import type { Chunk, ChunkContract } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { DeviceReport } from '../src/core/job.ts';
import type { CheckpointSummary } from '../src/core/model.ts';
import { OPERATION_KINDS, parseOperation } from '../src/core/operation.ts';
import { plan, type Catalogue, type Config, type Pipeline } from '../src/core/plan.ts';

const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts', { eager: true });
const pipelineFiles = import.meta.glob<Pipeline>('../src/pipelines/*.json', { eager: true, import: 'default' });
const configFiles = import.meta.glob<Omit<Config, 'id'>>('../src/configs/*.json', { eager: true, import: 'default' });

const stem = (path: string) => path.slice(path.lastIndexOf('/') + 1, path.lastIndexOf('.'));
const catalogue: Catalogue = {
  chunks: Object.fromEntries(Object.values(chunkFiles).map((chunk): [string, ChunkContract] => [chunk.meta.id, chunk])),
  pipelines: Object.fromEntries(Object.entries(pipelineFiles).map(([path, pipeline]) => [stem(path), pipeline])),
  configs: Object.fromEntries(
    Object.entries(configFiles).map(([path, config]) => [stem(path), { ...config, id: stem(path) }]),
  ),
};

const checkpoint: CheckpointSummary = {
  ref: 'folder:tiny',
  name: 'tiny',
  pipelineClass: 'StableDiffusionPipeline',
  bytes: 1000,
  memoryBytes: 2000,
  largestTensorBytes: 500,
  defaults: { width: 512, height: 512, sampler: 'euler', schedule: 'leading' },
  prompts: [],
};
const device: DeviceReport = {
  backend: 'webgpu',
  note: null,
  adapter: 'test',
  precision: 'f32',
  limits: { maxBufferSize: 1000, maxStorageBufferBindingSize: 1000 },
  runtime: 'jspi',
};
const PICTURE = 'data:image/png;base64,AAAA';

function operation(parameters: Record<string, unknown> = {}, rest: Record<string, unknown> = {}) {
  return parseOperation({
    operation: 'image_generation',
    config: 'stable_diffusion',
    parameters: { prompt: 'a tree', ...parameters },
    ...rest,
  });
}

function refusal(
  parameters: Record<string, unknown>,
  rest: Record<string, unknown> = {},
): { code: string; message: string } {
  const result = plan(operation(parameters, rest), catalogue, checkpoint, device);
  expect(result.ok).toBe(false);
  return result.ok ? { code: '', message: '' } : result.reasons[0];
}

describe.each(Object.entries(chunkFiles))('chunk %s', (path, chunk) => {
  test('is named after its file and declares known operations', () => {
    expect(chunk.meta.id).toBe(stem(path));
    expect(chunk.meta.operations.length).toBeGreaterThan(0);
    expect(OPERATION_KINDS).toEqual(expect.arrayContaining([...chunk.meta.operations]));
    expect(chunk.execute).toBeTypeOf('function');
  });

  test('its meta is plain data, so that the page can list it without running anything', () => {
    expect(JSON.parse(JSON.stringify(chunk.meta))).toEqual(chunk.meta);
  });
});

describe.each(Object.entries(catalogue.configs))('config %s', (_id, config) => {
  test('names a pipeline, and fills every open place with a chunk of its medium', () => {
    const pipeline = catalogue.pipelines[config.pipeline];
    expect(pipeline.name).toBe(config.pipeline);
    for (const place of pipeline.chunks) {
      const id = place.startsWith('{{') ? String(config.parameters[place.slice(2, -2)]) : place;
      expect(Object.keys(catalogue.chunks)).toContain(id);
      expect(catalogue.chunks[id].meta.media).toBe(config.media);
    }
  });
});

describe('the operation gate', () => {
  test.each([
    [null, /must be a JSON object/],
    [{ config: 'x', parameters: {} }, /lacks the field "operation"/],
    [{ operation: 'image_dream', config: 'x', parameters: {} }, /operation must be one of image_generation/],
    [{ operation: 'image_generation', config: '', parameters: {} }, /config must not be empty/],
    [{ operation: 'image_generation', config: 'x', parameters: {}, extra: 1 }, /unknown field "extra"/],
    [
      { operation: 'image_generation', config: 'x', parameters: {}, record: ['everything'] },
      /record may contain: latents/,
    ],
    [
      { operation: 'image_generation', config: 'x', parameters: {}, priority: 'urgent' },
      /priority must be high, normal or low/,
    ],
  ])('refuses %j', (value, sentence) => {
    expect(() => parseOperation(value)).toThrow(
      expect.objectContaining({ code: 'invalid_operation', message: expect.stringMatching(sentence) as string }),
    );
  });

  test('an error survives the way through structured clone', () => {
    const error = new StudioError('storage_full', 'No space is left; delete runs.', {
      retry: 'smaller',
      cause: new Error('quota'),
    });
    expect(StudioError.fromData(structuredClone(error.toData()))).toMatchObject({
      code: 'storage_full',
      message: 'No space is left; delete runs.',
      retry: 'smaller',
      cause: 'quota',
    });
  });
});

describe('the plan', () => {
  test('values come from the operation, then the checkpoint, then the config', () => {
    const habits = { ...checkpoint, defaults: { ...checkpoint.defaults, steps: 20, guidance_scale: 4 } };
    const from = (summary: CheckpointSummary, parameters = {}) => {
      const result = plan(operation(parameters), catalogue, summary, device);
      return result.ok ? result.plan.chunks[0].parameters : {};
    };
    expect(from(checkpoint)).toMatchObject({ steps: 25, guidance_scale: 7.5, negative_prompt: '', batch_size: 1 });
    expect(from(habits)).toMatchObject({ steps: 20, guidance_scale: 4 });
    expect(from(habits, { steps: 3 })).toMatchObject({ steps: 3, guidance_scale: 4 });
  });

  test('an operation without a seed gets one, which is then known', () => {
    const result = plan(operation(), catalogue, checkpoint, device);
    expect(result.ok && result.plan.chunks[0].parameters.seed).toMatch(/^[0-9]+$/);
  });

  test.each([
    [{ steps: 0 }, 'steps must be a whole number from 1 to 150.'],
    [{ steps: 2.5 }, 'steps must be a whole number from 1 to 150.'],
    [{ steps: '20' }, 'steps must be a whole number from 1 to 150.'],
    [{ width: 100 }, 'width must be a multiple of 8 from 16 to 4096 pixels.'],
    [{ height: 0 }, 'height must be a multiple of 8 from 16 to 4096 pixels.'],
    [{ seed: '1.5' }, 'seed must be a whole number from 0 to 18446744073709551615, written as a string such as "42".'],
    [
      { seed: '18446744073709551616' },
      'seed must be a whole number from 0 to 18446744073709551615, written as a string such as "42".',
    ],
    [{ seed: 42 }, 'seed must be a whole number from 0 to 18446744073709551615, written as a string such as "42".'],
    [{ guidance_scale: -1 }, 'guidance_scale must be a number from 0 to 100.'],
    [{ guidance_scale: NaN }, 'guidance_scale must be a number from 0 to 100.'],
    [{ batch_size: 0 }, 'batch_size must be a whole number from 1 to 16.'],
    [{ prompt: 7 }, 'prompt must be text (it may be empty).'],
    [
      { negativ_prompt: '' },
      'The parameter object has an unknown field "negativ_prompt"; remove it or check its spelling.',
    ],
    [{ image: PICTURE }, 'image is given, but image_generation starts from nothing; use image_transform.'],
  ])('refuses %j with one sentence', (parameters, message) => {
    expect(refusal(parameters)).toEqual({ code: 'invalid_operation', message });
  });

  test.each([
    ['image_transform', {}, /image is missing/],
    ['image_transform', { image: 'cat.png' }, /image must be a picture/],
    ['image_transform', { image: PICTURE, strength: 0 }, /strength must be a number above 0 and up to 1/],
    [
      'image_transform',
      { image: PICTURE, mask_image: PICTURE },
      /mask_image is needed by image_inpaint and only by it/,
    ],
    ['image_inpaint', { image: PICTURE }, /mask_image is needed by image_inpaint/],
  ])('%s refuses %j', (kind, parameters, sentence) => {
    expect(refusal(parameters, { operation: kind }).message).toMatch(sentence);
  });

  test('an empty prompt is allowed', () => {
    expect(plan(operation({ prompt: '' }), catalogue, checkpoint, device).ok).toBe(true);
  });

  test('unknown configs, foreign checkpoints and tensors beyond the GPU are refused before anything runs', () => {
    expect(refusal({}, { config: 'sdxl' }).message).toMatch(/no config "sdxl"; the configs here are: stable_diffusion/);
    expect(refusal({}, { config: '__proto__' }).message).toMatch(/no config "__proto__"/);
    const flux = plan(operation(), catalogue, { ...checkpoint, pipelineClass: 'FluxPipeline' }, device);
    expect(flux).toMatchObject({ ok: false, reasons: [{ code: 'checkpoint_unsupported' }] });
    expect(plan(operation(), catalogue, null, device)).toMatchObject({
      ok: false,
      reasons: [{ code: 'checkpoint_incomplete' }],
    });
    const large = plan(operation(), catalogue, { ...checkpoint, largestTensorBytes: 1001 }, device);
    expect(large).toMatchObject({ ok: false, reasons: [{ code: 'out_of_memory' }] });
  });
});
