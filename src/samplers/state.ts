/**
 * The state of sampling between two steps: everything the next step reads. It is saved while sampling runs, so that a lost device costs a
 * step and not the picture. Since it comes back from a database, it is validated like foreign data.
 */
import * as v from 'valibot';
import type { NoiseState } from '../core/noise.ts';
import { GENERATOR_WORDS } from '../core/random.ts';
import type { SamplerPlan } from './sampler.ts';

export interface SamplingState {
  /** The plan it belongs to: ids of sampler and schedule, and the number of steps. */
  sampler: string;
  schedule: string;
  steps: number;
  /** Steps that are finished, 0 to `steps`. */
  done: number;
  /** The latents after them. */
  x: Float32Array<ArrayBuffer>;
  /** The history buffers one after another, latest first; `historyLength` times the size of `x`. */
  history: Float32Array<ArrayBuffer>;
  /** The state of the noise source after those steps' draws. */
  random: NoiseState;
}

const whole = v.pipe(v.number(), v.integer(), v.minValue(0));
const floats = v.custom<Float32Array<ArrayBuffer>>(
  (value) => value instanceof Float32Array && value.every(Number.isFinite),
);
const generator = v.object({
  words: v.custom<Uint32Array<ArrayBuffer>>(
    (value) => value instanceof Uint32Array && value.length === GENERATOR_WORDS,
  ),
  index: v.pipe(whole, v.maxValue(GENERATOR_WORDS)),
  cached: v.nullable(v.number()),
});
const schema = v.object({
  sampler: v.string(),
  schedule: v.string(),
  steps: whole,
  done: whole,
  x: floats,
  history: floats,
  random: v.union([generator, v.object({ generators: v.array(v.union([generator, v.object({ offset: whole })])) })]),
});

/**
 * The state in `value` if it belongs to this plan, is complete and has only finite numbers; else null.
 * @param count elements of the latents
 */
export function readState(
  value: unknown,
  plan: Pick<SamplerPlan, 'sampler' | 'schedule' | 'historyLength'> & { steps: readonly unknown[] },
  count: number,
): SamplingState | null {
  const result = v.safeParse(schema, value);
  if (!result.success) {
    return null;
  }
  const state = result.output;
  const isOfPlan =
    state.sampler === plan.sampler &&
    state.schedule === plan.schedule &&
    state.steps === plan.steps.length &&
    state.done <= state.steps &&
    state.x.length === count &&
    state.history.length === plan.historyLength * count;
  return isOfPlan ? state : null;
}
