/** "A new capability is one chunk file and one config file and no other edit": drop both into a copy, build it, run it. */
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from '@playwright/test';
import { serveFolder } from '../../cli/server.js';
import { runOperation } from '../fixtures/door.ts';

const PROJECT = join(import.meta.dirname, '..', '..');
const PARTS = [
  'index.html',
  'package.json',
  'vite.config.ts',
  'svelte.config.js',
  'tsconfig.base.json',
  'src',
  'chunks',
  'workers',
  'public',
  'cli',
  'schemas',
];

test('a chunk and a config dropped in are found, planned and run, with no other edit', async ({ page }) => {
  const copy = mkdtempSync(join(tmpdir(), 'darkroom-copy-'));
  try {
    for (const part of PARTS) {
      cpSync(join(PROJECT, part), join(copy, part), { recursive: true });
    }
    symlinkSync(join(PROJECT, 'node_modules'), join(copy, 'node_modules'));
    const fixtures = join(PROJECT, 'e2e', 'fixtures', 'new_chunk');
    cpSync(join(fixtures, 'output_image_gradient.ts'), join(copy, 'chunks', 'output_image_gradient.ts'));
    cpSync(join(fixtures, 'gradient.json'), join(copy, 'src', 'configs', 'gradient.json'));
    await promisify(execFile)('npx', ['--no-install', 'vite', 'build'], { cwd: copy });

    const schema = readFileSync(join(copy, 'dist', 'schemas', 'operation.json'), 'utf8');
    expect(schema).toContain('#/definitions/gradient');

    const server = await serveFolder(join(copy, 'dist'));
    try {
      await page.goto(`${server.url}/?door=cli&backend=wasm`);
      await page.waitForFunction(() => globalThis.darkroom !== undefined);
      const { job, pictures } = await runOperation(page, {
        operation: 'image_generation',
        config: 'gradient',
        parameters: { prompt: '' },
      });
      expect(job.error).toBeNull();
      expect(pictures).toHaveLength(1);
      expect(pictures[0]).toMatchObject({ width: 32, height: 16 });
      expect([...pictures[0].rgba.slice(-4)]).toEqual([255, 255, 0, 255]);
      expect(job.entities.map(({ type }) => type)).toEqual(['input', 'config', 'output_image']);
    } finally {
      await server.close();
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});
