/** ComfyUI's CFGNorm, between the network and the step: it looks at the pictures that both predictions stand for. */
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Prediction } from '../../engine/sampling_loop.ts';
import { build } from '../../graphs/denoised_guidance.ts';
import { Held } from './base_networks.ts';

export interface FlowGuidance {
  /**
   * The prediction with guidance applied; unchanged without a negative prompt.
   * @param sample the network's input
   * @param denoised weights of input and prediction in the picture that is predicted
   */
  apply(
    prediction: Omit<Prediction, 'noise'>,
    sample: DeviceTensor,
    denoised: { x: number; model: number },
  ): Promise<Omit<Prediction, 'noise'>>;
  dispose(): void;
}

type Network = Awaited<ReturnType<NetworkShelf['get']>>;

export class DenoisedGuidance implements FlowGuidance {
  readonly #held = new Held();
  readonly #mixed: DeviceTensor;
  readonly #numbers: Record<'scale' | 'of_sample' | 'of_prediction', DeviceTensor>;

  private constructor(
    readonly engine: Engine,
    readonly network: Network,
    dims: readonly number[],
  ) {
    const { arithmetic } = engine;
    const number = () => this.#held.hold(arithmetic.empty([1]));
    this.#mixed = this.#held.hold(arithmetic.empty(dims));
    this.#numbers = { scale: number(), of_sample: number(), of_prediction: number() };
  }

  /** @param dims of the latents */
  static async open(
    engine: Engine,
    shelf: Pick<NetworkShelf, 'get'>,
    dims: readonly [number, number, number, number],
  ): Promise<DenoisedGuidance> {
    const [batch, channels, height, width] = dims;
    const network = await shelf.get('guidance', { batch, height, width, denoised: 1 }, ({ provider }) =>
      build({ provider, dtype: 'f32', batch, channels, height, width }),
    );
    return new DenoisedGuidance(engine, network, dims);
  }

  async apply(
    prediction: Omit<Prediction, 'noise'>,
    sample: DeviceTensor,
    { x, model }: { x: number; model: number },
  ): Promise<Omit<Prediction, 'noise'>> {
    const { engine } = this;
    const { uncond, cond, guidance } = prediction;
    if (!uncond) {
      return prediction;
    }
    const { scale, of_sample, of_prediction } = this.#numbers;
    for (const [tensor, value] of [
      [scale, guidance],
      [of_sample, x],
      [of_prediction, model],
    ] as const) {
      engine.arithmetic.write(tensor, Float32Array.of(value));
    }
    await engine.run(this.network, { cond, uncond, sample, ...this.#numbers }, { mixed: this.#mixed });
    return { uncond, cond: this.#mixed, condOffset: 0, guidance: 1 };
  }

  dispose(): void {
    this.#held.dispose();
  }
}
