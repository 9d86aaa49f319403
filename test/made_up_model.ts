/** samplers.json's weightless network, and a plan run over it, as the reference did with its scheduler. */
import { TorchGenerator } from '../src/core/random.ts';
import { applyStep, type StepBuffers } from '../src/samplers/apply.ts';
import type { SamplerPlan } from '../src/samplers/sampler.ts';

/** x after each step, starting from `x`, which is overwritten. Fresh noise comes from a generator with seed 11, as in the reference. */
export function tracePlan(plan: SamplerPlan, x: Float32Array, more: Partial<StepBuffers> = {}): number[][] {
  const history = Array.from({ length: plan.historyLength }, () => new Float32Array(x.length));
  const random = new TorchGenerator('11');
  return plan.steps.map((step) => {
    const cond = x.map((value, k) => {
      const input = Math.fround(step.inputScale * value);
      return Math.fround(Math.fround(0.6 * input) * 0.5) + Math.fround(0.3 * Math.sin(0.01 * step.timestep + k));
    });
    const noise = step.noise && random.randn(x.length);
    applyStep(step, { x, cond, uncond: null, guidance: 1, history, noise, ...more });
    return [...x];
  });
}
