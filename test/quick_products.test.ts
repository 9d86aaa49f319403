/** The product of matrices that builds put into ONNX Runtime's WebAssembly, on its own: `runtime.config.ts`. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, dirname } from 'node:path';
import { describe, expect, test } from 'vitest';
import { productKernels, quickProduct, withQuickProducts } from '../runtime.config.ts';

const DIST = dirname(createRequire(import.meta.url).resolve('onnxruntime-web'));
const file = (build: string) => readFileSync(join(DIST, `ort-wasm-simd-threaded.${build}.wasm`));

type Product = (...numbers: number[]) => number;

/** A module of one function, with memory. */
function alone(body: Uint8Array): { product: Product; memory: Float32Array } {
  const size = (value: number): number[] => (value < 128 ? [value] : [(value & 127) | 128, ...size(value >>> 7)]);
  const section = (id: number, content: number[]) => [id, ...size(content.length), ...content];
  const type = [0x60, 9, ...Array<number>(8).fill(0x7f), 0x7d, 1, 0x7f];
  const names = [2, 1, 0x70, 0, 0, 1, 0x6d, 2, 0];
  const bytes = Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, ...type]),
    ...section(3, [1, 0]),
    ...section(5, [1, 0, 4]),
    ...section(7, names),
    ...section(10, [1, ...size(body.length), ...body]),
  ]);
  const { p, m } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports as {
    p: Product;
    m: WebAssembly.Memory;
  };
  return { product: p, memory: new Float32Array(m.buffer) };
}

describe('products of matrices in ONNX Runtime’s WebAssembly', () => {
  const kernels = productKernels(file('asyncify'));

  test.each([
    ['stored', false],
    ['added to what is there', true],
  ])('any size gives what the runtime’s own kernel gives, %s', (_, adds) => {
    const { body } = kernels.find((kernel) => kernel.adds === adds) ?? expect.fail('there is no such kernel');
    const both = [body, quickProduct(body, { self: 0, adds, fused: false })].map(alone);
    for (const [m, n, k] of [
      [1, 40, 5],
      [4, 16, 1],
      [9, 64, 128],
      [7, 19, 6],
      [12, 33, 9],
      [5, 15, 4],
    ]) {
      const [a, b, c, strideA, strideC] = [0, 2 ** 14, 2 ** 15, k + 3, n + 5];
      const [own, quick] = both.map(({ product, memory }) => {
        memory.forEach((_value, at) => (memory[at] = Math.sin(at) / 2));
        let done = 0;
        while (done < m) {
          done += product(
            4 * (a + done * strideA),
            4 * b,
            4 * (c + done * strideC),
            k,
            m - done,
            n,
            strideA,
            strideC,
            0.75,
          );
        }
        expect(done).toBe(m);
        return Array.from(memory);
      });
      expect(quick).toEqual(own);
      const sum = Array.from({ length: k }, (_value, i) => Math.sin(i) * Math.sin(b + 16 * i)).reduce(
        (all, one) => all + one / 4,
        0,
      );
      expect(quick[c]).toBeCloseTo(0.75 * sum + (adds ? Math.sin(c) / 2 : 0), 5);
    }
  });

  test('builds of the runtime have both kernels, and nothing else in them changes', () => {
    for (const build of ['jspi', 'asyncify']) {
      const before = file(build);
      const after = withQuickProducts(before, build === 'jspi');
      const [old, made] = [productKernels(before), productKernels(after)];
      expect(made.map(({ index }) => index)).toEqual(old.map(({ index }) => index));
      const grown = made.map(({ body }, n) => body.length - old[n].body.length);
      expect(Math.min(...grown)).toBeGreaterThan(1000);
      expect(after.length - before.length - grown[0] - grown[1]).toBeLessThan(8);
      expect(Buffer.from(after.subarray(-1000)).equals(before.subarray(-1000))).toBe(true);
    }
    expect(() =>
      withQuickProducts(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 1, 0, 2, 1, 0, 3, 1, 0, 10, 1, 0]), false),
    ).toThrow('other functions');
  });
});
