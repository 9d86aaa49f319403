/** Names and shapes of published weights, of `reference/*_shapes.py`. */
import type { StoredTensor } from '../src/graphs/graph.ts';

/**
 * Headers of published weights: tensors without bytes.
 * @param blocks the list of blocks, of which only the first is there; the others are like it
 */
export function indexOf(tensors: Record<string, number[]>, blocks = '', layers = 0) {
  const first = `${blocks}.0.`;
  const all = new Map(
    Object.entries(tensors).flatMap(([name, shape]): [string, number[]][] =>
      name.startsWith(first)
        ? Array.from({ length: layers }, (_, n) => [name.replace(first, `${blocks}.${n}.`), shape])
        : [[name, shape]],
    ),
  );
  const used = new Set<string>();
  return {
    used,
    names: () => all.keys(),
    get(name: string): StoredTensor | undefined {
      used.add(name);
      const shape = all.get(name);
      const length = 4 * (shape ?? []).reduce((product, dim) => product * dim, 1);
      return shape && { name, dtype: 'F32', shape, file: 'weights.safetensors', offset: 0, length };
    },
  };
}
