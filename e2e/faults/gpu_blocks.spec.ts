/**
 * The GPU fails while a transformer's blocks are streamed through their slots, or somebody cancels: the job goes on behind the last step that was
 * done and gives the same latents and picture; the next job is as if nothing had been.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, type Page } from '@playwright/test';
import { openDoor, openFolder, runOperation, storeAddition, type Outcome } from '../fixtures/door.ts';
import { befall, firstSteps, sabotageWorkers } from '../fixtures/gpu_faults.ts';
import { writeWeightless } from '../fixtures/weightless.ts';

const OPERATION = {
  operation: 'image_generation',
  config: 'z_image',
  parameters: { prompt: 'a red house', steps: 3, guidance_scale: 0, seed: '7', width: 64, height: 48 },
  record: ['latents'],
};
const LORA = join(import.meta.dirname, '..', '..', 'test', 'goldens', 'flow_loras', 'z-image-kohya.safetensors');

const made = mkdtempSync(join(tmpdir(), 'darkroom-blocks-'));
test.afterAll(() => rmSync(made, { recursive: true, force: true }));
test.describe.configure({ mode: 'serial' });

async function openInBlocks(page: Page, blocks: 'resident' | 'streamed'): Promise<void> {
  await openDoor(page, 'webgpu', `&blocks=${blocks}`);
  await openFolder(page, writeWeightless(made, 'tiny-z-image'));
}

test.describe('streamed', () => {
  let page: Page;
  let undisturbed: Outcome;

  test.beforeAll(async ({ browser, baseURL }) => {
    page = await (await browser.newContext({ baseURL, serviceWorkers: 'block' })).newPage();
    await sabotageWorkers(page, []);
    await openInBlocks(page, 'streamed');
    undisturbed = await runOperation(page, OPERATION);
    expect(undisturbed.job).toMatchObject({ state: 'completed', attempts: 1 });
  });

  test.afterAll(() => page.context().close());

  function expectSame({ job, latents, pictures }: Outcome, attempts: number): void {
    expect(job).toMatchObject({ state: 'completed', attempts, error: null });
    expect(latents).toEqual(undisturbed.latents);
    expect(pictures).toEqual(undisturbed.pictures);
  }

  test('lost while a block of the second step is on its way: the job goes on behind the first', async () => {
    await befall(page, { what: 'lost', stage: 'sample', count: 2, uploads: 20 });
    const sampled = firstSteps(page);
    expectSame(await runOperation(page, OPERATION), 2);
    const [first, second] = await sampled;
    expect(first).toBe(0);
    expect(second).toBeGreaterThan(0);
  });

  test('cancelled in the middle of a step: nothing more is uploaded, and the next job is as before', async () => {
    const cancelled = await page.evaluate(async (operation) => {
      const door = globalThis.darkroom as NonNullable<typeof globalThis.darkroom>;
      const { id } = await door.submit(operation);
      await new Promise<void>((sampling) => {
        door.follow(id, ({ progress }) => {
          if (progress?.stage === 'sample' && progress.step === 1) {
            sampling();
          }
        });
      });
      const ended = await door.cancel(id);
      return (await door.wait(ended.id)).state;
    }, OPERATION);
    expect(cancelled).toBe('cancelled');
    expectSame(await runOperation(page, OPERATION), 1);
  });
});

test('a LoRA between two jobs: alike with weights that stay and with streamed ones, and gone without it', async ({
  page,
}) => {
  const results: Outcome[][] = [];
  for (const mode of ['resident', 'streamed'] as const) {
    await openInBlocks(page, mode);
    const lora = await storeAddition(page, 'kohya', new Uint8Array(readFileSync(LORA)));
    const operations = [[], [{ lora, weight: 1 }], []].map((loras) => ({
      ...OPERATION,
      parameters: { ...OPERATION.parameters, loras },
    }));
    const outcomes: Outcome[] = [];
    for (const operation of operations) {
      outcomes.push(await runOperation(page, operation));
    }
    expect(outcomes.map(({ job }) => job.error)).toEqual([null, null, null]);
    const [plain, changed, again] = outcomes.map(({ latents }) => latents);
    expect(changed).not.toEqual(plain);
    expect(again).toEqual(plain);
    results.push(outcomes);
  }
  const [resident, streamed] = results.map((outcomes) => outcomes.map(({ latents }) => latents ?? new Float32Array()));
  expect([streamed[0], streamed[2]]).toEqual([resident[0], resident[2]]);
  // What a LoRA adds to weights that stay is added on the GPU, to streamed ones while they are read: sums of another order.
  expect(streamed[1]).toHaveLength(resident[1].length);
  expect(Math.max(...streamed[1].map((value, i) => Math.abs(value - resident[1][i])))).toBeLessThan(1e-5);
});
