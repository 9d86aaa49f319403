/**
 * A transformer in blocks on the software GPU, whose weights are bound as buffers: as exact as the whole graph, and the same to the bit whether
 * the weights stay on the device or are streamed through slots.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@playwright/test';
import { PIPELINE_GOLDENS, openDoor, openFolder, readGolden, runOperation } from './fixtures/door.ts';
import { writeWeightless } from './fixtures/weightless.ts';

const LATENTS = 1e-3;
/** Any transformer's will do: those of all families were compared so, and a software GPU is slow. */
const GOLDEN = 'z-image-guided';

const made = mkdtempSync(join(tmpdir(), 'darkroom-blocks-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));

test('weights that stay and weights that are streamed give the same latents', async ({ page }) => {
  const golden = readGolden(GOLDEN, join(PIPELINE_GOLDENS, '..', 'transformers'));
  const folder = writeWeightless(made, golden.checkpoint);
  const results: { latents: Float32Array; most: number }[] = [];
  for (const mode of ['resident', 'streamed'] as const) {
    await openDoor(page, 'webgpu', `&blocks=${mode}`);
    await openFolder(page, folder);
    const { job, latents } = await runOperation(page, golden.operation);
    expect(job.error).toBeNull();
    const ledger = await page.evaluate(() => globalThis.darkroom?.ledger());
    results.push({ latents: latents ?? new Float32Array(), most: ledger?.mostWeightBytes ?? 0 });
  }
  const [resident, streamed] = results;
  const worst = golden.latents.reduce((most, value, i) => Math.max(most, Math.abs(value - resident.latents[i])), 0);
  console.log(
    `${GOLDEN} in blocks: ${worst.toExponential(2)} from diffusers; at most ${streamed.most} of ${resident.most} bytes of weights`,
  );
  expect(worst).toBeLessThanOrEqual(LATENTS);
  expect(streamed.latents).toEqual(resident.latents);
  expect(streamed.most).toBeGreaterThan(0);
  expect(streamed.most).toBeLessThan(resident.most);
});
