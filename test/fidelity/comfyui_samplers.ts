/** ComfyUI's own samplers and schedulers over a network without weights: test/goldens/comfyui_samplers.json. */
import { readFileSync } from 'node:fs';
import type { ModelSamplingName } from '../../src/core/model_sampling.ts';
import { TorchGenerator } from '../../src/core/random.ts';
import { applyStep } from '../../src/samplers/apply.ts';
import { samplers } from '../../src/samplers/registry.ts';
import type { SamplerPlan } from '../../src/samplers/sampler.ts';
import { parseSchedulerConfig } from '../../src/schedulers/config.ts';
import { modelSamplingOf } from '../../src/schedulers/model_sampling.ts';
import { planSampling } from '../../src/schedulers/plan.ts';
import { schedulers } from '../../src/schedulers/registry.ts';
import { schedules } from '../../src/schedules/registry.ts';
import { relativeDifference, type FidelityArea } from './fidelity.ts';

interface Goldens {
  noise: string[];
  image: string[];
  rows: { sampler: string; prediction: string; ends: Record<string, string[]> }[];
}

interface NodeGoldens {
  steps: number;
  noise: string[];
  image: string[];
  rows: { node: ModelSamplingName; settings: Record<string, number>; ends: Record<string, string[]> }[];
}

const read = <T>(name: string) =>
  JSON.parse(readFileSync(new URL(`../goldens/${name}.json`, import.meta.url), 'utf8')) as T;
const goldens = read<Goldens>('comfyui_samplers');
const nodes = read<NodeGoldens>('model_sampling');
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

/** x in the end, from noise or from a picture. */
function runFrom(plan: SamplerPlan, denoise: string): Float32Array {
  const { alpha, sigma } = plan.start;
  const given = denoise === '1' ? noise.map(() => 0) : image;
  return run(
    plan,
    Float32Array.from(given, (value, k) => alpha * value + sigma * noise[k]),
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
            return relativeDifference(runFrom(plan, denoise), expected.map(Number));
          },
        };
      }),
    ),
  },
  {
    title: "Flows shifted as by ComfyUI's nodes",
    about:
      "ComfyUI's nodes ModelSamplingAuraFlow, ModelSamplingFlux and ModelSamplingSD3 (`reference/model_sampling.py`), over the same network: x after the last step, in units of its spread.",
    columns: ['node', 'settings', 'sampler', 'schedule', 'denoise'],
    limit: 1e-3,
    cells: nodes.rows.flatMap(({ node, settings, ends }) =>
      Object.entries(ends).map(([place, expected]) => {
        const [sampler, schedule, denoise] = place.split(' ');
        const { width = 0, height = 0, ...shifts } = settings;
        const size = width > 0 ? [`${width}×${height}`] : [];
        return {
          at: [node, [...Object.values(shifts).map(String), ...size].join(', '), sampler, schedule, denoise],
          difference: () => {
            const modelSampling = modelSamplingOf({ model_sampling: node, ...shifts }, { width, height });
            const plan = planSampling(
              {
                config: parseSchedulerConfig('{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7}'),
                sampler,
                schedule,
                steps: nodes.steps,
                strength: Number(denoise),
                follows: 'comfyui',
                flow: { tokens: 0, shift: 'linear', least: 'step', modelSampling },
              },
              { samplers, schedules, schedulers },
            );
            return relativeDifference(runFrom(plan, denoise), expected.map(Number));
          },
        };
      }),
    ),
  },
];
