/** Workers that are missing, die, hang or send nonsense: every call ends with one sentence, and the job continues or says why not. */
import { expect, test, type Page } from '@playwright/test';
import type { Job } from '../../src/core/job.ts';
import type { Door } from '../../src/jobs/door.ts';
import { passUntilRestart } from '../fixtures/door.ts';

const OPERATION = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a red circle', width: 64, height: 64, steps: 3, guidance_scale: 1, seed: '7' },
};

async function open(page: Page): Promise<void> {
  await page.goto('/?backend=wasm&door=cli');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
}

/** The job, and the SHA-256 of its picture's pixels if it made one. */
function generate(page: Page, operation: unknown = OPERATION): Promise<{ job: Job; pixels: string }> {
  return page.evaluate(async (given) => {
    const door = globalThis.darkroom as Door;
    const job = await door.wait((await door.submit(given)).id);
    const picture = job.entities.find(({ type }) => type === 'output_image');
    if (job.run === null || !picture) {
      return { job, pixels: '' };
    }
    const bitmap = await createImageBitmap(await door.entity(job.run, picture.filename), {
      premultiplyAlpha: 'none',
      colorSpaceConversion: 'none',
    });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d');
    canvas?.drawImage(bitmap, 0, 0);
    const data = canvas?.getImageData(0, 0, bitmap.width, bitmap.height).data as Uint8ClampedArray<ArrayBuffer>;
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', data));
    return { job, pixels: [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('') };
  }, operation);
}

for (const name of ['generation', 'recorder']) {
  test(`script 404: without the ${name} worker's a job fails, and runs once it is back`, async ({ page }) => {
    const script = `**/assets/${name}.worker-*.js`;
    await page.route(script, (route) => route.fulfill({ status: 404, body: 'Not found.' }));
    await open(page);
    const { job } = await generate(page);
    expect(job).toMatchObject({ state: 'failed', attempts: 1, error: { code: 'worker_failed', retry: 'same' } });
    expect(job.error?.message).toMatch(/^The (generator|recorder) could not be loaded; [^.]+\.$/);
    await page.unroute(script);
    expect((await generate(page)).job).toMatchObject({ state: 'completed', error: null });
  });
}

/**
 * Runs in the worker before its own script: what happens when it reports `stage` for the `count`-th time, and what does not happen before the page
 * has what was sent until then.
 */
function planted(self: {
  onTold?: (stage: string, count: number, act: () => void) => void;
  onceHeard?: (act: () => void) => void;
}): void {
  self.onceHeard = (act) => {
    const page = new BroadcastChannel('heard');
    page.onmessage = () => {
      page.close();
      act();
    };
    page.postMessage('heard?');
  };
  let waiting: { stage: string; count: number; act: () => void } | null = null;
  self.onTold = (stage, count, act) => {
    waiting = { stage, count, act };
  };
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its own `this`
  const { postMessage } = MessagePort.prototype;
  MessagePort.prototype.postMessage = function (message: unknown, ...rest) {
    (postMessage as (...given: unknown[]) => void).call(this, message, ...rest);
    // Job events are calls to the page's listener.
    const told = (message as { argumentList?: { value?: { progress?: { stage: string } } }[] } | null)?.argumentList;
    if (waiting && told?.[0]?.value?.progress?.stage === waiting.stage && --waiting.count === 0) {
      const { act } = waiting;
      waiting = null;
      act();
    }
  };
}

test.describe('a generator', () => {
  test.describe.configure({ mode: 'serial' });
  let page: Page;
  let undisturbed: string;
  let fault = '';

  test.beforeAll(async ({ browser, baseURL }) => {
    page = await (await browser.newContext({ baseURL, serviceWorkers: 'block' })).newPage();
    await page.route('**/assets/generation.worker-*.js', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `(${planted.toString()})(self);${fault}\n${await response.text()}` });
      fault = '';
    });
    await open(page);
    await page.evaluate(() => {
      const worker = new BroadcastChannel('heard');
      worker.onmessage = () => {
        worker.postMessage('heard');
      };
      Object.assign(globalThis, { worker });
    });
    const { job, pixels } = await generate(page);
    expect(job).toMatchObject({ state: 'completed', attempts: 1 });
    undisturbed = pixels;
  });

  test.afterAll(() => page.context().close());

  /** The next job runs on a worker with this prepended to its script. */
  async function plant(source: string): Promise<void> {
    fault = source;
    // A worker terminated for hanging may still be around beside its replacement.
    const generators = page.workers().filter((one) => one.url().includes('generation.worker'));
    await Promise.all(
      generators.map(async (worker) => {
        const gone = worker.waitForEvent('close');
        // It may be gone before it answers.
        await worker.evaluate(() => close()).catch(() => undefined);
        await gone;
      }),
    );
  }

  function expectSame({ job, pixels }: { job: Job; pixels: string }, notice: string): void {
    expect(job).toMatchObject({ state: 'completed', attempts: 2, error: null });
    expect(job.notices).toEqual([notice]);
    expect(pixels).toBe(undisturbed);
    expect(job.entities.map(({ filename }) => filename)).toEqual([
      '01_input.json',
      '02_config.json',
      '03_encoded_prompt.json',
      '04_output_image.png',
    ]);
  }

  test('that throws outside of any call: the job goes on in another one', async () => {
    await plant(`onTold('sample', 3, () => onceHeard(() => { throw new Error('from outside'); }));`);
    expectSame(
      await generate(page),
      'The generator stopped with an error; the job goes on from where it was (restart 1 of 3).',
    );
  });

  test('that is terminated, as by a browser in need: the job goes on in another one', async () => {
    await plant(`onTold('decode', 1, () => close());`);
    expectSame(
      await generate(page),
      'The generator stopped unexpectedly; the job goes on from where it was (restart 1 of 3).',
    );
  });

  test('that hangs in an endless loop: the watchdog ends it, and the job goes on in another one', async () => {
    // Messages it posted before still arrive.
    await plant(`onTold('sample', 3, () => { new BroadcastChannel('fault').postMessage('hangs'); for (;;); });`);
    await page.clock.install();
    const hangs = page.evaluate(
      () =>
        new Promise<void>((said) => {
          new BroadcastChannel('fault').addEventListener('message', () => said());
        }),
    );
    const outcome = generate(page);
    await hangs;
    await passUntilRestart(page, '55:00');
    expectSame(
      await outcome,
      'The generator does not respond any more; the job goes on from where it was (restart 1 of 3).',
    );
  });

  test('of another version, that does not know a method: the job fails and says so', async () => {
    await plant(`
      const post = postMessage;
      postMessage = (message, ...rest) => post(
        message?.darkroom === 'ready' ? { ...message, methods: message.methods.filter((name) => name !== 'execute') } : message,
        ...rest);`);
    const { job } = await generate(page);
    expect(job).toMatchObject({ state: 'failed', attempts: 1, error: { code: 'worker_failed', retry: 'never' } });
    expect(job.error?.message).toBe('The generator does not know "execute"; reload the page.');
  });

  test('whose answer cannot be cloned: the job fails and says so', async () => {
    await plant(`
      const post = postMessage;
      postMessage = (message, ...rest) => post(
        message?.value?.run ? { ...message, value: { run: () => 'no data' } } : message, ...rest);`);
    const { job } = await generate(page);
    expect(job).toMatchObject({ state: 'failed', attempts: 1, error: { code: 'internal' } });
    expect(job.error?.message).toMatch(/^Something unexpected failed \(.+\); try again, or reload the page\.$/);
  });

  test('that was sent what it cannot read: the job goes on in another one', async () => {
    await plant(`onTold('sample', 3, () => onceHeard(() => dispatchEvent(new MessageEvent('messageerror'))));`);
    expectSame(
      await generate(page),
      'The generator was sent something that this browser cannot pass on; the job goes on from where it was (restart 1 of 3).',
    );
  });

  test('out of memory while decoding: not tried again, and tiles are offered, which work', async () => {
    await plant(`onTold('decode', 1, () => {
      WebAssembly.Memory.prototype.grow = () => { throw new RangeError('WebAssembly.Memory.grow(): no'); };
    });`);
    const parameters = { ...OPERATION.parameters, width: 512, height: 512, steps: 1 };
    const { job } = await generate(page, { ...OPERATION, parameters });
    expect(job).toMatchObject({ state: 'failed', attempts: 1, error: { code: 'out_of_memory', retry: 'smaller' } });
    expect(job.offer).toMatchObject({
      label: 'Try with tiled decoding',
      operation: { parameters: { tile_size: 256, seed: '7' } },
    });
    expect((await generate(page, job.offer?.operation)).job).toMatchObject({ state: 'completed', attempts: 1 });
  });
});

test('an operation that is not valid is refused at once, with its code', async ({ page }) => {
  await open(page);
  const error = await page.evaluate(async () => {
    try {
      await (globalThis.darkroom as Door).submit({ operation: 'image_generation' });
      return null;
    } catch (thrown) {
      const { code, message } = thrown as { code: string; message: string };
      return { code, message };
    }
  });
  expect(error).toEqual({ code: 'invalid_operation', message: 'The operation lacks the field "config".' });
});

test('a job that waits is dropped at once, and a running one stops', async ({ page }) => {
  await open(page);
  const ends = await page.evaluate(async (operation) => {
    const door = globalThis.darkroom as Door;
    const long = { ...operation, parameters: { ...operation.parameters, steps: 150 } };
    const [running, waiting] = [await door.submit(long), await door.submit(operation)];
    await door.cancel(waiting.id);
    const dropped = await door.wait(waiting.id);
    await new Promise<void>((sampled) => {
      door.follow(running.id, ({ progress }) => progress?.stage === 'sample' && progress.step > 1 && sampled());
    });
    await door.cancel(running.id);
    return [dropped, await door.wait(running.id)];
  }, OPERATION);
  expect(ends).toMatchObject([
    { state: 'cancelled', startedAt: null },
    { state: 'cancelled', error: null },
  ]);
  const [record] = await page.evaluate(() => (globalThis.darkroom as Door).runs({ limit: 9 }));
  expect(record).toMatchObject({ run_id: ends[1]?.run, current_state: { stage: 'cancelled' } });
});
