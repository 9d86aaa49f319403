/** Transformers in blocks with bound weights, on the processor: as whole graphs, with all weights resident, and streamed through slots. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tensor } from 'onnxruntime-node';
import { describe, expect, test, vi } from 'vitest';
import { fit } from '../src/core/fit.ts';
import type { BlockMode } from '../src/core/job.ts';
import type { EstimateRequest, SampleRequest, WeightVariant } from '../src/core/model.ts';
import type { Plan } from '../src/core/plan.ts';
import { ArrayBlockMemory } from '../src/engine/block_memory.ts';
import { leastBytes, placeBlocks } from '../src/engine/block_placement.ts';
import { Uploads, WeightReader, WeightStream } from '../src/engine/block_weights.ts';
import type { OrtModule } from '../src/engine/runtime.ts';
import type { Block } from '../src/graphs/graph.ts';
import { openModel } from '../src/models/family.ts';
import { mount } from '../src/weights/virtual_file.ts';
import { filesOf } from './checkpoint_folder.ts';
import { startNodeEngine } from './node_engine.ts';
import { sampleRequest } from './sample_request.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

/** One of each family, with guidance where it has any: odd in patches, and not square. */
const CHECKPOINTS = [
  'tiny-z-image',
  'tiny-sd35',
  'tiny-flux1-dev',
  'tiny-flux2-klein',
  'tiny-flux3-base',
  'tiny-qwen-image',
];
const SETTINGS = { width: 80, height: 48, batch_size: 1, steps: 2, guidance_scale: 3 };

async function open(checkpoint: string, blocks: BlockMode, weights: WeightVariant = 'full') {
  const { engine, log } = startNodeEngine(undefined, blocks);
  const model = await openModel(filesOf(checkpoint, weightlessContents(checkpoint)), engine, { weights });
  const text = await model.encodeText({ ...SETTINGS, prompt: 'Ein roter Fuchs', negative_prompt: 'blau' });
  const sample = async (more: Partial<SampleRequest> = {}) => {
    const latents = await model.sample(text, sampleRequest({ ...SETTINGS, ...more }));
    return latents.read();
  };
  return { model, engine, log, sample };
}

function spreadOf(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

describe('a transformer in blocks', () => {
  test.each(CHECKPOINTS)('computes what the whole graph does: %s', async (checkpoint) => {
    const results: Float32Array[] = [];
    const runs: number[] = [];
    for (const mode of ['off', 'resident', 'streamed'] as const) {
      const takes = vi.spyOn(WeightStream.prototype, 'take');
      const { model, log, sample } = await open(checkpoint, mode);
      results.push(await sample());
      runs.push(log.runs);
      await model.release();
      expect(log.released).toBe(log.created);
      expect(takes.mock.calls.length > 0).toBe(mode === 'streamed');
      takes.mockRestore();
    }
    const [whole, resident, streamed] = results;
    // Equal blocks run together where nothing is streamed.
    expect(runs[0]).toBeLessThan(runs[1]);
    expect(runs[1]).toBeLessThan(runs[2]);
    const worst = whole.reduce((most, value, i) => Math.max(most, Math.abs(value - resident[i])), 0);
    console.log(
      `${checkpoint} in blocks: ${(worst / spreadOf(whole)).toExponential(1)} of the spread from the whole graph`,
    );
    expect(worst).toBeLessThanOrEqual(1e-5 * spreadOf(whole));
    expect(streamed).toEqual(resident);
  });

  test('takes weights of 8 bits and a LoRA, and is as before without it', async () => {
    const results: Float32Array[][] = [];
    for (const mode of ['off', 'streamed'] as const) {
      const { model, sample } = await open('tiny-flux1-dev', mode, 'q8');
      const plain = await sample();
      const file = new Blob([
        readFileSync(join(import.meta.dirname, 'goldens', 'flow_loras', 'flux1-kohya.safetensors')),
      ]);
      await model.useLoras([{ file, name: 'kohya', strength: 1 }]);
      const changed = await sample();
      expect(changed).not.toEqual(plain);
      await model.useLoras([]);
      expect(await sample()).toEqual(plain);
      await model.release();
      results.push([plain, changed]);
    }
    const [whole, streamed] = results;
    whole.forEach((values, k) => {
      const worst = values.reduce((most, value, i) => Math.max(most, Math.abs(value - streamed[k][i])), 0);
      expect(worst).toBeLessThanOrEqual(1e-5 * spreadOf(values));
    });
  });

  test('takes turns with the text encoder, and computes the same', async () => {
    const { model, sample } = await open('tiny-z-image', 'streamed');
    const together = await sample();
    expect(model.onDevice).toContain('text_encoder');
    expect(await sample({ phased: true })).toEqual(together);
    expect(model.onDevice).not.toContain('text_encoder');
    await model.release();
  });

  test('is cancelled between two blocks, and computes the same afterwards', async () => {
    const { model, sample } = await open('tiny-sd35', 'streamed');
    const whole = await sample();
    const controller = new AbortController();
    const settles = vi.spyOn(ArrayBlockMemory.prototype, 'settle').mockImplementation(() => {
      // The first block's commands are submitted.
      controller.abort();
      return Promise.resolve();
    });
    const takes = vi.spyOn(WeightStream.prototype, 'take');
    await expect(sample({ signal: controller.signal })).rejects.toMatchObject({ code: 'cancelled' });
    expect(takes).toHaveBeenCalledTimes(1);
    settles.mockRestore();
    takes.mockRestore();
    expect(await sample()).toEqual(whole);
    await model.release();
  });

  test('is planned where nothing fits as a whole, and says what is streamed', async () => {
    const { model, engine, sample } = await open('tiny-sd35', 'auto');
    engine.report.backend = 'webgpu';
    const request: EstimateRequest = { ...SETTINGS, operation: 'image_generation', weights: 'full' };
    const estimate = (bytes: number, more: Partial<EstimateRequest> = { phased: false }) =>
      model.estimate(
        { ...request, ...more },
        {
          device: engine.report,
          budget: { bytes, source: 'set' },
          rates: { measured: {}, pictures: {} },
          downloadBytes: 0,
        },
      );
    const whole = await estimate(2 ** 40);
    const { peak } = whole.variants[0].memory;
    expect(whole.variants[0].blocks).toBeUndefined();
    const cut = await estimate(peak - 2 ** 16);
    expect(cut).toMatchObject({ recommended: 'full' });
    const [{ memory, blocks, misfit }] = cut.variants;
    expect(misfit).toBeNull();
    expect(memory.peak).toBeLessThanOrEqual(peak - 2 ** 16);
    const peaks = ({ phases }: (typeof cut.variants)[number]) =>
      phases.map(({ staying, slots, working }) => staying + slots + working);
    expect(cut.variants[0].phases).toEqual([
      expect.objectContaining({ phase: null, streamed: expect.any(Number) as number }),
    ]);
    expect(cut.variants[0].phases[0].streamed).toBeGreaterThan(0);
    expect(peaks(cut.variants[0])).toEqual([memory.peak]);
    expect(blocks?.seconds).toBeGreaterThan(0);
    const less = await estimate(memory.peak - 2 ** 15);
    expect(less.variants[0].blocks?.seconds).toBeGreaterThan(blocks?.seconds ?? NaN);
    expect(less.variants[0].memory.peak).toBeLessThan(memory.peak);
    // Before that, networks take turns; then only those are cut whose turn does not fit.
    const turns = await estimate(peak - 2 ** 16, {});
    expect(turns).toMatchObject({ recommended: 'full', request: { phased: true } });
    expect(turns.variants[0].blocks).toBeUndefined();
    const tight = await estimate(turns.variants[0].memory.peak - 2 ** 16, {});
    expect(tight).toMatchObject({ recommended: 'full', request: { phased: true } });
    expect(Object.keys(tight.variants[0].blocks?.networks ?? {})).toEqual(['text_encoder_3']);
    const [{ phases, memory: most }] = tight.variants;
    expect(phases.map(({ phase, streamed }) => [phase, streamed > 0])).toEqual([
      ['read', true],
      ['sample', false],
      ['decode', false],
    ]);
    expect(Math.max(...peaks(tight.variants[0]))).toBe(most.peak);
    // Not even what streams has room: refused before anything is fetched, with what would help.
    const none = await estimate(2 ** 10);
    expect(none).toMatchObject({ recommended: null });
    const plan = { notices: [] as string[] } as Plan;
    expect(fit(plan, model.summary, none)).toEqual({
      ok: false,
      reasons: [
        {
          code: 'does_not_fit',
          message: expect.stringMatching(
            /^This needs about 0\.1 GiB, but the memory set for the GPU is 0\.1 GiB\. Choose .*a smaller checkpoint\.$/,
          ) as string,
        },
      ],
    });
    const takes = vi.spyOn(WeightStream.prototype, 'take');
    model.useBlocks?.(new Map(Object.entries(less.variants[0].blocks?.networks ?? {})));
    await sample();
    expect(takes).toHaveBeenCalled();
    takes.mockRestore();
    await model.release();
  });
});

describe('blocks stay where they have room', () => {
  const sizes = [5, 10, 10, 10, 10, 10, 10, 3];

  test('those that stay are spread among those that are streamed', () => {
    expect(placeBlocks(sizes, 68)).toMatchObject({ residentBytes: 68, slotBytes: 0 });
    const some = placeBlocks(sizes, 67);
    expect(some).toMatchObject({ residentBytes: 38, streamedBytes: 30, slotBytes: 20 });
    expect(some?.isResident).toEqual([true, false, true, false, true, false, true, true]);
    expect(leastBytes(sizes)).toBe(20);
    expect(placeBlocks(sizes, 20)).toMatchObject({ residentBytes: 0, streamedBytes: 68 });
    expect(placeBlocks(sizes, 19)).toBeNull();
    expect(placeBlocks([100, 10, 10, 10, 1], leastBytes([100, 10, 10, 10, 1]))).toMatchObject({ residentBytes: 101 });
  });

  /** Blocks of two sizes, whose weights are the number of the block. */
  function streamOf(budget: number, costly: readonly string[] = []) {
    const file = new Uint8Array(16 * 32);
    const blocks = Array.from({ length: 6 }, (_, index): Block => {
      const lengths = index < 3 ? [16, 64] : [48, 16];
      file.fill(index + 1, 80 * index, 80 * index + 80);
      const weights = lengths.map((length, i) => ({
        port: `w${i}`,
        name: `w${i}`,
        type: 'uint8' as const,
        dims: [length],
        location: 'weights',
        offset: 80 * index + (i === 0 ? 0 : lengths[0]),
        length,
      }));
      const weightBytes = lengths[0] + lengths[1];
      return { kind: 0, inputs: [], outputs: [], weights, weightBytes };
    });
    const reads: number[] = [];
    const data = new Blob([file]);
    const slice = data.slice.bind(data);
    data.slice = (begin = 0, end) => {
      reads.push(Math.floor(begin / 80));
      return slice(begin, end);
    };
    const memory = new ArrayBlockMemory(budget, { Tensor } as unknown as OrtModule);
    const mounted = mount(
      [{ location: 'weights', kind: 'file', file: 'weights' }],
      new Map([['weights', data]]),
      'jspi',
    );
    const reader = new WeightReader(mounted, new Set(costly), new Uploads());
    return { stream: new WeightStream(memory, blocks, [0, 1, 2, 3, 4, 5], reader, budget), memory, reads, data };
  }

  test('streamed weights never take more than was granted, and the next ones come while one is used', async () => {
    const { stream, memory, reads } = streamOf(160);
    stream.begin();
    for (const block of [0, 1, 2, 3, 4, 5, 0, 1, 4, 5, 0]) {
      const weights = await stream.take(block);
      for (const tensor of Object.values(weights.tensors)) {
        expect(new Set(tensor.data as Uint8Array)).toEqual(new Set([block + 1]));
      }
      stream.give(weights, Promise.resolve());
    }
    await stream.dispose();
    expect(reads.slice(0, 4)).toEqual([0, 0, 1, 1]);
    expect(memory.most).toBeLessThanOrEqual(160);
    expect(memory.taken).toBe(0);
  });

  test('what takes long to make is made once', async () => {
    const { stream, reads } = streamOf(160, ['weights']);
    stream.begin();
    for (const block of [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]) {
      const weights = await stream.take(block);
      for (const tensor of Object.values(weights.tensors)) {
        expect(new Set(tensor.data as Uint8Array)).toEqual(new Set([block + 1]));
      }
      stream.give(weights, Promise.resolve());
    }
    await stream.dispose();
    expect(reads).toHaveLength(12);
  });

  test('weights that cannot be read fail the run that needs them, and not the next one', async () => {
    const { stream, memory, data } = streamOf(160);
    const moved = vi.spyOn(data, 'slice').mockImplementation(() => {
      throw new Error('moved');
    });
    stream.begin();
    await expect(stream.take(0)).rejects.toThrow('moved');
    moved.mockRestore();
    const weights = await stream.take(0);
    expect(new Set(weights.tensors.w0.data as Uint8Array)).toEqual(new Set([1]));
    stream.give(weights, Promise.resolve());
    await stream.dispose();
    expect(memory.taken).toBe(0);
  });
});
