/** How diffusers' classes with x at the picture's full scale read their configs: Euler, Euler a, Heun and LMS, which differ in their steps alone. */
import { noiseTable, type TableSettings } from '../predictions/noise_table.ts';
import type { Level } from '../predictions/prediction.ts';
import { predictions } from '../predictions/registry.ts';
import { USUAL_OPTIONS, type Choices } from './scheduler.ts';

export interface FullScaleSettings extends TableSettings {
  prediction_type: 'epsilon' | 'v_prediction' | 'sample';
  timestep_spacing: string;
  steps_offset: number;
  use_karras_sigmas?: boolean;
  use_exponential_sigmas?: boolean;
}

export function choicesAtFullScale(sampler: string, settings: FullScaleSettings): Choices {
  const levels = settings.use_karras_sigmas ? 'karras' : settings.use_exponential_sigmas ? 'exponential' : null;
  return {
    sampler,
    options: USUAL_OPTIONS,
    prediction: predictions[settings.prediction_type],
    scale: 'full',
    table: noiseTable(settings),
    spacing: settings.timestep_spacing,
    stepsOffset: settings.steps_offset,
    levels: levels && { schedule: levels, ends: 'spacing' },
    grid: { spare: 0, round: Math.fround },
    finalNoise: 0,
    timestepOf: Math.fround,
    endsInFirstOrder: () => false,
    initNoise: initNoiseAtFullScale,
  };
}

/** diffusers leaves out the picture's own variance where the first level counts as pure noise. */
function initNoiseAtFullScale({ sigma }: Level, spacing: string): number {
  return spacing === 'linspace' || spacing === 'trailing' ? sigma : Math.sqrt(sigma * sigma + 1);
}
