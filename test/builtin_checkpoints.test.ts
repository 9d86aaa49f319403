/** The checkpoints that come with the page: their descriptions and their folders' contents. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  BUILTIN_CHECKPOINTS,
  BUILTIN_UPSCALER,
  DEFAULT_CHECKPOINT,
  builtinOf,
  defaultCheckpoint,
  goneSentence,
  isBuiltin,
} from '../src/core/builtin_checkpoints.ts';

const FOLDERS = join(import.meta.dirname, '../public/checkpoints');
/** Maximum bytes of the first one's folder, and of each of the others'. */
const LIMITS = [24e6, 16e6];

interface Manifest {
  name: string;
  license: string;
  default: Record<string, number>;
  prompts: string[];
  files: { path: string; size: number; sha256: string }[];
}

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort();
}

test('every folder is one of them', () => {
  const all = [...BUILTIN_CHECKPOINTS, BUILTIN_UPSCALER];
  expect(readdirSync(FOLDERS).sort()).toEqual(all.map(({ id }) => id).sort());
  expect(all.map(({ id }) => builtinOf(`builtin:${id}`))).toEqual(all);
});

test('refs', () => {
  expect(builtinOf(DEFAULT_CHECKPOINT)).toBe(BUILTIN_CHECKPOINTS[0]);
  for (const ref of ['builtin:gone', 'folder:shapes', 'shapes', '']) {
    expect(builtinOf(ref)).toBeNull();
  }
  expect(['builtin:gone', 'folder:shapes'].map(isBuiltin)).toEqual([true, false]);
  expect(goneSentence('builtin:gone')).toBe(
    `The checkpoint "builtin:gone" does not come with this version of Darkroom; those that do are "builtin:scenes", "builtin:scenes-4-steps", "builtin:realesr-animevideov3".`,
  );
});

test('an operation that names none gets one that can run it', () => {
  expect(defaultCheckpoint(['RRDBNet', 'SRVGGNetCompact'])).toBe('builtin:realesr-animevideov3');
  expect(defaultCheckpoint(['StableDiffusionPipeline', 'StableDiffusionXLPipeline'])).toBe(DEFAULT_CHECKPOINT);
  expect(defaultCheckpoint(['ZImagePipeline'])).toBe(DEFAULT_CHECKPOINT);
});

test('the upscaler is listed as it is, with its licence beside it', () => {
  const folder = join(FOLDERS, BUILTIN_UPSCALER.id);
  const { name, license, files } = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as Manifest;
  expect([name, license]).toEqual([BUILTIN_UPSCALER.name, 'BSD-3-Clause']);
  expect([...files.map(({ path }) => path), 'manifest.json'].sort()).toEqual(filesOf(folder));
  expect(files.map(({ path }) => path)).toContain('LICENSE.txt');
  for (const { path, size, sha256 } of files) {
    const bytes = readFileSync(join(folder, path));
    expect([bytes.length, createHash('sha256').update(bytes).digest('hex')]).toEqual([size, sha256]);
  }
});

describe.each(BUILTIN_CHECKPOINTS.map((one, index) => ({ ...one, index })))('$id', ({ id, name, knows, index }) => {
  const folder = join(FOLDERS, id);
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as Manifest;

  test('its manifest has its name and lists every file as it is', () => {
    expect(manifest.name).toBe(name);
    expect(manifest.license).toBe('Apache-2.0');
    expect([...manifest.files.map(({ path }) => path), 'manifest.json'].sort()).toEqual(filesOf(folder));
    for (const { path, size, sha256 } of manifest.files) {
      const bytes = readFileSync(join(folder, path));
      expect([path, bytes.length, createHash('sha256').update(bytes).digest('hex')]).toEqual([path, size, sha256]);
    }
  });

  test('it is small enough to come with a page', () => {
    const bytes = filesOf(folder).reduce((sum, path) => sum + statSync(join(folder, path)).size, 0);
    expect(bytes).toBeLessThanOrEqual(LIMITS[Math.min(index, LIMITS.length - 1)]);
  });

  test('it was trained on every word that people are told and of every prompt that it offers', () => {
    const vocabulary = JSON.parse(readFileSync(join(folder, 'tokenizer/vocab.json'), 'utf8')) as Record<string, number>;
    expect(manifest.prompts.length).toBeGreaterThanOrEqual(4);
    const [, things] = /^Things: ([^.]+)\./.exec(knows) ?? [];
    expect(things.split(', ').length).toBeGreaterThanOrEqual(40);
    for (const word of [things, ...manifest.prompts].flatMap((words) => words.toLowerCase().match(/\p{L}+/gu) ?? [])) {
      expect(vocabulary).toHaveProperty([`${word}</w>`]);
    }
  });

  test('its card is there', () => {
    expect(existsSync(join(folder, 'README.md'))).toBe(true);
  });
});
