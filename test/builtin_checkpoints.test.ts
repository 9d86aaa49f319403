/** The checkpoints that come with the page: what is said of them, and what lies in their folders. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  BUILTIN_CHECKPOINTS,
  DEFAULT_CHECKPOINT,
  builtinOf,
  goneSentence,
  isBuiltin,
} from '../src/core/builtin_checkpoints.ts';

const FOLDERS = join(import.meta.dirname, '../public/checkpoints');
/** Bytes of the first one's folder at most, and of each of the others'. */
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
  expect(readdirSync(FOLDERS).sort()).toEqual(BUILTIN_CHECKPOINTS.map(({ id }) => id).sort());
});

test('refs', () => {
  expect(builtinOf(DEFAULT_CHECKPOINT)).toBe(BUILTIN_CHECKPOINTS[0]);
  for (const ref of ['builtin:gone', 'folder:shapes', 'shapes', '']) {
    expect(builtinOf(ref)).toBeNull();
  }
  expect(['builtin:gone', 'folder:shapes'].map(isBuiltin)).toEqual([true, false]);
  expect(goneSentence('builtin:gone')).toBe(
    `The checkpoint "builtin:gone" does not come with this version of Darkroom; those that do are "builtin:scenes" and "builtin:scenes-4-steps".`,
  );
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
