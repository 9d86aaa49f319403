/**
 * The buffers of one sampling and what happens to them at each step, wherever the predictions come from. Its state can be read at any
 * step, and another loop, on another device, continues from it with the same numbers.
 */
import type { NoiseState } from '../core/noise.ts';
import type { SamplerPlan } from '../samplers/sampler.ts';
import type { SamplingState } from '../samplers/state.ts';
import { elements, type Arithmetic, type DeviceTensor, type LoopState, type Snapshots } from './arithmetic.ts';

export interface Prediction {
  uncond: DeviceTensor | null;
  cond: DeviceTensor;
  /** First element of the conditional half if both halves are one tensor. */
  condOffset: number;
  guidance: number;
  /** Standard normal noise, the size of the latents, for a step that adds some. */
  noise: DeviceTensor | null;
}

export class SamplingLoop {
  #done = 0;
  readonly #state: LoopState;

  /**
   * @param x the latents before the first step, and in the end those after the last; owned by the caller
   * @param copies how often the network's input repeats them
   * @param blend image | noise | mask, each the size of x, for inpainting; owned by the caller
   * @param snapshots also owned by the caller, so the last copy may arrive after the loop is disposed
   */
  constructor(
    readonly arithmetic: Arithmetic,
    readonly plan: SamplerPlan,
    x: DeviceTensor,
    copies: number,
    blend: DeviceTensor | null,
    readonly snapshots: Snapshots,
  ) {
    const { historyLength } = plan;
    const [batch, ...shape] = x.dims;
    this.#state = {
      x,
      input: arithmetic.empty([copies * batch, ...shape]),
      copies,
      denoised: arithmetic.empty(x.dims),
      history: historyLength > 0 ? arithmetic.empty([historyLength * elements(x.dims)]) : null,
      historyLength,
      historyHead: 0,
      blend,
    };
    this.#prepareInput();
  }

  /** Steps that are finished. */
  get done(): number {
    return this.#done;
  }

  /** The network's next input, scaled as the sampler asks. */
  get input(): DeviceTensor {
    return this.#state.input;
  }

  /** The predicted picture of the last step. */
  get denoised(): DeviceTensor {
    return this.#state.denoised;
  }

  /** Continues from a state of the same plan, as read by `readState`. */
  restore({ done, x, history }: SamplingState): void {
    this.arithmetic.write(this.#state.x, x);
    if (this.#state.history) {
      this.arithmetic.write(this.#state.history, history);
    }
    this.#state.historyHead = 0;
    this.#done = done;
    this.#prepareInput();
  }

  /** Runs the next step. */
  step({ uncond, cond, condOffset, guidance, noise }: Prediction): void {
    const { plan } = this;
    const i = this.#done;
    this.arithmetic.step({
      step: plan.steps[i],
      state: this.#state,
      uncond,
      cond,
      condOffset,
      guidance,
      noise,
      nextInputScale: plan.steps[i + 1]?.inputScale ?? 1,
      blend: this.#state.blend ? plan.addNoise(i + 1) : null,
    });
    this.#done = i + 1;
  }

  /**
   * Starts copying the current state to the CPU, without waiting.
   * @param random the current state of the noise source
   * @returns false while an earlier one is on its way
   */
  keep(random: NoiseState, kept: (state: SamplingState) => void): boolean {
    const { sampler, schedule, steps, historyLength } = this.plan;
    const { x, history, historyHead } = this.#state;
    const about = { sampler, schedule, steps: steps.length, done: this.#done };
    return this.snapshots.take(history ? [x, history] : [x], ([latents, ring = new Float32Array()]) => {
      kept({ ...about, x: latents, history: unrolled(ring, historyHead, historyLength), random });
    });
  }

  /** Disposes all buffers but the caller's. */
  dispose(): void {
    const { input, denoised, history } = this.#state;
    input.dispose();
    denoised.dispose();
    history?.dispose();
  }

  #prepareInput(): void {
    const { input, x, copies } = this.#state;
    this.arithmetic.combine(input, this.plan.steps[this.#done]?.inputScale ?? 1, x, 0, null, copies);
  }
}

/** The slots of a ring, starting at its head. */
function unrolled(ring: Float32Array<ArrayBuffer>, head: number, slots: number): Float32Array<ArrayBuffer> {
  const at = slots === 0 ? 0 : (head * ring.length) / slots;
  const result = new Float32Array(ring.length);
  result.set(ring.subarray(at));
  result.set(ring.subarray(0, at), ring.length - at);
  return result;
}
