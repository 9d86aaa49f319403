/**
 * A transformer in blocks on the software GPU, whose weights are bound as buffers: as exact as the whole graph, and the same to the bit whether
 * the weights stay on the device or are streamed through slots.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import {
  PIPELINE_GOLDENS,
  openDoor,
  openFile,
  openFolder,
  readGolden,
  runOperation,
  type Golden,
} from './fixtures/door.ts';
import { writeFiles, writeWeightless } from './fixtures/weightless.ts';
import { splitFlux1Gguf } from '../test/split_files.ts';

const GOLDENS = join(PIPELINE_GOLDENS, '..');
const LATENTS = 1e-3;

/** Any transformer's will do: those of all families were compared so, and a software GPU is slow. */
const CASES = [
  {
    name: 'z-image-guided',
    root: 'transformers',
    open: (page: Page, { checkpoint }: Golden) => openFolder(page, writeWeightless(made, checkpoint)),
  },
  // Matrices of 4 bits (Q4_0) and 8 bits (Q8_0), bound in the blocks that their files have, and of others that become such blocks while they stream.
  { name: 'flux1-gguf', root: 'split_files', open: (page: Page) => openFile(page, writeFiles(made, splitFlux1Gguf())) },
];

const made = mkdtempSync(join(tmpdir(), 'darkroom-blocks-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

for (const { name, root, open } of CASES) {
  test(`weights that stay and weights that are streamed give the same latents: ${name}`, async ({ page }) => {
    const golden = readGolden(name, join(GOLDENS, root));
    const results: { latents: Float32Array; most: number }[] = [];
    for (const mode of ['resident', 'streamed'] as const) {
      await openDoor(page, 'webgpu', `&blocks=${mode}`);
      await open(page, golden);
      const { job, latents } = await runOperation(page, golden.operation);
      expect(job.error).toBeNull();
      const ledger = await page.evaluate(() => globalThis.darkroom?.ledger());
      results.push({ latents: latents ?? new Float32Array(), most: ledger?.mostWeightBytes ?? 0 });
    }
    const [resident, streamed] = results;
    const worst = golden.latents.reduce((most, value, i) => Math.max(most, Math.abs(value - resident.latents[i])), 0);
    console.log(
      `${name} in blocks: ${worst.toExponential(2)} from diffusers; at most ${streamed.most} of ${resident.most} bytes of weights`,
    );
    expect(worst).toBeLessThanOrEqual(LATENTS);
    expect(streamed.latents).toEqual(resident.latents);
    expect(streamed.most).toBeGreaterThan(0);
    expect(streamed.most).toBeLessThan(resident.most);
  });
}
