/** Every config file: its form, its sources, and that nothing in it claims more than is known. */
import { describe, expect, test } from 'vitest';
import * as v from 'valibot';
import { configSchema } from '../src/core/catalogue.ts';
import { offers } from '../src/pipelines/catalogue.ts';

const files = import.meta.glob<unknown>('../src/configs/*.json', { eager: true, import: 'default' });

describe.each(Object.entries(files))('config %s', (path, file) => {
  const { checkpoint, parameters, name } = v.parse(configSchema, file);

  test('has a name in English and German, and a file name that can be an id', () => {
    expect(Object.keys(name)).toEqual(expect.arrayContaining(['en', 'de']));
    expect(path).toMatch(/\/[a-z0-9_]+\.json$/);
  });

  test.runIf(checkpoint)('its checkpoint says where it is, under which licence, and what nobody checked', () => {
    const known = checkpoint as NonNullable<typeof checkpoint>;
    expect(known.link).toBe(`https://huggingface.co/${known.repo}`);
    expect(known.license.id === null).toBe(known.license.kind === 'unknown');
    expect(known.verified).toBe(known.unverified === null);
    for (const text of [known.description, known.audience, ...(known.unverified ? [known.unverified] : [])]) {
      expect(text.en).toMatch(/^[A-Z].*\.$/);
      expect(text.de).toMatch(/^[A-ZÄÖÜ].*\.$/);
    }
    // A size is that of one commit's files.
    expect(known.bytes === null || known.revision !== null).toBe(true);
    if (known.bytes !== null) {
      expect(known.bytes).toBeGreaterThan(1e6);
    }
  });

  test.runIf(checkpoint)('runs with what is recommended for its checkpoint', () => {
    const { steps, guidance_scale, width, height } = (checkpoint as NonNullable<typeof checkpoint>).recommended;
    expect(parameters).toMatchObject({ steps, guidance_scale });
    expect([width % 8, height % 8]).toEqual([0, 0]);
  });
});

describe('a config file is refused', () => {
  const [path, example] = Object.entries(files).find(([path]) => path.endsWith('/sd_turbo_ort_web.json')) ?? ['', {}];
  const { checkpoint } = v.parse(configSchema, example);
  const problem = (change: object) => {
    const result = v.safeParse(configSchema, { ...(example as object), checkpoint: { ...checkpoint, ...change } });
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
