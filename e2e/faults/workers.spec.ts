/** Workers that are missing or die: every call ends with one sentence, and the page can be used again. */
import { expect, test, type Page } from '@playwright/test';
import type { Door } from '../../src/jobs/door.ts';

const OPERATION = {
  operation: 'image_generation',
  config: 'stable_diffusion',
  parameters: { prompt: 'a red circle', width: 64, height: 64, steps: 1, seed: '7' },
};

async function open(page: Page): Promise<void> {
  await page.goto('/?backend=wasm&door=cli');
  await page.waitForFunction(() => globalThis.darkroom !== undefined);
}

function generate(page: Page) {
  return page.evaluate(async (operation) => {
    const door = globalThis.darkroom as Door;
    return door.wait(door.submit(operation).id);
  }, OPERATION);
}

for (const name of ['generation', 'recorder']) {
  test(`without the ${name} worker's script a job fails, and runs once the script is back`, async ({ page }) => {
    const script = `**/assets/${name}.worker-*.js`;
    await page.route(script, (route) => route.fulfill({ status: 404, body: 'Not found.' }));
    await open(page);
    const failed = await generate(page);
    expect(failed).toMatchObject({ state: 'failed', error: { code: 'worker_failed', retry: 'same' } });
    expect(failed.error?.message).toMatch(/^The (generator|recorder) could not be loaded; [^.]+\.$/);
    await page.unroute(script);
    expect(await generate(page)).toMatchObject({ state: 'completed', error: null });
  });
}

test('a generator that ends by itself fails its job, and the next job runs on a new one', async ({ page }) => {
  let isFirst = true;
  await page.route('**/assets/generation.worker-*.js', async (route) => {
    const response = await route.fetch();
    // Ends without a word as soon as it is asked to run a job, as a worker does that the browser kills.
    const death = `addEventListener('message', ({ data }) => data.path?.[0] === 'execute' && close());\n`;
    await route.fulfill({ response, body: (isFirst ? death : '') + (await response.text()) });
    isFirst = false;
  });
  await open(page);
  const failed = await generate(page);
  expect(failed).toMatchObject({ state: 'failed', error: { code: 'worker_failed', retry: 'same' } });
  expect(failed.error?.message).toBe('The generator stopped unexpectedly; try again.');
  expect(await generate(page)).toMatchObject({ state: 'completed', error: null });
});

test('an operation that is not valid throws at once, with its code', async ({ page }) => {
  await open(page);
  const error = await page.evaluate(() => {
    try {
      (globalThis.darkroom as Door).submit({ operation: 'image_generation' });
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
    const [running, waiting] = [door.submit(long), door.submit(operation)];
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
