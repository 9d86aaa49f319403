/** Transformers in blocks with bound weights, on the processor: as whole graphs, with all weights resident, and streamed through slots. */
import { describe, expect, test, vi } from 'vitest';
import type { SampleRequest } from '../src/core/model.ts';
import { TorchGenerator } from '../src/core/random.ts';
import { WeightStream } from '../src/engine/block_weights.ts';
import type { BlockMode } from '../src/engine/engine.ts';
import { openModel } from '../src/models/family.ts';
import { filesOf } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

/** One of each family, with guidance where it has any: odd in patches, and not square. */
const CHECKPOINTS = ['tiny-z-image', 'tiny-sd35', 'tiny-flux1-dev', 'tiny-flux2-klein', 'tiny-qwen-image'];

async function latentsOf(checkpoint: string, blocks: BlockMode, more: Partial<SampleRequest> = {}) {
  const { engine, log } = startNodeEngine(undefined, blocks);
  const model = await openModel(filesOf(checkpoint, weightlessContents(checkpoint)), engine);
  const { signal } = new AbortController();
  const settings = { width: 80, height: 48, batch_size: 1, steps: 2, guidance_scale: 3 };
  const text = await model.encodeText({ ...settings, prompt: 'Ein roter Fuchs', negative_prompt: 'blau' });
  const before = log.created;
  const latents = await model.sample(text, {
    ...settings,
    strength: 1,
    random: new TorchGenerator('7'),
    start: undefined,
    guidance_mode: 'auto',
    mask: undefined,
    previews: false,
    signal,
    resume: null,
    keep: () => undefined,
    onStart: () => undefined,
    onStep: () => undefined,
    ...more,
  });
  const values = await latents.read();
  const created = log.created - before;
  await model.release();
  expect(log.released).toBe(log.created);
  return { values, created };
}

describe('a transformer in blocks computes what the whole graph does', () => {
  test.each(CHECKPOINTS)('%s', async (checkpoint) => {
    const whole = await latentsOf(checkpoint, 'off');
    const resident = await latentsOf(checkpoint, 'resident');
    const takes = vi.spyOn(WeightStream.prototype, 'take');
    const streamed = await latentsOf(checkpoint, 'streamed');
    expect(takes.mock.calls.length).toBeGreaterThan(2 * 2);
    takes.mockRestore();
    const mean = whole.values.reduce((sum, value) => sum + value, 0) / whole.values.length;
    const spread = Math.sqrt(whole.values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / whole.values.length);
    const worst = whole.values.reduce((most, value, i) => Math.max(most, Math.abs(value - resident.values[i])), 0);
    console.log(checkpoint, worst / spread, whole.created, resident.created);
    expect(worst).toBeLessThanOrEqual(1e-5 * spread);
    expect(streamed.values).toEqual(resident.values);
    expect(resident.created).toBeGreaterThan(whole.created);
  });
});
