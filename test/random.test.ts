import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { LatentDims, NoiseInterval, NoiseRequest } from '../src/core/noise.ts';
import { noiseSource } from '../src/core/noise_sources.ts';
import { PhiloxGenerator } from '../src/core/philox.ts';
import { TorchGenerator } from '../src/core/random.ts';
import { seedSequence } from '../src/core/seed_sequence.ts';

interface Case {
  seed: string;
  shape: number[];
  first8: string[];
  first4_hex: string[];
  sha256_f32le: string;
  next4_after: string[];
}
const goldens = JSON.parse(readFileSync(new URL('goldens/torch-randn.json', import.meta.url), 'utf8')) as {
  cases: Case[];
};

const asF32 = (texts: string[]) => texts.map((text) => Math.fround(Number(text)));

describe('TorchGenerator repeats torch.randn', () => {
  test('there are 42 golden cases', () => {
    expect(goldens.cases).toHaveLength(42);
  });

  test.each(goldens.cases)('seed $seed, shape $shape', (golden) => {
    const generator = new TorchGenerator(golden.seed);
    const values = generator.randn(golden.shape.reduce((product, size) => product * size, 1));
    expect([...values.subarray(0, 8)]).toEqual(asF32(golden.first8));
    const bits = new Uint32Array(values.buffer, 0, 4);
    expect([...bits].map((word) => word.toString(16).padStart(8, '0'))).toEqual(golden.first4_hex);
    expect(createHash('sha256').update(new Uint8Array(values.buffer)).digest('hex')).toBe(golden.sha256_f32le);
    expect([...generator.randn(4)]).toEqual(asF32(golden.next4_after));
  });

  test('only the low 32 bits of a seed count', () => {
    expect(new TorchGenerator('18446744073709551615').randn(20)).toEqual(new TorchGenerator(0xffffffffn).randn(20));
    expect(new TorchGenerator(2n ** 32n + 1n).randn(20)).toEqual(new TorchGenerator('1').randn(20));
  });

  test('a short call keeps the second value of its pair for the next one', () => {
    const whole = new TorchGenerator('7').randn(6);
    const pieces = new TorchGenerator('7');
    expect([...pieces.randn(1), ...pieces.randn(4), ...pieces.randn(1)]).toEqual([...whole]);
  });

  test('half a million normals take well under a second', () => {
    const generator = new TorchGenerator('3');
    generator.randn(65536);
    const start = performance.now();
    generator.randn(524_288);
    expect(performance.now() - start).toBeLessThan(1000);
  });
});

describe('noise of other tools (test/fidelity/noise.ts holds its numbers)', () => {
  const { philox, sequence } = JSON.parse(readFileSync(new URL('goldens/noise.json', import.meta.url), 'utf8')) as {
    philox: { seed: string; told: string[] }[];
    sequence: { entropy: string; spawn_key: number[]; words: number[] }[];
  };
  const DIMS: LatentDims = [2, 4, 3, 5];
  const NOISES: Omit<NoiseRequest, 'seed' | 'batch_size'>[] = [
    {},
    { variation_seed: '9', variation_strength: 0.4 },
    { noise: 'nv' },
    { noise: 'nv', eta_noise_seed_delta: 31337 },
    { noise: 'a1111_cpu', variation_seed: '9', variation_strength: 0.4 },
    { noise: 'comfyui' },
    { noise: 'comfyui', variation_seed: '9', variation_strength: 0.4 },
  ];
  const sourceOf = (request: Omit<NoiseRequest, 'seed' | 'batch_size'>, seed = '5') =>
    noiseSource({ seed, batch_size: 2, ...request });
  const fresh: NoiseInterval = { from: 3, to: 2, range: null };
  const along: NoiseInterval = { from: 3, to: 2, range: { least: 0.03, greatest: 14.6 } };

  test('the known numbers of Philox', () => {
    const values = new PhiloxGenerator('0').randn(12);
    [-0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564].forEach((known, i) => {
      expect(values[i]).toBeCloseTo(known, 6);
    });
  });

  test('AUTOMATIC1111’s generator, three calls of each seed', () => {
    let generator = new PhiloxGenerator('0');
    philox.forEach(({ seed, told }, i) => {
      generator = i % 3 === 0 ? new PhiloxGenerator(seed) : generator;
      const values = generator.randn(5000);
      expect([...values.subarray(0, 6)]).toEqual(asF32(told.slice(0, 6)));
      expect(values.reduce((sum, value) => sum + value, 0)).toBeCloseTo(Number(told[6]), 3);
    });
  });

  test.each(sequence)('NumPy’s SeedSequence of $entropy, $spawn_key', ({ entropy, spawn_key, words }) => {
    expect([...seedSequence(BigInt(entropy), spawn_key, 24, 4)]).toEqual(words);
  });

  test.each(NOISES)(
    '$noise, $variation_seed: gone on with elsewhere, the numbers are the same to the bit',
    (request) => {
      for (const interval of [fresh, along]) {
        const undisturbed = sourceOf(request);
        undisturbed.ofStart(DIMS);
        undisturbed.ofStep(DIMS, interval);
        const state = structuredClone(undisturbed.state);
        const next = { ...interval, from: 2, to: 1.5 };
        const expected = undisturbed.ofStep(DIMS, next);
        const elsewhere = sourceOf(request);
        elsewhere.ofStart(DIMS);
        elsewhere.state = state;
        expect(elsewhere.ofStep(DIMS, next)).toEqual(expected);
      }
    },
  );

  test('a variation of 0 is none, one of 1 is the other seed', () => {
    for (const noise of ['torch_cpu', 'comfyui'] as const) {
      const [none, whole, other] = [
        sourceOf({ noise, variation_seed: '9', variation_strength: 0 }),
        sourceOf({ noise, variation_seed: '9', variation_strength: 1 }),
        sourceOf({ noise }, '9'),
      ].map((source) => source.ofStart(DIMS));
      expect(none).toEqual(sourceOf({ noise }).ofStart(DIMS));
      whole.forEach((value, i) => {
        expect(value).toBeCloseTo(other[i], 5);
      });
    }
  });

  test('AUTOMATIC1111 gives each picture of a batch what it would be alone, up to the last seed', () => {
    const dims: LatentDims = [1, 4, 3, 5];
    for (const noise of ['nv', 'a1111_cpu'] as const) {
      const both = sourceOf({ noise }, '18446744073709551615').ofStart(DIMS);
      const alone = ['18446744073709551615', '0'].flatMap((seed) => [
        ...noiseSource({ noise, seed, batch_size: 1 }).ofStart(dims),
      ]);
      expect([...both]).toEqual(alone);
    }
  });

  test('a Brownian motion does not depend on which steps are asked for, or in which order', () => {
    const [one, two] = [sourceOf({ noise: 'comfyui' }), sourceOf({ noise: 'comfyui' })];
    const expected = one.ofStep(DIMS, { ...along, from: 1.25, to: 0.5 });
    for (const [from, to] of [
      [14.6, 3],
      [0.2, 0.03],
      [3, 1.25],
    ]) {
      two.ofStep(DIMS, { ...along, from, to });
    }
    expect(two.ofStep(DIMS, { ...along, from: 1.25, to: 0.5 })).toEqual(expected);
  });
});
