/** Every config file: its form, its sources, and that it claims nothing beyond what is known. */
import { describe, expect, test } from 'vitest';
import * as v from 'valibot';
import { configFileSchema } from '../src/core/config_file.ts';
import { parseOperation } from '../src/core/operation.ts';
import { courseOf } from '../src/core/steps.ts';
import { configsElsewhere, offerElsewhere } from '../src/jobs/elsewhere.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { offers } from '../src/pipelines/config_files.ts';

const files = import.meta.glob<unknown>('../src/configs/*.json', { eager: true, import: 'default' });

describe.each(Object.entries(files))('config %s', (path, file) => {
  const { checkpoint, parameters, name, description, pipeline, template, here } = v.parse(configFileSchema, file);

  test('has a name in English and German, and a file name that can be an id', () => {
    expect(Object.keys(name)).toEqual(expect.arrayContaining(['en', 'de']));
    expect(path).toMatch(/\/[a-z0-9_]+\.json$/);
  });

  if (/\/interception_/.test(path)) {
    test('a rule says in both languages what it does, and can be filled by hand', () => {
      for (const text of [description?.en, description?.de]) {
        expect(text).toMatch(/^[A-ZÄÖÜ].*\.$/);
      }
      // Each blank except the person's own words is one line to fill in.
      expect([template?.en, template?.de].map((text) => text?.split('___').length)).toEqual([2, 2]);
      expect(pipeline).toMatch(/^prompt_interception_/);
      const { instruction } = (parameters.interception ?? {}) as { instruction?: Record<string, string> };
      if (instruction) {
        expect(instruction.en).toContain('Answer in English');
        expect(instruction.de).toContain('Antworte auf Englisch');
      }
    });
  }

  if (checkpoint) {
    test('its checkpoint says where it is, under which licence, and what nobody checked', () => {
      const known = checkpoint;
      expect(known.link).toBe(`https://huggingface.co/${known.repo}`);
      expect(known.license.id === null).toBe(known.license.kind === 'unknown');
      expect(known.verified).toBe(known.unverified === null);
      for (const text of [known.description, known.audience, ...(known.unverified ? [known.unverified] : [])]) {
        expect(text.en).toMatch(/^[A-Z].*\.$/);
        expect(text.de).toMatch(/^[A-ZÄÖÜ].*\.$/);
      }
      // A size refers to one commit's files.
      expect(known.bytes === null || known.revision !== null).toBe(true);
      if (known.bytes !== null) {
        expect(known.bytes).toBeGreaterThan(1e6);
      }
    });
  }

  if (here !== undefined) {
    test('makes on another machine what the other one makes here', () => {
      const [there, other] = [path.replace(/.*\/|\.json$/g, ''), here].map((id) =>
        courseOf(catalogue.configs[id], catalogue),
      );
      if (typeof there === 'string' || typeof other === 'string') {
        throw new Error('One of them is no config.');
      }
      const [elsewhere, local] = [there.main.chunk.meta, other.main.chunk.meta];
      expect(elsewhere.needs.remote).toEqual(expect.any(String));
      expect(elsewhere.needs.checkpoint).toBeUndefined();
      expect(local.needs.checkpoint).not.toEqual([]);
      expect(local.needs.checkpoint).toEqual(expect.any(Array));
      expect(local.needs.remote).toBeUndefined();
      expect(other.operations).toEqual(expect.arrayContaining([...there.operations]));
    });
  }

  if (checkpoint) {
    test('runs with what is recommended for its checkpoint', () => {
      const { steps, guidance_scale, width = 0, height = 0 } = checkpoint.recommended;
      expect(parameters).toMatchObject({ steps, guidance_scale });
      expect([width % 8, height % 8]).toEqual([0, 0]);
    });
  }
});

describe('elsewhere', () => {
  const offered = (config: string, checkpoint: string, engines: string[]) => {
    const parameters = { prompt: 'a lighthouse', steps: 4, guidance_scale: 1 };
    const operation = parseOperation({ operation: 'image_generation', config, checkpoint, parameters });
    return offerElsewhere(operation, catalogue, engines);
  };
  const SDXL = 'hub:stabilityai/stable-diffusion-xl-base-1.0@0123456';

  test('the same weights go on with the same numbers, others of the family with their own', () => {
    const same = offered('stable_diffusion', SDXL, ['comfyui']);
    expect(same?.label).toBe('Make it with Stable Diffusion XL on ComfyUI');
    expect(same?.operation).toMatchObject({ config: 'comfyui_sdxl', parameters: { steps: 4, guidance_scale: 1 } });
    const other = offered('flux2', 'hub:someone/klein@0123456', ['gemini', 'comfyui']);
    expect(other?.label).toBe('Make it with FLUX.2 on ComfyUI, without steps, guidance_scale');
    expect(other?.operation).toMatchObject({ config: 'comfyui_flux2', parameters: { prompt: 'a lighthouse' } });
    expect(other?.operation.parameters).not.toHaveProperty('steps');
  });

  test('a video that begins with a picture goes where one is taken, and one of words alone where none is needed', () => {
    const video = (config: string, more: object) => {
      const parameters = { prompt: 'a lighthouse', frames: 81, seed: '1', ...more };
      const checkpoint = 'hub:someone/video@0123456';
      const operation = parseOperation({ operation: 'video_generation', config, checkpoint, parameters });
      return offerElsewhere(operation, catalogue, ['comfyui']);
    };
    const image = 'data:image/png;base64,AAAA';
    expect(video('wan', {})?.label).toBe('Make it with Wan 2.2 on ComfyUI');
    expect(video('wan', { image })?.label).toBe('Make it with Wan 2.2 from a picture on ComfyUI');
    expect(video('wan', { image })?.operation.parameters).toMatchObject({ image });
    expect(video('ltx', { steps: 8 })?.label).toBe('Make it with LTX-Video on ComfyUI, without steps');
    expect(video('ltx', { image })?.label).toBe('Make it with LTX-Video on ComfyUI, without image');
  });

  test('nothing is offered without a server, or for a checkpoint that nobody has there', () => {
    expect(offered('stable_diffusion', SDXL, [])).toBeNull();
    expect(offered('stable_diffusion', 'hub:someone/else@0123456', ['comfyui'])).toBeNull();
    expect(configsElsewhere('stable_diffusion', null, catalogue)).toEqual([]);
  });
});

describe('a config file is refused', () => {
  const [path, example] = Object.entries(files).find(([path]) => path.endsWith('/sd_turbo_ort_web.json')) ?? ['', {}];
  const { checkpoint } = v.parse(configFileSchema, example);
  const problem = (change: object) => {
    const result = v.safeParse(configFileSchema, { ...(example as object), checkpoint: { ...checkpoint, ...change } });
    return result.success ? null : v.getDotPath(result.issues[0]);
  };

  test('and there is one to change', () => {
    expect(path).not.toBe('');
  });

  test.each([
    [{}, null],
    [{ revision: 'main' }, 'checkpoint.revision'],
    [{ revision: 'abc123' }, 'checkpoint.revision'],
    [{ repo: 'name' }, 'checkpoint.repo'],
    [{ link: 'http://huggingface.co/a/b' }, 'checkpoint.link'],
    [{ bytes: 0 }, 'checkpoint.bytes'],
    [{ license: { id: 'mit', link: null, kind: 'free' } }, 'checkpoint.license.kind'],
    [{ description: { en: 'English only.' } }, 'checkpoint.description.de'],
    [{ extra: 1 }, 'checkpoint.extra'],
  ])('with %j', (change, path) => {
    expect(problem(change)).toBe(path);
  });
});

test('offers begin with the most permissive licences', () => {
  const order = ['permissive', 'share_alike', 'use_restricted', 'non_commercial', 'unknown'];
  const ranks = offers.map(({ checkpoint }) => order.indexOf(checkpoint.license.kind));
  expect(ranks).toEqual([...ranks].sort());
  expect(offers.length).toBeGreaterThan(4);
  expect(new Set(offers.map(({ checkpoint }) => checkpoint.repo)).size).toBe(offers.length);
});

test('a template without a place for the words, or with two, is refused', () => {
  const rule = files['../src/configs/interception_stage_play.json'] as object;
  const changed = (en: string) =>
    v.safeParse(configFileSchema, { ...rule, template: { en, de: '{words} auf der Bühne' } });
  expect(changed('{words} on a stage').success).toBe(true);
  expect(changed('on a stage').issues?.[0].message).toBe('A template holds {words} once in each language.');
  expect(changed('{words} and {words}').success).toBe(false);
});

test('there are a dozen rules and one for a rule of one\u2019s own, and every config runs', () => {
  expect(Object.keys(files).filter((path) => path.includes('/interception_')).length).toBeGreaterThanOrEqual(14);
  const faults = Object.values(catalogue.configs)
    .map((config) => courseOf(config, catalogue))
    .filter((course) => typeof course === 'string');
  expect(faults).toEqual([]);
});
