/**
 * The GPU fails in every way we could think of, at every stage: the job continues in a new worker and the picture equals the undisturbed one
 * of the same browser byte for byte, or it ends with one sentence. Nothing in the product knows about these tests: the faults are prepended
 * to the worker's script or come from the browser itself.
 */
import { join } from 'node:path';
import { expect, test, type Browser, type Page } from '@playwright/test';
import type { Job } from '../../src/core/job.ts';
import { CHECKPOINTS, openDoor, openFolder, passUntilRestart, runOperation, type Outcome } from '../fixtures/door.ts';
import { befall, firstSteps, generator, sabotageWorkers, type Fault } from '../fixtures/gpu_faults.ts';

const CHECKPOINT = join(CHECKPOINTS, 'tiny-turbo');

/** Its sampler continues from the previous step, so more than the latents must be saved. */
const OPERATION = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: {
    prompt: 'a lighthouse',
    steps: 5,
    guidance_scale: 0,
    sampler: 'dpmpp_2m',
    width: 16,
    height: 16,
    seed: '7',
  },
  record: ['latents'],
};

test.describe.configure({ mode: 'serial' });

test.describe('on one page', () => {
  let page: Page;
  let undisturbed: Outcome;
  /** For workers created from now on, in order; an empty string is a worker without a fault. */
  const next: (Fault | string)[] = [];

  test.beforeAll(async ({ browser, baseURL }, info) => {
    page = await (await browser.newContext({ baseURL, serviceWorkers: 'block' })).newPage();
    info.setTimeout(120_000);
    await sabotageWorkers(page, next);
    await openDoor(page, 'webgpu');
    await openFolder(page, CHECKPOINT);
    undisturbed = await runOperation(page, OPERATION);
    expect(undisturbed.job).toMatchObject({ state: 'completed', attempts: 1 });
  });

  test.afterAll(() => page.context().close());

  /** Resolves when a lost one was replaced. */
  const started = () => page.evaluate(() => globalThis.darkroom?.device());

  const loseGpu = async () => {
    const worker = generator(page);
    const gone = worker.waitForEvent('close');
    await worker.evaluate(() => (globalThis as unknown as { device: GPUDevice }).device.destroy());
    await gone;
  };

  /** The same picture and latents, every entity recorded once, in that many attempts. */
  function expectSame({ job, latents, pictures }: Outcome, attempts: number): void {
    expect(job).toMatchObject({ state: 'completed', attempts, error: null });
    expect(job.notices.filter((notice) => notice.startsWith('The GPU was lost; '))).toHaveLength(attempts - 1);
    expect(latents).toEqual(undisturbed.latents);
    expect(pictures).toEqual(undisturbed.pictures);
    expect(job.entities.map(({ filename }) => filename)).toEqual(
      undisturbed.job.entities.map(({ filename }) => filename),
    );
  }

  test('lost while idle: the next job runs on a new worker, as if nothing had been', async () => {
    await loseGpu();
    expectSame(await runOperation(page, OPERATION), 1);
  });

  test('lost while loading, then while encoding', async () => {
    await loseGpu();
    next.push({ what: 'lost', stage: 'load', count: 3 }, { what: 'lost', stage: 'encode', count: 1 });
    expectSame(await runOperation(page, OPERATION), 3);
  });

  test('destroyed while sampling, twice, then while decoding: it goes on behind a step that was done', async () => {
    await befall(page, { what: 'lost', stage: 'sample', count: 3 });
    next.push({ what: 'lost', stage: 'sample', count: 2 }, { what: 'lost', stage: 'decode', count: 1 });
    const sampled = firstSteps(page);
    expectSame(await runOperation(page, OPERATION), 4);
    expect((await sampled)[0]).toBe(0);
    expect((await sampled)[1]).toBeGreaterThan(0);
    expect((await sampled).at(-1)).not.toBe(0);
  });

  test('lost four times: the job fails with a way out', async () => {
    await befall(page, { what: 'lost', stage: 'sample', count: 3 });
    next.push(...Array.from({ length: 3 }, (): Fault => ({ what: 'lost', stage: 'load', count: 2 })));
    const { job } = await runOperation(page, OPERATION);
    expect(job).toMatchObject({ state: 'failed', attempts: 4, error: { code: 'gpu_lost', retry: 'smaller' } });
    expect(job.error?.message).toMatch(/^The GPU was lost 4 times during this job, [^.]+\.$/);
    expect(job.offer?.label).toBe('Try with weights of 8 bits');
    expect(await stageOf(job)).toBe('failed');
    const smaller = await runOperation(page, job.offer?.operation);
    expect(smaller.job).toMatchObject({ state: 'completed', attempts: 1 });
  });

  test('no adapter any more: the job ends with that sentence', async () => {
    await befall(page, { what: 'lost', stage: 'sample', count: 3 });
    next.push('GPU.prototype.requestAdapter = () => Promise.resolve(null);');
    const { job } = await runOperation(page, OPERATION);
    expect(job).toMatchObject({ state: 'failed', attempts: 2, error: { code: 'no_webgpu' } });
    expect(job.error?.message).toContain('this browser offers no GPU adapter');
    expectSame(await runOperation(page, OPERATION), 1);
  });

  test('limits too small: refused before anything is loaded, and what fits is offered', async () => {
    await loseGpu();
    next.push(`
      const limits = Object.getOwnPropertyDescriptor(GPUDevice.prototype, 'limits').get;
      Object.defineProperty(GPUDevice.prototype, 'limits', { get() {
        const own = limits.call(this);
        return new Proxy(own, { get: (_, name) => name === 'maxStorageBufferBindingSize' ? 2 ** 20 : own[name] });
      } });`);
    const large = { ...OPERATION, parameters: { ...OPERATION.parameters, steps: 1, width: 256, height: 256 } };
    const { job } = await runOperation(page, large);
    expect(job).toMatchObject({ state: 'failed', attempts: 1, error: { code: 'does_not_fit', retry: 'smaller' } });
    expect(job.error?.message).toContain('this GPU takes at most 1 MiB in one buffer');
    expect(job.offer?.label).toMatch(/^Try (with tiled decoding|at [0-9]+×[0-9]+ pixels)$/);
    const smaller = await runOperation(page, job.offer?.operation);
    expect(smaller.job.state).toBe('completed');
    await loseGpu();
  });

  test('latents of NaN are an error, never a picture', async () => {
    await started();
    await befall(page, { what: 'nan', stage: 'load', count: 1 });
    const { job, pictures } = await runOperation(page, OPERATION);
    expect(job).toMatchObject({ state: 'failed', attempts: 1, error: { code: 'result_invalid' } });
    expect(pictures).toEqual([]);
    await loseGpu();
  });

  test('a hang is ended by the watchdog, and the job goes on', async () => {
    await started();
    await befall(page, { what: 'hang', stage: 'sample', count: 3 });
    await page.clock.install();
    const outcome = runOperation(page, OPERATION);
    // Until it hangs, visible as the worker without its fault.
    const worker = generator(page);
    await expect
      .poll(() => worker.evaluate(() => (globalThis as unknown as { fault: unknown }).fault), { timeout: 120_000 })
      .toBeNull();
    await passUntilRestart(page, '14:00');
    const { job, latents, pictures } = await outcome;
    expect(job).toMatchObject({ state: 'completed', attempts: 2 });
    expect(job.notices[0]).toBe(
      'The generator does not respond any more; the job goes on from where it was (restart 1 of 3).',
    );
    expect(latents).toEqual(undisturbed.latents);
    expect(pictures).toEqual(undisturbed.pictures);
  });

  const stageOf = ({ run }: Job) =>
    page.evaluate(async (id) => (await globalThis.darkroom?.run(id))?.current_state.stage, run ?? '');
});

test('lost while sampling, as the GPU process crashes', async ({ playwright, baseURL }, info) => {
  // A separate browser: after repeated crashes a browser gives up its GPU.
  const browser: Browser = await playwright.chromium.launch(info.project.use.launchOptions);
  try {
    const page = await (await browser.newContext({ baseURL, serviceWorkers: 'block' })).newPage();
    await openDoor(page, 'webgpu');
    await openFolder(page, CHECKPOINT);
    const operation = { ...OPERATION, parameters: { ...OPERATION.parameters, steps: 8 } };
    const undisturbed = await runOperation(page, operation);
    const outcome = runOperation(page, operation);
    await expect
      .poll(
        () =>
          page.evaluate(async () => {
            const running = (await globalThis.darkroom?.list())?.find(({ state }) => state === 'running');
            return running?.progress?.stage === 'sample' && running.progress.step >= 3;
          }),
        { intervals: [100] },
      )
      .toBe(true);
    await (await browser.newBrowserCDPSession()).send('Browser.crashGpuProcess');
    const { job, latents, pictures } = await outcome;
    expect(job).toMatchObject({ state: 'completed', attempts: 2, error: null });
    expect(latents).toEqual(undisturbed.latents);
    expect(pictures).toEqual(undisturbed.pictures);
  } finally {
    await browser.close();
  }
});
