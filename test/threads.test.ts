/** The number of threads on the processor: the choice, the measurement and its timing, and what is said about it. */
import 'fake-indexeddb/auto';
import { beforeEach, describe, expect, test } from 'vitest';
import { ThreadMeasurement, candidates, fastest, threadsFor } from '../src/engine/threads.ts';
import { chooseThreads, fastestThreads, keepFastestThreads } from '../src/storage/processor_threads.ts';

const isolated = (cores: number) => ({ cores, isolated: true });
const cores = [1, 2, 3, 4, 8, 24];

beforeEach(async () => {
  await chooseThreads(null);
});

describe('the number of threads', () => {
  test.each([
    ['all cores, until it was measured', 'wasm', null, isolated(6), 6, null],
    ['no more than help', 'wasm', null, isolated(64), 16, null],
    ['as the address asks', 'wasm', '3', isolated(6), 3, null],
    ['few beside a GPU', 'webgpu', null, isolated(8), 4, null],
    ['as the address asks, beside a GPU, too', 'webgpu', '2', isolated(8), 2, null],
    ['one core', 'wasm', null, isolated(1), 1, null],
    ['more than there are', 'wasm', '9', isolated(6), 6, /asks for "9" threads, but this machine can use 1 to 6/],
    ['none', 'wasm', '0', isolated(6), 6, /asks for "0" threads/],
    ['no number', 'wasm', 'many', isolated(6), 6, /asks for "many" threads/],
    ['nothing', 'wasm', '', isolated(6), 6, /asks for "" threads/],
    [
      'not isolated',
      'wasm',
      '4',
      { cores: 6, isolated: false },
      1,
      /only one of 6 processor cores .* up to 6 times as/,
    ],
    [
      'isolated, without shared memory',
      'wasm',
      '4',
      { cores: 6, isolated: true, lacksSharedMemory: true },
      1,
      /no shared memory .* only one of 6 processor cores .* up to 6 times as/,
    ],
    ['without shared memory, beside a GPU', 'webgpu', null, { ...isolated(6), lacksSharedMemory: true }, 1, null],
    ['not isolated, with one core', 'wasm', null, { cores: 1, isolated: false }, 1, null],
    ['not isolated, beside a GPU', 'webgpu', null, { cores: 6, isolated: false }, 1, null],
  ] as const)('%s', async (_, provider, asked, machine, threads, note) => {
    const chosen = await threadsFor(provider, asked, machine);
    expect(chosen.threads).toBe(threads);
    expect(chosen.note ?? '').toMatch(note ?? /^$/);
  });

  test('the choice of the person, then what was measured, then all', async () => {
    await keepFastestThreads(12, 6);
    expect((await threadsFor('wasm', null, isolated(12))).threads).toBe(6);
    await chooseThreads(3);
    expect((await threadsFor('wasm', null, isolated(12))).threads).toBe(3);
    expect((await threadsFor('wasm', '5', isolated(12))).threads).toBe(5);
    // The browser's data came from a larger machine.
    expect((await threadsFor('wasm', null, isolated(2))).threads).toBe(2);
    await chooseThreads(null);
    expect((await threadsFor('wasm', null, isolated(11))).threads).toBe(11);
  });
});

describe('the measurement', () => {
  test('tries half of the cores, all but one, and all', () => {
    expect(cores.map(candidates)).toEqual([[1], [1, 2], [1, 2, 3], [2, 3, 4], [4, 7, 8], [8, 15, 16]]);
  });

  test('takes more threads only where they are faster', () => {
    const of = (...rates: number[]) => rates.map((perSecond, index) => ({ threads: index + 1, perSecond }));
    expect(fastest(of(1, 1.8, 2.4))).toBe(3);
    expect(fastest(of(1, 1.8, 1.82))).toBe(2);
    expect(fastest(of(1, 0.7, 0.6))).toBe(1);
    // Each step is relative to the best so far.
    expect(fastest(of(1, 1.04, 1.08))).toBe(3);
  });

  test('is done once, in a pause, and kept', async () => {
    const asked: number[] = [];
    const measurement = new ThreadMeasurement(
      isolated(10),
      (threads) => Promise.resolve(asked.push(threads) === 2 ? 9 : 5),
      () => Promise.resolve(),
    );
    expect(await measurement.rest()).toBe(9);
    expect(asked).toEqual([5, 9, 10]);
    expect(await fastestThreads(10)).toBe(9);
    expect(await measurement.rest()).toBeNull();
    expect(asked).toHaveLength(3);
  });

  test.each(['in the pause', 'while it computes'])('ends when there is work: %s', async (when) => {
    const measurement: ThreadMeasurement = new ThreadMeasurement(
      isolated(7),
      (threads, signal) => {
        if (when === 'while it computes' && threads === 6) {
          measurement.stir();
          return Promise.reject(new Error(String(signal.aborted)));
        }
        return Promise.resolve(1);
      },
      () => {
        if (when === 'in the pause') {
          measurement.stir();
        }
        return Promise.resolve();
      },
    );
    expect(await measurement.rest()).toBeNull();
    expect(await fastestThreads(7)).toBeNull();
  });

  test('is left out where nothing could come of it', async () => {
    const measured = (machine: { cores: number; isolated: boolean }) =>
      new ThreadMeasurement(
        machine,
        () => Promise.resolve(1),
        () => Promise.resolve(),
      ).rest();
    expect(await measured({ cores: 5, isolated: false })).toBeNull();
    expect(await measured(isolated(1))).toBeNull();
    await chooseThreads(2);
    expect(await measured(isolated(5))).toBeNull();
  });
});
