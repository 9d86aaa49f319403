/** The planner's estimates against what the engine then actually holds and does. */
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { DEFAULT_CHECKPOINT } from '../src/core/builtin_checkpoints.ts';
import type { Estimate, EstimateRequest } from '../src/core/model.ts';
import { CHECKPOINTS, openDoor, openFolder, runOperation } from './fixtures/door.ts';

/** Estimated and actual peak of device memory are within this factor of each other. */
const FACTOR = 1.5;

function request(size: number, more: Partial<EstimateRequest> = {}): EstimateRequest {
  return {
    operation: 'image_generation',
    width: size,
    height: size,
    batch_size: 1,
    steps: 2,
    guidance_scale: 3,
    ...more,
  };
}

function operation({ width, height, batch_size, steps, guidance_scale }: EstimateRequest) {
  const parameters = { prompt: 'a red circle', seed: '1', width, height, batch_size, steps, guidance_scale };
  return { operation: 'image_generation', config: 'stable_diffusion', parameters };
}

const estimate = (page: Page, ref: string, asked: EstimateRequest): Promise<Estimate> =>
  page.evaluate(
    ({ ref, asked }) => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).estimate(ref, asked),
    { ref, asked },
  );

const planWith = (page: Page, bytes: number | null) =>
  page.evaluate((bytes) => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).planWith(bytes), bytes);

const ledger = (page: Page) =>
  page.evaluate(() => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).ledger());

for (const { name, size, more } of [
  { name: 'tiny-sd15', size: 64, more: { batch_size: 2 } },
  { name: DEFAULT_CHECKPOINT, size: 64, more: {} },
]) {
  test(`${name} at ${size} pixels takes about the memory that was estimated`, async ({ page }) => {
    await openDoor(page, 'webgpu');
    const ref = name === DEFAULT_CHECKPOINT ? name : await openFolder(page, join(CHECKPOINTS, name));
    // More steps need no more memory.
    const asked = request(size, { steps: 1, ...more });
    const estimated = await estimate(page, ref, asked);
    const before = await ledger(page);
    const { job } = await runOperation(page, operation(asked));
    expect(job.error).toBeNull();
    // The runtime keeps its buffers for the next picture, so what is held afterwards is what the picture took.
    const held = (await ledger(page)).liveBytes - before.liveBytes;
    const { memory, runsHere } = estimated.variants[0];
    expect(runsHere).toBe(true);
    console.log(
      `${name} ${size}: estimated ${megabytes(memory.peak)} MB (weights ${megabytes(memory.weights)}, activations ${megabytes(memory.activations ?? 0)}), held ${megabytes(held)} MB, factor ${(memory.peak / held).toFixed(2)}`,
    );
    expect(memory.peak / held).toBeGreaterThan(1 / FACTOR);
    expect(memory.peak / held).toBeLessThan(FACTOR);
  });
}

test('seconds come from a self-measurement, then from pictures that were made', async ({ page }) => {
  await openDoor(page, 'wasm');
  const asked = request(64);
  const first = await estimate(page, DEFAULT_CHECKPOINT, asked);
  expect(first.rate).toBe('self-measurement');
  expect(first.seconds).toBeGreaterThan(0);
  expect(first.flops?.total).toBeGreaterThan(first.flops?.step ?? Infinity);
  expect((await runOperation(page, operation(asked))).job.error).toBeNull();
  const second = await estimate(page, DEFAULT_CHECKPOINT, asked);
  expect(second.rate).toBe('pictures');
  expect(second.seconds).toBeGreaterThan(0);
  // Stored for the next visit.
  await page.reload();
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
  expect((await estimate(page, DEFAULT_CHECKPOINT, asked)).rate).toBe('pictures');
  console.log(
    `${DEFAULT_CHECKPOINT} at 64 pixels: ${first.seconds?.toFixed(2)} s foretold, then ${second.seconds?.toFixed(2)} s`,
  );
});

test('what does not fit in full precision runs quantised and says so; what does not fit at all is refused', async ({
  page,
}) => {
  await openDoor(page, 'wasm');
  const asked = request(64);
  // Where hardly anything fits, the least that each takes is estimated.
  await planWith(page, 2 ** 20);
  const { variants } = await estimate(page, DEFAULT_CHECKPOINT, asked);
  const [full, q8] = ['full', 'q8'].map((name) =>
    variants.find(({ variant, runsHere }) => variant === name && runsHere),
  );
  const [needs, less] = [full?.memory.peak ?? 0, q8?.memory.peak ?? 0];
  expect(less).toBeLessThan(needs);

  expect(await planWith(page, Math.round((needs + less) / 2))).toMatchObject({ source: 'set' });
  const quantised = await runOperation(page, operation(asked));
  expect(quantised.job.error).toBeNull();
  expect(quantised.job.notices.join(' ')).toMatch(/runs with weights of 8 bits, because in full precision it needs/);

  await planWith(page, 2 ** 20);
  const refused = await runOperation(page, operation(asked));
  expect(refused.job.error).toMatchObject({ code: 'does_not_fit' });
  expect(refused.job.error?.message).toMatch(
    /^This needs about [\d.]+ GiB, but the memory set for the GPU is [\d.]+ GiB\. Choose a smaller checkpoint\.$/,
  );

  expect(await planWith(page, null)).toMatchObject({ source: 'guess' });
  const again = await runOperation(page, operation(asked));
  expect(again.job.error).toBeNull();
  expect(again.job.notices).toEqual([]);
});

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
