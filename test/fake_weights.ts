/** Weights of which only names and shapes exist, for graphs that are built and not run. */
import type { StoredTensor, WeightIndex } from '../src/graphs/graph.ts';

/** A checkpoint that consists of headers only. */
export class FakeWeights implements WeightIndex {
  readonly asked = new Set<string>();
  readonly #tensors = new Map<string, StoredTensor>();
  parameters = 0;

  constructor(shapes: Map<string, number[]>, offset = 0) {
    for (const [name, shape] of shapes) {
      const elements = shape.reduce((product, dim) => product * dim, 1);
      const [file, length] = ['unet.safetensors', 4 * elements];
      this.#tensors.set(name, { name, dtype: 'F32', shape, file, offset: offset + 4 * this.parameters, length });
      this.parameters += elements;
    }
  }

  get(name: string): StoredTensor | undefined {
    this.asked.add(name);
    return this.#tensors.get(name);
  }

  names(): Iterable<string> {
    return this.#tensors.keys();
  }
}
