/** Which files the command line reads from a checkpoint's folder: its own, or the Hugging Face cache's, which consists of links. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { filesOfFolder } from '../cli/checkpoint_folder.js';

let root = '';

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'darkroom-cache-'));
});
afterEach(() => {
  rmSync(root, { recursive: true });
});

function write(...parts: string[]): string {
  const path = join(root, ...parts);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, '{}');
  return path;
}

function link(target: string, ...parts: string[]): void {
  const path = join(root, ...parts);
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(relative(dirname(path), target) || '.', path);
}

/** A repository of the cache with these versions. */
function cache(repository: string, versions: string[], main?: string): string {
  const blob = write(repository, 'blobs', 'a'.repeat(64));
  for (const version of versions) {
    link(blob, repository, 'snapshots', version, 'model_index.json');
    link(blob, repository, 'snapshots', version, 'unet', 'config.json');
  }
  if (main !== undefined) {
    writeFileSync(write(repository, 'refs', 'main'), `${main}\n`);
  }
  return join(root, repository);
}

const paths = async (folder: string) => (await filesOfFolder(folder)).map(({ path }) => path);

describe('a folder', () => {
  test('of files is taken as it is, links in it too, to folders and in circles', async () => {
    write('sd', 'model_index.json');
    write('elsewhere', 'unet', 'config.json');
    link(join(root, 'elsewhere', 'unet'), 'sd', 'unet');
    link(write('elsewhere', 'readme.md'), 'sd', 'readme.md');
    link(join(root, 'sd'), 'sd', 'again');
    expect(await filesOfFolder(join(root, 'sd'))).toEqual(
      ['model_index.json', 'readme.md', 'unet/config.json'].map((path) => ({
        path: `sd/${path}`,
        file: join(root, 'sd', path),
      })),
    );
  });

  test('that is only called like one of the cache is none', async () => {
    write('blobs', 'model_index.json');
    write('x', 'snapshots', 'model_index.json');
    expect(await paths(join(root, 'blobs'))).toEqual(['blobs/model_index.json']);
  });

  test('with a link that leads nowhere is refused', async () => {
    write('sd', 'model_index.json');
    link(join(root, 'gone'), 'sd', 'vae.safetensors');
    await expect(filesOfFolder(join(root, 'sd'))).rejects.toMatchObject({
      code: 'checkpoint_incomplete',
      message: expect.stringMatching(
        /vae\.safetensors is a link to .*gone, which is not there; the download/,
      ) as string,
    });
  });
});

describe('of the Hugging Face cache', () => {
  const whole = ['sd/model_index.json', 'sd/unet/config.json'];

  test('a version is taken under its repository’s name, by every folder that leads to one', async () => {
    const folder = cache('models--org--sd', ['abc']);
    for (const name of ['.', 'snapshots', join('snapshots', 'abc')]) {
      expect(await paths(join(folder, name))).toEqual(whole);
    }
  });

  test('of several versions the one that main is', async () => {
    const folder = cache('models--org--sd', ['abc', 'def'], 'def');
    const [{ file }] = await filesOfFolder(folder);
    expect(file).toBe(join(folder, 'snapshots', 'def', 'model_index.json'));
    const [other] = await filesOfFolder(join(folder, 'snapshots', 'abc'));
    expect(other.file).toContain('abc');
  });

  test('what says no version is refused with what to name', async () => {
    const folder = cache('models--org--sd', ['abc', 'def']);
    await expect(filesOfFolder(folder)).rejects.toThrow(/holds several versions; name one of them: .*abc, .*def\.$/);
    await expect(filesOfFolder(join(folder, 'blobs'))).rejects.toThrow(/without their names; name .*snapshots.abc\.$/);
    cache('models--org--other', ['abc']);
    await expect(filesOfFolder(root)).rejects.toThrow(
      /is the Hugging Face cache itself; name one of its folders: models--org--other, models--org--sd\.$/,
    );
  });
});
