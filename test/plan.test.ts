/** Operations, plans and estimates, and the contracts that every chunk, pipeline and config must keep. */
import Ajv from 'ajv';
import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { operationDocument } from '../schemas/documents.ts';
import type { Catalogue, Config } from '../src/core/catalogue.ts';
import type { Chunk, ChunkContract } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { DeviceReport } from '../src/core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, VariantEstimate } from '../src/core/model.ts';
import { estimateRequest, fit } from '../src/core/fit.ts';
import { parseOperation, type Operation } from '../src/core/operation.ts';
import { plan, requirementsOf, type Plan, type PlanResult } from '../src/core/plan.ts';
import { courseOf, entriesOf, fieldsOf, valuesOf } from '../src/core/steps.ts';
import {
  deviceKey,
  measureRate,
  rateOf,
  Speedometer,
  type OpenWorkload,
  type Rates,
} from '../src/engine/self_measurement.ts';
import { openModel, type Circumstances, type LoadedModel } from '../src/models/family.ts';
import { memoryBudget } from '../src/models/latent_diffusion/estimate.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { startNodeEngine } from './node_engine.ts';
import { stableDiffusionFiles, type Version } from './stable_diffusion_checkpoint.ts';

const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts', { eager: true });
const stem = (path: string) => path.slice(path.lastIndexOf('/') + 1, path.lastIndexOf('.'));

const checkpoint: CheckpointSummary = {
  ref: 'folder:tiny',
  name: 'tiny',
  pipelineClass: 'StableDiffusionPipeline',
  parameters: 500,
  needs: ['unet/config.json'],
  variants: ['full', 'q8', 'q4'],
  takesLoras: true,
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
  threads: 1,
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
  const result = plan(operation(parameters, rest), catalogue, () => checkpoint, device);
  expect(result.ok).toBe(false);
  return result.ok ? { code: '', message: '' } : result.reasons[0];
}

describe.each(Object.entries(chunkFiles))('chunk %s', (path, chunk) => {
  test('is named after its file and declares known operations', () => {
    expect(chunk.meta.id).toBe(stem(path));
    expect(chunk.meta.operations.length).toBeGreaterThan(0);
    chunk.meta.operations.forEach((kind) => expect(kind).toMatch(/^[a-z][a-z0-9_]*$/));
    expect(chunk.execute).toBeTypeOf('function');
  });

  test('its meta is plain data, so that the page can list it without running anything', () => {
    expect(JSON.parse(JSON.stringify(chunk.meta))).toEqual(chunk.meta);
  });
});

describe.each(Object.entries(catalogue.configs))('config %s', (_id, config) => {
  test('names a pipeline whose places it fills, and says nothing that no step knows', () => {
    const course = courseOf(config, catalogue);
    if (typeof course === 'string') {
      throw new Error(course);
    }
    expect(course.operations.length).toBeGreaterThan(0);
    const { media, outputs } = course.steps.at(-1)!.chunk.meta;
    // A server makes whatever a workflow says.
    expect([media, ...Object.values(outputs).map(({ medium }) => medium)]).toContain(config.media);
    expect(Object.keys(config.name).sort()).toEqual(['de', 'en']);
    const fields = fieldsOf(course);
    expect(Object.keys(valuesOf(config)).filter((name) => !fields.has(name))).toEqual([]);
    // A step's id is the key of its values, so no field may have that name.
    const entries = course.steps.flatMap(({ chunk }) => Object.keys(entriesOf(chunk)));
    expect(course.steps.filter(({ id }) => entries.includes(id))).toEqual([]);
  });
});

describe('the operation gate', () => {
  test.each([
    [null, /must be a JSON object/],
    [{ config: 'x', parameters: {} }, /lacks the field "operation"/],
    [{ operation: 'Image dream', config: 'x', parameters: {} }, /operation must be the name of a kind/],
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
      const result = plan(operation(parameters), catalogue, () => summary, device);
      return result.ok ? result.plan.steps[0].parameters : {};
    };
    expect(from(checkpoint)).toMatchObject({ steps: 25, guidance_scale: 7.5, negative_prompt: '', batch_size: 1 });
    expect(from(habits)).toMatchObject({ steps: 20, guidance_scale: 4 });
    expect(from(habits, { steps: 3 })).toMatchObject({ steps: 3, guidance_scale: 4 });
  });

  test('an operation without a seed gets one, which is then known', () => {
    const result = plan(operation(), catalogue, () => checkpoint, device);
    expect(result.ok && result.plan.steps[0].parameters.seed).toMatch(/^[0-9]+$/);
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
    ['image_inpaint', { image: PICTURE, mask_image: PICTURE, outpaint_left: 8 }, /outpaint_left counts only for/],
    ['image_transform', { image: PICTURE, mask_grow: 8 }, /mask_grow counts only for image_inpaint/],
    [
      'image_inpaint',
      { image: PICTURE, mask_image: PICTURE, mask_padding: 8, overlay_inpaint: false },
      /so overlay_inpaint cannot be false/,
    ],
    ['image_outpaint', { image: PICTURE }, /image_outpaint needs at least one of outpaint_left/],
    ['image_outpaint', { image: PICTURE, outpaint_top: 2049 }, /outpaint_top must be a whole number from 0 to 2048/],
    ['image_outpaint', { outpaint_top: 8 }, /image is missing/],
    [
      'image_outpaint',
      { image: PICTURE, mask_image: PICTURE, outpaint_top: 8 },
      /mask_image is needed by image_inpaint/,
    ],
  ])('%s refuses %j', (kind, parameters, sentence) => {
    expect(refusal(parameters, { operation: kind }).message).toMatch(sentence);
  });

  test('an empty prompt is allowed', () => {
    expect(plan(operation({ prompt: '' }), catalogue, () => checkpoint, device).ok).toBe(true);
  });

  test('unknown configs, foreign checkpoints and tensors beyond the GPU are refused before anything runs', () => {
    expect(refusal({}, { config: 'sdxl' }).message).toMatch(
      /no config "sdxl"; the configs here are: .*stable_diffusion,/,
    );
    expect(refusal({}, { config: '__proto__' }).message).toMatch(/no config "__proto__"/);
    const flux = plan(operation(), catalogue, () => ({ ...checkpoint, pipelineClass: 'FluxPipeline' }), device);
    expect(flux).toMatchObject({ ok: false, reasons: [{ code: 'checkpoint_unsupported' }] });
    expect(plan(operation(), catalogue, () => null, device)).toMatchObject({
      ok: false,
      reasons: [{ code: 'checkpoint_incomplete' }],
    });
    const editing = { ...checkpoint, pipelineClass: 'QwenImageEditPipeline', mostPictures: 1 };
    const edit = { images: [PICTURE, PICTURE] };
    const many = plan(operation(edit, { config: 'qwen_image_edit' }), catalogue, () => editing, device);
    expect(many).toMatchObject({
      reasons: [
        {
          code: 'invalid_operation',
          message: expect.stringMatching(/^"tiny" works from one picture, and 2/) as string,
        },
      ],
    });
    const sd3 = { ...checkpoint, pipelineClass: 'StableDiffusion3Pipeline', longestSide: 192 };
    const wide = (parameters: Record<string, unknown>) =>
      plan(operation(parameters, { config: 'stable_diffusion_3' }), catalogue, () => sd3, device);
    expect(wide({ width: 208 })).toMatchObject({
      reasons: [{ message: '"tiny" makes pictures of at most 192 pixels per side, not 208; choose a smaller size.' }],
    });
    expect(wide({ width: 192, height: 64 }).ok).toBe(true);
    const large = plan(operation(), catalogue, () => ({ ...checkpoint, largestTensorBytes: 1001 }), device);
    expect(large).toMatchObject({ ok: false, reasons: [{ code: 'does_not_fit' }] });
  });
});

describe('steps', () => {
  const text = (more: object = {}): ChunkContract => ({
    meta: {
      id: 'rewrite',
      media: 'text',
      operations: ['text_transformation'],
      needs: { gpu: true, language: 'text' },
      stages: [{ id: 'write', label: { en: 'Writing', de: 'Schreibt' }, unit: 'tokens' }],
      outputs: { text: { medium: 'text' } },
      ...more,
    },
    parameters: v.strictObject({
      operation: v.string(),
      text: v.string('text must be text.'),
      instruction: v.string('instruction must be text.'),
      temperature: v.optional(v.number('temperature must be a number.'), 0),
    }),
  });
  const voice: ChunkContract = {
    meta: {
      id: 'voice',
      media: 'audio',
      operations: ['audio_generation'],
      needs: { gpu: false },
      stages: [],
      outputs: { sound: { medium: 'audio' } },
    },
    parameters: v.strictObject({
      operation: v.string(),
      lyrics: v.string('lyrics must be text.'),
      tags: v.optional(v.string('tags must be text.'), ''),
    }),
  };
  const config = (id: string, pipeline: string, parameters: Record<string, unknown>): Config => ({
    id,
    name: { en: id },
    pipeline,
    media: 'image',
    parameters,
    checkpoint: null,
  });
  const painter = 'output_image_stable_diffusion';
  const several: Catalogue = {
    pipelines: {
      interception: {
        name: 'interception',
        inputs: { prompt: 'text' },
        steps: [
          { id: 'interception', chunk: 'rewrite', in: { text: '$input.prompt', instruction: '{{INSTRUCTION}}' } },
          { id: 'output', chunk: '{{OUTPUT_CHUNK}}', in: { prompt: '$interception.text' } },
        ],
      },
      twice: {
        name: 'twice',
        inputs: {},
        steps: [
          { id: 'first', chunk: 'rewrite', in: {} },
          { id: 'second', chunk: 'rewrite', in: { text: '$first.text' } },
        ],
      },
      dual: {
        name: 'dual',
        inputs: { TEXT_1: 'text', TEXT_2: 'text' },
        steps: [{ id: 'output', chunk: '{{OUTPUT_CHUNK}}', in: { lyrics: '$input.TEXT_1', tags: '$input.TEXT_2' } }],
      },
    },
    configs: {
      poetic: config('poetic', 'interception', { OUTPUT_CHUNK: painter, INSTRUCTION: 'Be brief.', steps: 9 }),
      twice: config('twice', 'twice', { instruction: 'Shorter.' }),
      song: config('song', 'dual', { OUTPUT_CHUNK: 'voice' }),
    },
    chunks: { rewrite: text(), voice, [painter]: catalogue.chunks[painter] },
  };
  const LANGUAGE = { interception: 'hub:a/b@c' };
  const ask = (name: string, kind: string, parameters: object, more: object = {}) =>
    parseOperation({ operation: kind, config: name, parameters, ...more });
  const paint = (parameters: object = {}, more: object = {}) =>
    ask('poetic', 'image_generation', { prompt: 'a cat', ...parameters }, { checkpoints: LANGUAGE, ...more });
  const planned = (asked: Operation) => plan(asked, several, () => checkpoint, device);
  const refused = (asked: Operation) => {
    const result = planned(asked);
    return result.ok ? 'accepted' : result.reasons.map(({ message }) => message).join(' ');
  };

  test('each step gets its own fields, what it is wired to, and its checkpoint', () => {
    const result = planned(paint({ width: 256, temperature: 0.5, negative_prompt: 'fog' }));
    const [interception, output] = result.ok ? result.plan.steps : [];
    expect(interception).toMatchObject({
      id: 'interception',
      chunk: 'rewrite',
      operation: 'text_transformation',
      parameters: { text: 'a cat', instruction: 'Be brief.', temperature: 0.5 },
      wired: {},
      language: 'hub:a/b@c',
      checkpoint: null,
    });
    expect(output).toMatchObject({
      operation: 'image_generation',
      parameters: { width: 256, steps: 9, negative_prompt: 'fog' },
      wired: { prompt: { step: 'interception', output: 'text' } },
      language: null,
      checkpoint: checkpoint.ref,
    });
    expect(output.parameters).not.toHaveProperty('prompt');
    expect(interception.parameters).not.toHaveProperty('width');
  });

  test('a field that no step knows is refused once, and what is wrong for several steps is said together', () => {
    expect(refused(paint({ colour: 'red' }))).toBe(
      'The parameter object has an unknown field "colour"; remove it or check its spelling.',
    );
    expect(refused(paint({ width: 100, temperature: 'hot' }))).toBe(
      'temperature must be a number. width must be a multiple of 8 from 16 to 4096 pixels.',
    );
    expect(refused(ask('poetic', 'image_generation', {}, { checkpoints: LANGUAGE }))).toBe(
      'The parameter object lacks the field "text".',
    );
  });

  test('a chunk in two steps takes values for each of them by the id of the step', () => {
    const one = ask(
      'twice',
      'text_transformation',
      { text: 'x', temperature: 1, second: { temperature: 2 } },
      { checkpoints: { first: 'hub:a/b@c', second: 'hub:d/e@f' } },
    );
    const result = planned(one);
    expect(
      result.ok && result.plan.steps.map(({ parameters, language }) => [parameters.temperature, language]),
    ).toEqual([
      [1, 'hub:a/b@c'],
      [2, 'hub:d/e@f'],
    ]);
    expect(refused({ ...one, parameters: { text: 'x', second: { heat: 2 } } })).toMatch(/unknown field "second.heat"/);
    expect(refused({ ...one, parameters: { text: 'x', second: 2 } })).toBe(
      'second must be an object of values for the step "second".',
    );
  });

  test('a pipeline may rename its inputs', () => {
    const result = planned(ask('song', 'audio_generation', { TEXT_1: 'la', TEXT_2: 'slow' }));
    expect(result.ok && result.plan.steps[0].parameters).toMatchObject({ lyrics: 'la', tags: 'slow' });
    expect(refused(ask('song', 'audio_generation', { lyrics: 'la' }))).toMatch(/unknown field "lyrics"/);
  });

  test('a step that is given is not run, and one that is not asked for neither', () => {
    const edited = planned(paint({}, { given: { interception: { text: 'a red cat' } } }));
    expect(edited.ok && edited.plan.steps.map(({ id, given }) => [id, given])).toEqual([
      ['interception', { text: 'a red cat' }],
      ['output', null],
    ]);
    // What somebody wrote is recorded even if it no longer has an effect.
    const [first, second] = [{ text: 'a' }, { text: 'b' }];
    const both = planned(ask('twice', 'text_transformation', {}, { given: { first, second } }));
    expect(both.ok && both.plan.steps.map(({ id, given }) => [id, given])).toEqual([
      ['first', first],
      ['second', second],
    ]);
    const before = planned(paint({}, { until: 'interception' }));
    expect(before.ok && before.plan.steps.map(({ id }) => id)).toEqual(['interception']);
    expect(refused(paint({}, { until: 'middle' }))).toBe(
      'The config "poetic" has no step "middle"; its steps are: interception, output.',
    );
    expect(refused(paint({}, { given: { interception: { words: 'x' } } }))).toBe(
      'given must hold exactly what the step "interception" gives: text.',
    );
  });

  test('what earlier attempts settled comes before all else, by step', () => {
    const settled = {
      interception: { text: 'a cat', instruction: 'Be brief.', temperature: 0 },
      output: { seed: '7' },
    };
    const result = plan(paint({ seed: '9' }), several, () => checkpoint, device, settled);
    expect(result.ok && result.plan.steps[1].parameters.seed).toBe('7');
  });

  test('an operation says what it waits for, without opening anything', () => {
    expect(requirementsOf(paint(), several)).toEqual({
      gpu: true,
      refs: ['hub:a/b@c'],
      lacking: expect.arrayContaining(['StableDiffusionPipeline']) as string[],
      graphs: true,
      languageSteps: [{ id: 'interception', service: 'text' }],
      engines: [],
      standsBy: false,
    });
    expect(requirementsOf(paint({}, { checkpoint: 'builtin:scenes' }), several).refs).toEqual([
      'hub:a/b@c',
      'builtin:scenes',
    ]);
    expect(requirementsOf(ask('song', 'audio_generation', {}), several)).toEqual({
      gpu: false,
      refs: [],
      lacking: null,
      graphs: false,
      languageSteps: [],
      engines: [],
      standsBy: false,
    });
    const given = paint({}, { given: { interception: { text: 'x' } }, checkpoint: 'builtin:scenes' });
    expect(requirementsOf(given, several).refs).toEqual(['builtin:scenes']);
    expect(() => requirementsOf(ask('song', 'image_dream', {}), several)).toThrow(/operation must be one of/);
    expect(() => requirementsOf(ask('song', 'image_generation', {}), several)).toThrow(
      'The config "song" cannot do image_generation; it does audio_generation.',
    );
  });

  test('an upscaler takes one picture or several, and not both', () => {
    const png = 'data:image/png;base64,';
    const planned = (parameters: Record<string, unknown>) => {
      const result = plan(ask('image_upscale', 'image_upscale', parameters), catalogue, () => undefined, device);
      return result.ok ? result.plan.steps[0].parameters : result.reasons[0].message;
    };
    expect(planned({ image: png })).toMatchObject({ image: png, tile_size: 256 });
    expect(planned({ images: [png, png], scale: 2 })).toMatchObject({ images: [png, png], scale: 2 });
    expect(planned({ image: png, images: [png] })).toBe(
      'image is missing: give the picture to enlarge as image, or several of them as images, not both.',
    );
  });

  test('an optional step runs only where a checkpoint is named for it, which nobody need have looked at yet', () => {
    const planned = (asked: Operation) => {
      const result = plan(asked, catalogue, (step) => (step === 'upscale' ? undefined : checkpoint), device);
      return result.ok ? result.plan : result.reasons[0].message;
    };
    const steps = (asked: Operation) => (planned(asked) as Plan).steps.map(({ id, checkpoint: ref }) => [id, ref]);
    const named = { checkpoints: { upscale: 'builtin:realesr-animevideov3' } };
    expect(steps(operation())).toEqual([['output', 'folder:tiny']]);
    expect(steps(operation({ scale: 2 }, named))).toEqual([
      ['output', 'folder:tiny'],
      ['upscale', 'builtin:realesr-animevideov3'],
    ]);
    expect(planned(operation({ scale: 2 }, named))).toMatchObject({
      main: 'output',
      checkpoint: 'folder:tiny',
      steps: [{}, { operation: 'image_upscale', parameters: { scale: 2, tile_size: 256 } }],
    });
    expect(requirementsOf(operation({}, { checkpoint: 'folder:tiny' }), catalogue)).toMatchObject({
      refs: ['folder:tiny'],
      lacking: null,
    });
    expect(requirementsOf(operation({}, named), catalogue).refs).toEqual(['builtin:realesr-animevideov3']);
    // What nothing would do is refused.
    expect(planned(operation({ scale: 2 }))).toBe(
      'The parameter object has an unknown field "scale"; remove it or check its spelling.',
    );
    expect(planned(operation({}, { until: 'upscale' }))).toBe(
      'The step "upscale" runs only with a checkpoint of its own; name one for it in checkpoints, or leave until out.',
    );
    // It cannot upscale text or sketches.
    const without = Object.values(catalogue.configs).filter(({ media }) => media !== 'image');
    expect(without.length).toBeGreaterThan(3);
    for (const config of without) {
      const course = courseOf(config, catalogue);
      expect(typeof course === 'string' ? [course] : course.steps.map(({ id }) => id)).not.toContain('upscale');
    }
  });

  test('a catalogue that contradicts itself says where', () => {
    const broken = (steps: Catalogue['pipelines'][string]['steps'], chunks = several.chunks) =>
      courseOf(config('x', 'x', {}), { pipelines: { x: { name: 'x', inputs: {}, steps } }, configs: {}, chunks });
    expect(broken([{ id: 'a', chunk: 'none', in: {} }])).toMatch(/needs the chunk "none", which does not exist/);
    expect(broken([{ id: 'a', chunk: 'voice', in: { lyrics: '$b.text' } }])).toMatch(/which no earlier step gives/);
    expect(broken([{ id: 'a', chunk: 'voice', in: { lyrics: '$input.words' } }])).toMatch(/not among its inputs/);
    expect(broken([{ id: 'a', chunk: 'voice', in: { volume: 1 } }])).toMatch(/wires "volume"/);
  });

  test('the JSON Schema of several steps can be satisfied, and says what the plan says', () => {
    const validate = new Ajv().compile(operationDocument(several));
    const cases = [
      paint(),
      paint({ width: 256, temperature: 0.5 }),
      paint({ width: 100 }),
      paint({ colour: 'red' }),
      paint({ image: PICTURE }),
      paint({}, { given: { interception: { text: 'x' } } }),
      paint({}, { given: { interception: { words: 'x' } } }),
      paint({}, { until: 'interception' }),
      paint({}, { until: 'middle' }),
      ask('poetic', 'image_generation', {}, { checkpoints: LANGUAGE }),
      ask('poetic', 'text_transformation', { prompt: 'x' }, { checkpoints: LANGUAGE }),
      ask('song', 'audio_generation', { TEXT_1: 'la' }),
      ask('song', 'audio_generation', { lyrics: 'la' }),
      ask('song', 'audio_generation', { TEXT_1: 7 }),
    ];
    expect(cases.map((one) => validate(JSON.parse(JSON.stringify(one))))).toEqual(cases.map((one) => planned(one).ok));
    expect(cases.map((one) => planned(one).ok)).toContain(true);
  });
});

/** What a plan says, or its first refusal. */
function outcome(result: PlanResult): Plan | string {
  return result.ok ? result.plan : result.reasons[0].message;
}

describe('fitting a plan to a device', () => {
  const GIB = 2 ** 30;
  const asked: EstimateRequest = {
    operation: 'image_generation',
    width: 512,
    height: 512,
    batch_size: 1,
    steps: 25,
    guidance_scale: 7.5,
  };

  /** An estimate in which the variants need so many GiB of a budget. */
  function estimated(
    needs: Record<'full' | 'q8' | 'q4', number>,
    budget: Estimate['budget'],
    more: Partial<Estimate> = {},
  ) {
    const variants = Object.entries(needs).map(([variant, gib]): VariantEstimate => ({
      variant: variant as 'full' | 'q8' | 'q4',
      precision: 'f16',
      memory: { weights: gib * GIB, loading: 0, activations: 0, loop: 0, peak: gib * GIB },
      phases: [],
      largestTensor: 0,
      seconds: 3,
      rate: 'pictures',
      misfit:
        gib * GIB <= budget.bytes
          ? null
          : { code: 'does_not_fit', guessed: budget.source === 'guess', message: `This needs about ${gib} GiB.` },
      runsHere: true,
    }));
    const recommended = variants.find(({ misfit }) => !misfit)?.variant ?? null;
    const rest = {
      request: asked,
      flops: null,
      recommended,
      seconds: 3,
      rate: 'pictures',
      downloadBytes: 7,
      smaller: null,
    };
    return { ...rest, variants, budget, ...more } as Estimate;
  }
  const planned = (): Plan => {
    const result = plan(operation(), catalogue, () => checkpoint, device);
    return outcome(result) as Plan;
  };
  const set = (gib: number) => ({ bytes: gib * GIB, source: 'set' as const });
  const guess = (gib: number) => ({ bytes: gib * GIB, source: 'guess' as const });
  const needs = { full: 6, q8: 4, q4: 3 };

  test('full precision where it fits, with what it costs and without a word', () => {
    expect(outcome(fit(planned(), checkpoint, estimated(needs, set(8))))).toMatchObject({
      variant: 'full',
      memoryBytes: 6 * GIB,
      downloadBytes: 7,
      seconds: 3,
      notices: [],
    });
  });

  test.each([
    [5, 'q8', '8'],
    [3, 'q4', '4'],
  ] as const)('%d GiB are enough for %s, and a notice says so', (gib, variant, bits) => {
    expect(outcome(fit(planned(), checkpoint, estimated(needs, set(gib))))).toMatchObject({
      variant,
      notices: [
        `"tiny" runs with weights of ${bits} bits, because in full precision it needs about 6.0 GiB and the memory set for the GPU is ${gib}.0 GiB.`,
      ],
    });
  });

  test('what nothing fits is refused with what would fit', () => {
    const one = estimated(needs, set(2));
    expect(outcome(fit(planned(), checkpoint, one))).toBe('This needs about 6 GiB. Choose a smaller checkpoint.');
    const more = estimated(needs, guess(2), {
      smaller: { width: 256, height: 256 },
      request: { ...asked, batch_size: 2 },
    });
    expect(outcome(fit(planned(), checkpoint, more))).toBe(
      'This needs about 6 GiB. Choose 256×256 pixels, fewer pictures at a time or a smaller checkpoint. If your GPU has more memory than that, say how much.',
    );
    expect(fit(planned(), checkpoint, more)).toMatchObject({ ok: false, reasons: [{ code: 'does_not_fit' }] });
  });

  test('a mere guess refuses a download, and only warns of what is here already', () => {
    const doubtful = estimated(needs, guess(2));
    expect(fit(planned(), checkpoint, doubtful).ok).toBe(false);
    const tried = outcome(fit(planned(), checkpoint, doubtful, 'warn')) as Plan;
    expect(tried.variant).toBe('q4');
    expect(tried.notices.at(-1)).toBe(
      'This needs about 3.0 GiB and this device is guessed to have 2.0 GiB for it, so it may fail; a smaller size needs less.',
    );
    expect(fit(planned(), checkpoint, estimated(needs, set(2)), 'warn').ok).toBe(false);
  });

  test('what cannot be computed here is not chosen', () => {
    const estimate = estimated(needs, set(8));
    const elsewhere = { ...estimate, variants: estimate.variants.map((one) => ({ ...one, runsHere: false })) };
    expect(outcome(fit(planned(), checkpoint, elsewhere))).toMatch(/cannot be run on this device in any precision/);
  });

  test('a plan knows what is to be estimated', () => {
    expect(estimateRequest(planned().steps[0], checkpoint)).toEqual({ ...asked, guidance_scale: 7.5, steps: 25 });
    const parameters = { image: PICTURE, strength: 0.5, batch_size: 3, height: 256, guidance_mode: 'serial' };
    const result = plan(operation(parameters, { operation: 'image_transform' }), catalogue, () => checkpoint, device);
    expect(estimateRequest((outcome(result) as Plan).steps[0], checkpoint, { width: 640, height: 480 })).toEqual({
      operation: 'image_transform',
      width: 640,
      height: 256,
      batch_size: 3,
      steps: 25,
      guidance_scale: 7.5,
      guidance_mode: 'serial',
      strength: 0.5,
    });
  });
});

describe('estimates of whole checkpoints, from configs and headers alone', () => {
  const gpu = (precision: 'f32' | 'f16', buffer = 4 * 2 ** 30): DeviceReport => ({
    ...device,
    precision,
    limits: { maxBufferSize: buffer, maxStorageBufferBindingSize: buffer },
  });
  const asked: EstimateRequest = {
    operation: 'image_generation',
    width: 512,
    height: 512,
    batch_size: 1,
    steps: 1,
    guidance_scale: 1,
  };
  const circumstances = (more: Partial<Circumstances> = {}): Circumstances => ({
    device: gpu('f16'),
    budget: { bytes: 16 * 2 ** 30, source: 'set' },
    rates: { measured: { f16: 1e12, f32: 5e11 }, pictures: {} },
    downloadBytes: 0,
    ...more,
  });

  /** A headers-only Stable Diffusion with its released configuration. */
  async function open(version: Version, inputs = 4): Promise<LoadedModel> {
    return openModel(
      new FolderFiles('made-up', stableDiffusionFiles(version, inputs, header)),
      startNodeEngine().engine,
    );
  }

  /** A weight file that only has the right length. */
  function header(_path: string, shapes: Map<string, number[]>): File {
    let end = 0;
    const tensors = Array.from(shapes, ([name, shape]) => {
      const begin = end;
      end += 2 * shape.reduce((product, dim) => product * dim, 1);
      return [name, { dtype: 'F16', shape, data_offsets: [begin, end] }];
    });
    const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(tensors)));
    const length = new Uint8Array(new BigUint64Array([BigInt(text.length)]).buffer);
    const file = new File([length, text], 'weights');
    return Object.defineProperty(file, 'size', { value: 8 + text.length + end });
  }

  // TFLOP of one UNet call, counted on the classes of diffusers (../shared/facts/models.md §1).
  test.each([
    [1, 256, 0.18, 859_520_964 + 123_060_480 + 83_653_863],
    [1, 512, 0.803, 859_520_964 + 123_060_480 + 83_653_863],
    [1, 768, 2.148, 859_520_964 + 123_060_480 + 83_653_863],
    [2, 512, 0.804, 865_910_724 + 340_387_840 + 83_653_863],
    ['XL', 1024, 6.761, 2_567_463_684 + 123_060_480 + 694_659_840 + 83_653_863],
  ] as const)('Stable Diffusion %s at %d²: %f TFLOP a step', async (version, size, tera, parameters) => {
    const model = await open(version);
    const { flops, variants } = await model.estimate({ ...asked, width: size, height: size }, circumstances());
    console.log(
      `Stable Diffusion ${version} at ${size}²: ${((flops?.step ?? 0) / 1e12).toFixed(3)} TFLOP a step, ${((flops?.total ?? 0) / 1e12).toFixed(2)} in all; ` +
        variants
          .map(
            ({ variant, precision, memory: { peak, weights } }) =>
              `${variant} ${precision} ${gib(peak)} GiB (weights ${gib(weights)})`,
          )
          .join(', '),
    );
    expect((flops?.step ?? 0) / 1e12 / tera).toBeCloseTo(1, 1.4);
    expect(model.summary.parameters).toBe(parameters);
    expect(model.summary.needs).not.toContain('notes/of_nobody.json');
    expect(model.summary.needs).toHaveLength(version === 'XL' ? 14 : 10);
    expect(variants.map(({ variant, precision }) => `${variant} ${precision}`)).toEqual([
      'full f16',
      'full f32',
      'q8 f16',
      'q4 f16',
    ]);
    const [f16, f32, q8, q4] = variants.map(({ memory }) => memory);
    expect(f32.weights).toBeGreaterThan(f16.weights + 1.6e9);
    expect(q8.weights).toBeLessThan(f16.weights);
    expect(q4.weights).toBeLessThan(q8.weights);
  });

  test('on the processor, weights of quick convolutions count as they are held, and are left out where they do not fit', async () => {
    const model = await open(1);
    const processor: DeviceReport = { ...device, backend: 'wasm', precision: 'f32', limits: null, runtime: 'jspi' };
    const full = { ...asked, phased: false, tile_size: 512, weights: 'full' as const };
    const on = async (more: Partial<EstimateRequest>, bytes: number) => {
      const { variants } = await model.estimate(
        { ...full, ...more },
        circumstances({ device: processor, budget: { bytes, source: 'set' } }),
      );
      return variants.find(({ runsHere }) => runsHere) as (typeof variants)[number];
    };
    const small = { width: 64, height: 64, phased: true };
    const quick = await on(small, 2 ** 40);
    expect(quick.plainConvolutions).toBeUndefined();
    const plain = await on(small, quick.memory.peak - 1);
    expect(plain).toMatchObject({ plainConvolutions: true, misfit: null });
    const more = quick.memory.weights - plain.memory.weights;
    console.log(`quick convolutions of Stable Diffusion 1.5 hold ${gib(more)} GiB more, at 64²`);
    // Its weights are 3.2 GiB, and of those with few enough channels as much again.
    expect(more).toBeGreaterThan(0.1 * 2 ** 30);
    expect(more).toBeLessThan(0.5 * 2 ** 30);
    const large = await on({ phased: true }, 2 ** 40);
    console.log(`Stable Diffusion 1.5 at 512² in phases, f32: ${gib(large.memory.peak)} GiB`);
    expect(large).toMatchObject({ plainConvolutions: true, misfit: null });
    expect(large.memory.peak).toBeLessThan(4 * 2 ** 30);
  });

  test('Stable Diffusion XL at 1024² in half precision fits in 8 GB in phases, and one for inpainting does', async () => {
    for (const inputs of [4, 9]) {
      const model = await open('XL', inputs);
      const budget = { bytes: 8e9, source: 'set' } as const;
      const large = { ...asked, width: 1024, height: 1024, guidance_scale: 5, weights: 'full' as const };
      const { request, variants, recommended } = await model.estimate(large, circumstances({ budget }));
      const [{ precision, memory }] = variants;
      console.log(
        `Stable Diffusion XL (${inputs} channels) at 1024² in phases: ${precision}, ${gib(memory.peak)} GiB (weights ${gib(memory.weights)}, activations ${gib(memory.activations ?? 0)})`,
      );
      expect(request).toMatchObject({ phased: true, tile_size: 512 });
      expect({ precision, recommended }).toEqual({ precision: 'f16', recommended: 'full' });
      expect(memory.peak).toBeLessThan(8e9);
      // An explicit request is not changed, and together they need more.
      const together = await model.estimate({ ...large, phased: false }, circumstances({ budget }));
      expect(together.recommended).toBeNull();
      expect(together.variants[0].memory.peak).toBeGreaterThan(8e9);
    }
  });

  // Parameters counted on the class of diffusers.
  test.each([
    [1, 4, 512, 361_279_120],
    ['XL', 4, 1024, 1_251_014_160],
    ['XL', 9, 1024, 1_251_014_160],
  ] as const)(
    'a ControlNet for Stable Diffusion %s (%d channels) counts at its size',
    async (version, inputs, size, count) => {
      const model = await open(version, inputs);
      const large = { ...asked, width: size, height: size, guidance_scale: 5, weights: 'full' as const };
      const estimate = async (more: Partial<EstimateRequest>) => {
        const { variants, flops } = await model.estimate({ ...large, ...more }, circumstances());
        return { memory: variants[0].memory, step: flops?.step ?? NaN };
      };
      const [without, led] = [await estimate({ controlnets: 0 }), await estimate({ controlnets: 1 })];
      // In halves, as the UNet is.
      expect((led.memory.weights - without.memory.weights) / (2 * count)).toBeCloseTo(1, 1);
      expect(led.memory.peak - led.memory.weights).toBeGreaterThanOrEqual(without.memory.peak - without.memory.weights);
      expect(led.step / without.step).toBeGreaterThan(1.25);
      expect(led.step / without.step).toBeLessThan(1.6);
      console.log(
        `Stable Diffusion ${version} (${inputs} channels) at ${size}² with a ControlNet: ${gib(led.memory.peak)} GiB beside ${gib(without.memory.peak)}, ${(led.step / without.step).toFixed(2)} times the work of a step`,
      );
    },
  );

  test('guidance, batch, strength and steps count as they are run', async () => {
    const model = await open(1);
    const flops = async (more: Partial<EstimateRequest>) => {
      const { flops } = await model.estimate({ ...asked, ...more }, circumstances());
      return flops ?? { step: NaN, total: NaN };
    };
    const one = await flops({});
    expect((await flops({ guidance_scale: 7.5 })).step / one.step).toBeCloseTo(2, 3);
    expect((await flops({ guidance_scale: 7.5, guidance_mode: 'serial' })).step / one.step).toBeCloseTo(2, 3);
    expect((await flops({ batch_size: 2 })).step / one.step).toBeCloseTo(2, 3);
    const [ten, four] = [
      await flops({ steps: 10 }),
      await flops({ steps: 10, operation: 'image_transform', strength: 0.4 }),
    ];
    expect(ten.total - one.total).toBeCloseTo(9 * one.step, -9);
    // Four steps, plus encoding the starting picture.
    expect((four.total - (await flops({ steps: 4 })).total) / 1e12).toBeCloseTo(1.12, 1);
  });

  test('seconds follow from the rate, that of pictures before that of the self-measurement', async () => {
    const model = await open(1);
    const slow = await model.estimate(asked, circumstances());
    expect(slow.rate).toBe('self-measurement');
    // UNet at 1 TFLOP/s in f16; text encoder and decoder compute in f32, at half of that. The decoder is the processor's, 2.51 TFLOP without
    // its folded convolutions.
    expect(slow.seconds).toBeCloseTo(0.803 + 2 * (2.13 + 0.013), 1);
    const rates: Rates = { measured: { f32: 1e12 }, pictures: { 'f16 full': 2e12 } };
    const fast = await model.estimate(asked, circumstances({ rates }));
    expect(fast.rate).toBe('pictures');
    expect(fast.seconds).toBeCloseTo(0.803 / 2 + 2.14, 1);
    const unknown = await model.estimate(asked, circumstances({ rates: { measured: {}, pictures: {} } }));
    expect(unknown).toMatchObject({ seconds: null, rate: null });
  });

  test('what is too large is said, with a smaller size where one fits', async () => {
    const model = await open(1);
    const at = (bytes: number, more: Partial<Circumstances> = {}) =>
      model.estimate({ ...asked, phased: false }, circumstances({ budget: { bytes, source: 'set' }, ...more }));
    const enough = await at(16 * 2 ** 30);
    expect(enough).toMatchObject({ recommended: 'full', smaller: null });
    const [full, , q8, q4] = enough.variants.map(({ memory }) => memory.peak);
    expect((await at(full - 1)).recommended).toBe('q8');
    expect((await at(q8 - 1)).recommended).toBe('q4');
    const less = await at(q4 - 1);
    expect(less).toMatchObject({ recommended: null, smaller: { width: 384, height: 384 } });
    expect(less.variants[0].misfit?.message).toMatch(
      /^This needs about [\d.]+ GiB, but the memory set for the GPU is [\d.]+ GiB\.$/,
    );
    expect(await at(2 ** 28)).toMatchObject({ recommended: null, smaller: null });
    // Unless that is forbidden, they take turns first.
    const turns = await model.estimate(asked, circumstances({ budget: { bytes: q4 - 1, source: 'set' } }));
    expect(turns).toMatchObject({ recommended: 'full', smaller: null, request: { phased: true } });

    const narrow = await at(16 * 2 ** 30, { device: gpu('f16', 128 * 2 ** 20) });
    expect(narrow.recommended).toBeNull();
    expect(narrow.variants[0].misfit).toEqual({
      code: 'does_not_fit',
      guessed: false,
      message: 'This needs a tensor of 256 MiB, but this GPU takes at most 128 MiB in one buffer.',
    });
  });

  test('a device without half precision shows f16 and does not choose it', async () => {
    const { variants, recommended } = await (await open(1)).estimate(asked, circumstances({ device: gpu('f32') }));
    expect(variants.map(({ variant, precision, runsHere }) => [variant, precision, runsHere])).toEqual([
      ['full', 'f32', true],
      ['full', 'f16', false],
      ['q8', 'f32', true],
      ['q4', 'f32', true],
    ]);
    expect(recommended).toBe('full');
  });
});

describe('memory to plan with', () => {
  const buffers = (gib: number): DeviceReport => ({
    ...device,
    limits: { maxBufferSize: gib * 2 ** 30, maxStorageBufferBindingSize: gib * 2 ** 30 },
  });
  const wasm: DeviceReport = { ...device, backend: 'wasm', limits: null };

  test.each([
    ['what the person says', buffers(1), 6 * 2 ** 30, 8, 6, 'set'],
    ['never more than the wasm heap', wasm, 6 * 2 ** 30, 8, 4, 'set'],
    ['three quarters of the machine’s memory', buffers(1), null, 16, 12, 'guess'],
    ['at least one buffer', buffers(7), null, 8, 7, 'guess'],
    ['4 GiB where the browser says nothing', buffers(1), null, undefined, 4, 'guess'],
    ['half of the memory on the processor', wasm, null, 4, 2, 'guess'],
  ] as const)('%s', (_, report, said, deviceMemory, gib, source) => {
    expect(memoryBudget(report, said, deviceMemory)).toEqual({ bytes: gib * 2 ** 30, source });
  });
});

describe('the self-measurement', () => {
  /** A device of this speed with a fake clock; creating a session takes a second and is not counted. */
  function made(perSecond: number) {
    const log: string[] = [];
    let now = 0;
    let queued = 0;
    const open: OpenWorkload = (layer, channels, precision) => {
      now += 1;
      log.push(`${layer} ${channels} ${precision}`);
      const flops = 2 * 128 * channels * channels * (layer === 'linear' ? 8 : 9);
      return Promise.resolve({
        flops,
        run: () => {
          queued += flops / perSecond;
          return Promise.resolve();
        },
        read: () => {
          now += queued;
          queued = 0;
          return Promise.resolve();
        },
        release: () => {
          log.push('released');
          return Promise.resolve();
        },
      });
    };
    return { open, log, clock: () => now };
  }

  test('finds the rate of a fast device on layers of the real size', async () => {
    const { open, log, clock } = made(2e12);
    expect((await measureRate('f16', open, clock)) / 2e12).toBeCloseTo(1, 6);
    expect(log.filter((line) => line !== 'released').slice(0, 3)).toEqual(
      [160, 480, 1280].map((channels) => `convolution ${channels} f16`),
    );
    expect(log.filter((line) => line === 'released')).toHaveLength(6);
  });

  test('stops early on a slow one', async () => {
    const { open, log, clock } = made(1e9);
    const before = clock();
    expect((await measureRate('f32', open, clock)) / 1e9).toBeCloseTo(1, 6);
    const opened = log.filter((line) => line !== 'released');
    expect(opened).toEqual(['convolution 160 f32', 'linear 160 f32']);
    expect(clock() - before - opened.length).toBeLessThan(1.2);
  });

  test('a clock too coarse to see anything gives a finite rate', async () => {
    const { open } = made(1e18);
    expect(Number.isFinite(await measureRate('f32', open, () => 0))).toBe(true);
  });

  /** Rates as a browser keeps them. */
  const memory = () => {
    const kept = new Map<string, Rates>();
    return {
      kept,
      get: (key: string) => Promise.resolve(structuredClone(kept.get(key))),
      set: (key: string, rates: Rates) => {
        kept.set(key, structuredClone(rates));
        return Promise.resolve();
      },
    };
  };

  test('is done once per device and kept; pictures take its place', async () => {
    const store = memory();
    const { open, log, clock } = made(1e12);
    const first = new Speedometer('gpu/a', store, clock);
    const both = await Promise.all([first.measured(['f16', 'f32'], open), first.measured(['f16', 'f32'], open)]);
    expect(both[0]).toBe(both[1]);
    const { length } = log;
    const again = new Speedometer('gpu/a', store, clock);
    expect(rateOf(await again.measured(['f16', 'f32'], open), 'f16', 'full')?.source).toBe('self-measurement');
    expect(log).toHaveLength(length);
    await again.observe('f16', 'full', 4e12, 2);
    await again.observe('f16', 'full', 4e12, 1);
    await again.observe('f16', 'full', 0, 0);
    expect(rateOf(await again.known(), 'f16', 'full')).toEqual({ perSecond: 3e12, source: 'pictures' });
    expect(rateOf(await again.known(), 'f16', 'q8')?.source).toBe('self-measurement');
    expect(rateOf(await new Speedometer('gpu/a', store).known(), 'f16', 'full')?.perSecond).toBe(3e12);
    expect(rateOf(await new Speedometer('gpu/b', store).known(), 'f16', 'full')).toBeNull();
  });

  test('a browser that keeps nothing only measures again', async () => {
    const refuse = () => Promise.reject(new DOMException('no', 'InvalidStateError'));
    const { open, clock } = made(1e12);
    const rates = await new Speedometer('gpu', { get: refuse, set: refuse }, clock).measured(['f32'], open);
    expect(rateOf(rates, 'f32', 'full')?.perSecond).toBeGreaterThan(0);
  });

  test('another adapter, backend or runtime is another device', () => {
    expect(deviceKey(device, '1.30.0')).toBe('webgpu/test/jspi/1.30.0');
    expect(deviceKey({ ...device, backend: 'wasm' }, '1.31.0')).toBe('wasm/test/jspi/1.31.0');
  });
});

function gib(bytes: number): string {
  return (bytes / 2 ** 30).toFixed(2);
}
