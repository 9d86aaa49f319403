/** What the engine promises besides correct numbers: no read-backs along the way, no leaks, both builds work. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { toPixels } from '../src/engine/pixels.ts';
import { CHECKPOINTS, openDoor, openFolder, readGolden, runOperation, untilSampling } from './fixtures/door.ts';
import { writeLargeCheckpoint } from './fixtures/large_checkpoint.ts';

const PICTURES_IN_A_ROW = Number(process.env.PICTURES ?? 12);

function small(parameters: Record<string, unknown> = {}) {
  return {
    operation: 'image_generation',
    config: 'stable_diffusion',
    parameters: { prompt: 'a cat', steps: 1, guidance_scale: 0, width: 64, height: 64, seed: '1', ...parameters },
  };
}

const ledger = (page: Page) =>
  page.evaluate(() => (globalThis.darkroom as NonNullable<typeof globalThis.darkroom>).ledger());

const furthest = (one: ArrayLike<number>, other: ArrayLike<number> | null) =>
  Array.from(one).reduce((most, value, i) => Math.max(most, Math.abs(value - (other?.[i] ?? NaN))), 0);

/** On one page, as on a software GPU every new worker compiles its programs for a quarter of a minute. */
test.describe('on the GPU', () => {
  let page: Page;

  test.beforeAll(async ({ browser }) => {
    page = await (await browser.newContext()).newPage();
    await openDoor(page, 'webgpu');
    await openFolder(page, join(CHECKPOINTS, 'tiny-turbo'));
  });

  test.afterAll(() => page.close());

  test('between the first step and the picture no buffer is mapped for reading', async () => {
    await runOperation(page, small({ width: 32, height: 32 }));
    const before = await ledger(page);
    const { job, pictures } = await runOperation(page, small({ steps: 4, guidance_scale: 3, width: 32, height: 32 }));
    const after = await ledger(page);
    expect(job.state).toBe('completed');
    expect(pictures).toHaveLength(1);
    // The single mapped buffer is the picture itself.
    expect(after.readMaps - before.readMaps).toBe(1);
    // The resume point was saved alongside, and nothing waited for it.
    expect(after.snapshotMaps - before.snapshotMaps).toBeGreaterThanOrEqual(1);
  });

  test('a sampler that adds noise makes the same picture as on the processor', async ({ page: other }) => {
    const operation = small({ steps: 3, guidance_scale: 3, sampler: 'euler_ancestral', width: 32, height: 32 });
    const onGpu = await runOperation(page, operation);
    await openDoor(other, 'wasm');
    await openFolder(other, join(CHECKPOINTS, 'tiny-turbo'));
    const onProcessor = await runOperation(other, operation);
    expect([onGpu.job.error, onProcessor.job.error]).toEqual([null, null]);
    expect(furthest(onGpu.pictures[0].rgba, onProcessor.pictures[0].rgba)).toBeLessThanOrEqual(1);
  });

  test(`${PICTURES_IN_A_ROW} pictures in a row leave as many live GPU buffers as one`, async () => {
    test.setTimeout(900_000);
    const operation = small({ width: 16, height: 16 });
    await runOperation(page, operation);
    const one = await ledger(page);
    await page.evaluate(
      async ({ operation, count }) => {
        const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
        const jobs = await Promise.all(Array.from({ length: count }, () => door.submit(operation)));
        for (const { id } of jobs) {
          const job = await door.wait(id);
          if (job.state !== 'completed') {
            throw new Error(job.error?.message ?? job.state);
          }
        }
      },
      { operation, count: PICTURES_IN_A_ROW - 1 },
    );
    const all = await ledger(page);
    console.log(
      `live GPU buffers after 1 picture: ${one.liveBuffers} (${one.liveBytes} bytes), after ${PICTURES_IN_A_ROW}: ${all.liveBuffers} (${all.liveBytes} bytes)`,
    );
    expect(all.liveBuffers).toBe(one.liveBuffers);
    expect(all.liveBytes).toBe(one.liveBytes);
  });

  test('browsers without JSPI get the other build of the runtime, and the same picture', async ({ page: other }) => {
    const operation = small({ steps: 2, width: 16, height: 16 });
    const { pictures } = await runOperation(page, operation);
    await page.close();
    // As in Firefox and Safari today: the worker finds no WebAssembly.Suspending.
    await other.route(/generation\.worker.*\.js$/, async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `delete WebAssembly.Suspending;\n${await response.text()}` });
    });
    for (const backend of ['wasm', 'webgpu'] as const) {
      await openDoor(other, backend);
      expect(await other.evaluate(() => globalThis.darkroom?.device())).toMatchObject({ runtime: 'asyncify' });
      if (backend === 'webgpu') {
        await openFolder(other, join(CHECKPOINTS, 'tiny-turbo'));
        const made = await runOperation(other, operation);
        expect(made.job.error).toBeNull();
        expect(made.pictures).toEqual(pictures);
        continue;
      }
      for (const name of ['sd15-transform-euler-03', 'sd21-bf16-defaults']) {
        const golden = readGolden(name);
        await openFolder(other, join(CHECKPOINTS, golden.checkpoint));
        const { job, latents } = await runOperation(other, golden.operation);
        expect(job.error).toBeNull();
        expect(furthest(golden.latents, latents)).toBeLessThanOrEqual(1e-3);
      }
    }
  });
});

test('a decoder of four planes gives pictures that are as opaque as on the processor', async ({ page }) => {
  const [width, height, batch, planes] = [9, 5, 2, 4];
  const plane = width * height;
  // Beyond black and white, too, and clear and opaque.
  const decoded = Float32Array.from({ length: batch * planes * plane }, (_, i) => 1.3 * Math.sin(1 + i * i));
  const source = readFileSync(join(import.meta.dirname, '..', 'src', 'engine', 'kernels', 'pixels.wgsl'), 'utf8');
  await page.goto('/');
  const bytes = await page.evaluate(
    async ({ source, decoded, plane, count, planes }) => {
      const adapter = await navigator.gpu.requestAdapter();
      const device = (await adapter?.requestDevice()) as GPUDevice;
      const [length, { STORAGE, COPY_SRC, COPY_DST, UNIFORM, MAP_READ }] = [(count + 2) * 4, GPUBufferUsage];
      const uniforms = device.createBuffer({ size: 16, usage: UNIFORM | COPY_DST });
      const values = device.createBuffer({ size: decoded.length * 4, usage: STORAGE | COPY_DST });
      const out = device.createBuffer({ size: length, usage: STORAGE | COPY_SRC });
      const read = device.createBuffer({ size: length, usage: MAP_READ | COPY_DST });
      device.queue.writeBuffer(uniforms, 0, Uint32Array.of(plane, count, planes, 0));
      device.queue.writeBuffer(values, 0, Float32Array.from(decoded));
      const pipeline = device.createComputePipeline({
        layout: 'auto',
        compute: { module: device.createShaderModule({ code: source }) },
      });
      const group = device.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: [uniforms, values, out].map((buffer, binding) => ({ binding, resource: { buffer } })),
      });
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(Math.ceil(count / 64));
      pass.end();
      encoder.copyBufferToBuffer(out, 0, read, 0, length);
      device.queue.submit([encoder.finish()]);
      await read.mapAsync(GPUMapMode.READ);
      return Array.from(new Uint8Array(read.getMappedRange()));
    },
    { source, decoded: Array.from(decoded), plane, count: batch * plane, planes },
  );
  const expected = toPixels(decoded, [batch, planes, height, width]).flatMap(({ data }) => Array.from(data));
  expect(new Set(expected.filter((_, i) => i % 4 === 3)).size).toBeGreaterThan(20);
  // Behind the pixels: values that are not finite, and whether there is any that is not zero.
  expect(bytes).toEqual([...expected, 0, 0, 0, 0, 1, 0, 0, 0]);
});

test('the processor makes a picture of 512×512 pixels with heads as wide as published ones', async ({ page }) => {
  test.setTimeout(600_000);
  const folder = mkdtempSync(join(tmpdir(), 'darkroom-attention-'));
  try {
    writeLargeCheckpoint(folder, { channels: [64, 64, 64, 64], textWidth: 64, type: 'F32' });
    await openDoor(page, 'wasm');
    await openFolder(page, folder);
    const { job, pictures } = await runOperation(page, small({ width: 512, height: 512 }));
    expect(job.error).toBeNull();
    expect(pictures[0]).toMatchObject({ width: 512, height: 512 });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('serial guidance makes the same picture as batched guidance', async ({ page }) => {
  await openDoor(page, 'wasm');
  await openFolder(page, join(CHECKPOINTS, 'tiny-sd15'));
  const settings = { steps: 3, guidance_scale: 7.5, seed: '7', batch_size: 2 };
  const batched = await runOperation(page, {
    ...small({ ...settings, guidance_mode: 'batched' }),
    record: ['latents'],
  });
  const serial = await runOperation(page, { ...small({ ...settings, guidance_mode: 'serial' }), record: ['latents'] });
  expect(batched.job.error).toBeNull();
  expect(furthest(batched.latents ?? new Float32Array(), serial.latents)).toBeLessThanOrEqual(1e-3);
});

test('weights arrive while the browser collects garbage all the time', async ({ playwright, baseURL }, info) => {
  const { launchOptions } = info.project.use;
  const browser = await playwright.chromium.launch({
    ...launchOptions,
    args: [...(launchOptions?.args ?? []), '--js-flags=--expose-gc'],
  });
  const folder = mkdtempSync(join(tmpdir(), 'darkroom-garbage-'));
  try {
    writeLargeCheckpoint(folder, { channels: [64, 128, 256, 256], textWidth: 64, type: 'F32' });
    const page = await (await browser.newContext({ baseURL })).newPage();
    await openDoor(page, 'webgpu');
    await openFolder(page, folder);
    const worker = page.workers().find((one) => one.url().includes('generation'));
    // A stream that nothing references is collected while being read (src/weights/weight_source.ts).
    const collects = await worker?.evaluate(() => {
      const { gc } = globalThis as { gc?: () => void };
      setInterval(() => gc?.(), 3);
      return gc !== undefined;
    });
    expect(collects).toBe(true);
    expect((await untilSampling(page, small({ width: 16, height: 16 }))).error).toBeNull();
    const { liveBytes, liveBuffers, createdBuffers } = await ledger(page);
    expect(liveBytes).toBeGreaterThan(100 * 2 ** 20);
    // The runtime itself uploads through a staging buffer per weight (src/engine/weight_uploads.ts); only the largest weights go that way.
    expect(createdBuffers - liveBuffers).toBeLessThan(liveBuffers / 2);
  } finally {
    await browser.close();
    rmSync(folder, { recursive: true, force: true });
  }
});
