/** Batches for networks that take one picture, or one sound, at a time. */
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { FlowDenoiser } from './flow_networks.ts';

/** Runs a denoiser of single pictures for a batch: one picture is enough to keep a device busy with such networks. */
export class OneByOne implements FlowDenoiser {
  readonly #input: DeviceTensor;
  readonly #outputs: DeviceTensor[];

  constructor(
    readonly engine: Engine,
    readonly denoiser: FlowDenoiser,
    readonly dims: readonly number[],
    texts: number,
  ) {
    const { arithmetic } = engine;
    this.#input = arithmetic.empty([1, ...dims.slice(1)]);
    this.#outputs = Array.from({ length: texts }, () => arithmetic.empty(dims));
  }

  async predict(sample: DeviceTensor, timestep: number, texts?: number, next?: number): Promise<DeviceTensor[]> {
    const [batch, ...shape] = this.dims;
    if (batch === 1) {
      return this.denoiser.predict(sample, timestep, texts, next);
    }
    const { arithmetic } = this.engine;
    const count = elements(shape);
    for (let n = 0; n < batch; n++) {
      arithmetic.copy(sample, n * count, this.#input, 0, count);
      const predictions = await this.denoiser.predict(this.#input, timestep, texts, next);
      predictions.forEach((prediction, k) => {
        arithmetic.copy(prediction, 0, this.#outputs[k], n * count, count);
      });
    }
    return this.#outputs;
  }

  dispose(): void {
    for (const tensor of [this.#input, ...this.#outputs]) {
      tensor.dispose();
    }
  }
}
