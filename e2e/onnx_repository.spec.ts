/**
 * Ready-made ONNX repositories in the page: the optimum layout on both backends against the diffusers golden of the folder it was exported
 * from; each published export against a golden of its own; and static half precision, over many steps, against the optimum layout.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { openDoor, openFolder, readGolden, runOperation, type Outcome } from './fixtures/door.ts';

const REPOSITORIES = join(import.meta.dirname, '..', 'test', 'onnx_repositories');
const EXPORT_GOLDENS = join(import.meta.dirname, '..', 'test', 'goldens', 'exports');
const LATENTS = 1e-3;
const PIXELS = 2;

const golden = readGolden('sd15-f16-defaults');

function largest(a: ArrayLike<number> | null, b: ArrayLike<number> | null): number {
  expect(a?.length).toBe(b?.length);
  return Array.from(a ?? []).reduce((most, value, i) => Math.max(most, Math.abs(value - (b?.[i] ?? NaN))), 0);
}

function rgb({ pictures }: Outcome): number[] {
  return pictures.flatMap(({ rgba }) => [...rgba.filter((_, i) => i % 4 !== 3)]);
}

async function run(page: Page, parameters: Record<string, unknown> = {}): Promise<Outcome> {
  return runOperation(page, { ...golden.operation, parameters: { ...golden.operation.parameters, ...parameters } });
}

for (const backend of ['wasm', 'webgpu'] as const) {
  test(`the optimum layout gives the picture of diffusers on ${backend}, and frees what it took`, async ({ page }) => {
    await openDoor(page, backend);
    await openFolder(page, join(REPOSITORIES, 'optimum'));
    const first = await run(page);
    expect(first.job.error).toBeNull();
    const [latents, pixels] = [largest(first.latents, golden.latents), largest(rgb(first), golden.pixels)];
    console.log(`optimum on ${backend}: latents ${latents.toExponential(1)}, pixels ${pixels} of 255`);
    expect(latents).toBeLessThanOrEqual(LATENTS);
    expect(pixels).toBeLessThanOrEqual(PIXELS);

    const ledger = () => page.evaluate(() => globalThis.darkroom?.ledger());
    const one = await ledger();
    const second = await run(page);
    expect(largest(second.latents, first.latents)).toBe(0);
    const two = await ledger();
    expect(two?.liveBuffers).toBe(one?.liveBuffers);
    // The picture and its recorded latents; nothing between them is read back.
    expect((two?.readMaps ?? 0) - (one?.readMaps ?? 0)).toBe(backend === 'webgpu' ? 2 : 0);
  });
}

for (const id of readdirSync(EXPORT_GOLDENS)) {
  test(`${id} gives the picture of diffusers on wasm`, async ({ page }) => {
    const { operation, latents, pixels } = readGolden(join('..', 'exports', id));
    await openDoor(page, 'wasm');
    await openFolder(page, join(REPOSITORIES, id));
    const made = await runOperation(page, operation);
    expect(made.job.error).toBeNull();
    const [worst, most] = [largest(made.latents, latents), largest(rgb(made), pixels)];
    console.log(`${id} on wasm: latents ${worst.toExponential(1)}, pixels ${most} of 255`);
    // Most are half precision, one of them over several steps (test/onnx_checkpoint.test.ts).
    expect(worst).toBeLessThanOrEqual(0.1);
    expect(most).toBeLessThanOrEqual(operation.parameters.steps === 1 ? PIXELS : 2 * PIXELS);
  });
}

/** Half precision throughout: the difference is rounding, which grows with steps and guidance (test/onnx_checkpoint.test.ts). */
test('static half-precision networks of batch two give nearly the same picture on wasm', async ({ page }) => {
  const settings = { steps: 5, guidance_scale: 2, sampler: 'euler', schedule: 'leading' };
  await openDoor(page, 'wasm');
  await openFolder(page, join(REPOSITORIES, 'optimum'));
  const full = await run(page, settings);
  await openFolder(page, join(REPOSITORIES, 'stable_diffusion_v1_5_webnn'));
  const half = await run(page, settings);
  expect(half.job.error).toBeNull();
  const [latents, pixels] = [largest(half.latents, full.latents), largest(rgb(half), rgb(full))];
  console.log(`webnn on wasm: latents ${latents.toExponential(1)}, pixels ${pixels} of 255`);
  expect(latents).toBeLessThanOrEqual(0.1);
  expect(pixels).toBeLessThanOrEqual(6);
});

test('on a GPU without half precision such networks are refused in one sentence, or run where it has it', async ({
  page,
}) => {
  await openDoor(page, 'webgpu');
  const halves = await page.evaluate(async () => {
    const adapter = await navigator.gpu.requestAdapter();
    return adapter?.features.has('shader-f16') ?? false;
  });
  await openFolder(page, join(REPOSITORIES, 'stable_diffusion_v1_5_webnn'));
  const { job } = await run(page, { steps: 1, guidance_scale: 0, sampler: 'euler' });
  if (halves) {
    expect(job.error).toBeNull();
  } else {
    expect(job.error).toMatchObject({ code: 'checkpoint_unsupported' });
    expect(job.error?.message).toMatch(/computes in half precision, which this GPU does not offer/);
  }
});
