/**
 * Where a sampling stands after some of its steps: all that its next step reads. Kept while it runs, so that a lost device costs a step
 * and not the picture, and read again as foreign data, because it has been in a database meanwhile.
 */
import * as v from 'valibot';
import { GENERATOR_WORDS, type GeneratorState } from '../core/random.ts';
import type { SamplerPlan } from './sampler.ts';

export interface SamplingState {
  /** Which plan it belongs to: ids of sampler and schedule, and the number of its steps. */
  sampler: string;
  schedule: string;
  steps: number;
  /** Steps that are finished, 0 to `steps`. */
  done: number;
  /** The latents after them. */
  x: Float32Array<ArrayBuffer>;
  /** What the steps remembered, one after another, the latest first; `historyLength` times the size of `x`. */
  history: Float32Array<ArrayBuffer>;
  /** The generator, after the numbers that those steps drew. */
  random: GeneratorState;
}

const whole = v.pipe(v.number(), v.integer(), v.minValue(0));
const floats = v.custom<Float32Array<ArrayBuffer>>(
  (value) => value instanceof Float32Array && value.every(Number.isFinite),
);
const schema = v.object({
  sampler: v.string(),
  schedule: v.string(),
  steps: whole,
  done: whole,
  x: floats,
  history: floats,
  random: v.object({
    words: v.custom<Uint32Array<ArrayBuffer>>(
      (value) => value instanceof Uint32Array && value.length === GENERATOR_WORDS,
    ),
    index: v.pipe(whole, v.maxValue(GENERATOR_WORDS)),
    cached: v.nullable(v.number()),
  }),
});

/**
 * The state in `value` when it is one of this very plan, whole and with finite numbers only; else null.
 * @param count elements of the latents
 */
export function readState(value: unknown, plan: SamplerPlan, count: number): SamplingState | null {
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
