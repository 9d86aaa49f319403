/** ComfyUI's own samplers and schedulers over a network without weights: test/goldens/comfyui_samplers.json. */
import { readFileSync } from 'node:fs';
import { TorchGenerator } from '../../src/core/random.ts';
import { applyStep } from '../../src/samplers/apply.ts';
import { samplers } from '../../src/samplers/registry.ts';
import type { SamplerPlan } from '../../src/samplers/sampler.ts';
import { parseSchedulerConfig } from '../../src/schedulers/config.ts';
import { planSampling } from '../../src/schedulers/plan.ts';
import { schedulers } from '../../src/schedulers/registry.ts';
import { schedules } from '../../src/schedules/registry.ts';
import { relativeDifference, type FidelityArea } from './fidelity.ts';

interface Goldens {
  noise: string[];
  image: string[];
  rows: { sampler: string; prediction: string; ends: Record<string, string[]> }[];
}

const goldens = JSON.parse(
  readFileSync(new URL('../goldens/comfyui_samplers.json', import.meta.url), 'utf8'),
) as Goldens;
const noise = goldens.noise.map(Number);
const image = goldens.image.map(Number);

const f = Math.fround;

function configOf(prediction: string) {
  const [prediction_type, zero] = prediction.split(', ');
  return parseSchedulerConfig(
    JSON.stringify({
      _class_name: 'EulerDiscreteScheduler',
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: 'scaled_linear',
      prediction_type,
      ...(zero !== undefined && { rescale_betas_zero_snr: true }),
      shift: 3,
    }),
  );
}

/** x in the end, with guidance 2. */
function run(plan: SamplerPlan, x: Float32Array): Float32Array {
  const history = Array.from({ length: plan.historyLength }, () => new Float32Array(x.length));
  const random = new TorchGenerator('11');
  for (const step of plan.steps) {
    const output = (weight: number, wave: (k: number) => number) =>
      x.map((value, k) => f(f(f(step.inputScale * value) * weight) + f(wave(k))));
    applyStep(step, {
      x,
      cond: output(0.3, (k) => 0.3 * Math.sin(0.01 * step.timestep + k)),
      uncond: output(0.2, (k) => 0.25 * Math.cos(0.013 * step.timestep + 2 * k)),
      guidance: 2,
      history,
      noise: step.noise && random.randn(x.length),
    });
  }
  return x;
}

export const areas: FidelityArea[] = [
  {
    title: "Samplers and schedules as ComfyUI's",
    about:
      "ComfyUI's own code (`reference/comfyui.py`) over a network without weights, with a negative prompt and guidance 2, in f32: x after the last step, in units of its spread. Noise of stochastic samplers comes from one generator on both sides. `align_your_steps` and `gits` are its nodes for Stable Diffusion 1.",
    columns: ['sampler', 'prediction', 'schedule', 'steps', 'denoise'],
    limit: 1e-3,
    cells: goldens.rows.flatMap(({ sampler, prediction, ends }) =>
      Object.entries(ends).map(([place, expected]) => {
        const [schedule, steps, denoise] = place.split(' ');
        return {
          at: [sampler, prediction, schedule, steps, denoise],
          difference: () => {
            const plan = planSampling(
              {
                config: configOf(prediction),
                sampler,
                schedule,
                steps: Number(steps),
                strength: Number(denoise),
                follows: 'comfyui',
              },
              { samplers, schedules, schedulers },
            );
            const { alpha, sigma } = plan.start;
            const given = denoise === '1' ? noise.map(() => 0) : image;
            const x = Float32Array.from(given, (value, k) => alpha * value + sigma * noise[k]);
            return relativeDifference(run(plan, x), expected.map(Number));
          },
        };
      }),
    ),
  },
];
