/** Samplers as diffusers' scheduler classes run them: the traces of test/goldens/samplers.json. */
import { readFileSync } from 'node:fs';
import { parseSchedulerConfig } from '../../src/schedulers/config.ts';
import { planSampling } from '../../src/schedulers/plan.ts';
import { schedulers } from '../../src/schedulers/registry.ts';
import { samplers } from '../../src/samplers/registry.ts';
import { schedules } from '../../src/schedules/registry.ts';
import { tracePlan } from '../made_up_model.ts';
import { relativeDifference, type FidelityArea } from './fidelity.ts';

interface Trace {
  sampler: string;
  class: string;
  config: Record<string, string | number | boolean>;
  steps: number;
  strength: number | null;
  start: string[] | null;
  trace: string[][];
}

const { x0, cases } = JSON.parse(readFileSync(new URL('../goldens/samplers.json', import.meta.url), 'utf8')) as {
  x0: string[];
  cases: Trace[];
};

/** What every case has, and so says nothing in a row. */
const COMMON =
  /^(beta_.*|num_train_timesteps|timestep_spacing|prediction_type|skip_prk_steps|clip_sample|algorithm_type)$/;

export const areas: FidelityArea[] = [
  {
    title: "Samplers on diffusers' classes",
    about:
      'Each class of diffusers stepped over a network without weights (`reference/samplers.py`), in f32: x after the last step, in units of its spread. `test/samplers.test.ts` holds every step of these traces to 1e-4.',
    columns: ['sampler', 'class', 'spacing', 'prediction', 'steps', 'strength', 'more'],
    limit: 1e-3,
    cells: cases.map((entry) => {
      const { config, steps } = entry;
      const more = Object.entries(config).flatMap(([key, value]) =>
        COMMON.test(key) ? [] : [`${key} ${String(value)}`],
      );
      return {
        at: [
          entry.sampler,
          entry.class,
          String(config.timestep_spacing),
          String(config.prediction_type ?? 'epsilon'),
          String(steps),
          String(entry.strength ?? '–'),
          more.join(', ') || '–',
        ],
        difference: () => {
          const plan = planSampling(
            {
              config: parseSchedulerConfig(JSON.stringify({ _class_name: entry.class, ...config })),
              steps,
              strength: entry.strength ?? undefined,
            },
            { samplers, schedules, schedulers },
          );
          const x = Float32Array.from(entry.start?.map(Number) ?? x0.map((value) => plan.initNoise * Number(value)));
          return relativeDifference(tracePlan(plan, x).at(-1) ?? [], entry.trace.at(-1)?.map(Number) ?? []);
        },
      };
    }),
  },
];
