import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { TorchGenerator } from '../src/core/random.ts';

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
