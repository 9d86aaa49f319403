/** Contract suite over every file of src/samplers and src/schedules, against real diffusers and ComfyUI numbers. */
import { readFileSync, readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { StudioError } from '../src/core/errors.ts';
import type { ModelSamplingName, ModelSamplingRequest } from '../src/core/model_sampling.ts';
import type { GeneratorState } from '../src/core/noise.ts';
import { TorchGenerator } from '../src/core/random.ts';
import { CpuArithmetic } from '../src/engine/cpu_arithmetic.ts';
import type { OrtModule } from '../src/engine/runtime.ts';
import { SamplingLoop } from '../src/engine/sampling_loop.ts';
import { applyStep } from '../src/samplers/apply.ts';
import { schedules } from '../src/schedules/registry.ts';
import { schedulers } from '../src/schedulers/registry.ts';
import { parseSchedulerConfig, withPrediction } from '../src/schedulers/config.ts';
import { modelSamplingOf } from '../src/schedulers/model_sampling.ts';
import { choose, defaultsOf, layPath, planSampling } from '../src/schedulers/plan.ts';
import { samplers } from '../src/samplers/registry.ts';
import type { Sampler, SamplerPlan } from '../src/samplers/sampler.ts';
import { readState } from '../src/samplers/state.ts';
import type { SamplingState } from '../src/samplers/state.ts';
import type { Schedule } from '../src/schedules/schedule.ts';
import { tracePlan } from './made_up_model.ts';

/** Written by Python, which spells infinity differently. */
const golden = <T>(name: string) => {
  const text = readFileSync(new URL(`goldens/${name}`, import.meta.url), 'utf8');
  return JSON.parse(text.replace(/: -Infinity\b/g, ': null')) as T;
};

interface ScheduleCase {
  id: string;
  scheduler: string;
  config: Record<string, unknown>;
  steps: number;
  timesteps: number[] | null;
  sigmas: number[] | null;
  init_noise_sigma: number | null;
  set_timesteps?: unknown;
}
interface TraceCase {
  sampler: string;
  class: string;
  config: Record<string, unknown>;
  steps: number;
  strength: number | null;
  timesteps: number[];
  sigmas: string[] | null;
  init_noise_sigma: string;
  scale: string[] | null;
  start: string[] | null;
  trace: string[][];
}
interface PipelineCase {
  checkpoint: string;
  scheduler: { class: string };
  timesteps: number[];
  sigmas: string[] | null;
  init_noise_sigma: string;
}
interface PipelineParameters {
  sampler?: string;
  schedule?: string;
  steps: number;
  strength?: number;
  prediction_type?: 'epsilon' | 'v_prediction';
  rescale_betas_zero_snr?: boolean;
}
interface FlowCase {
  config: Record<string, unknown>;
  course: { tokens: number; shift: 'linear' | 'empirical'; least: 'step' | 'trained' };
  steps: number;
  strength: number | null;
  timesteps: number[];
  sigmas: string[];
  start: string[] | null;
  end: string[];
}
const offers = { samplers, schedules, schedulers };
const tables = golden<{ diffusers: ScheduleCase[]; comfyui: ScheduleCase[] }>('schedulers.json');
const traces = golden<{ x0: string[]; noise: string[]; cases: TraceCase[] }>('samplers.json');

const flows = golden<{ x0: string[]; noise: string[]; cases: FlowCase[] }>('flows.json');

const nodes = golden<{
  steps: number;
  rows: { node: ModelSamplingName; settings: Record<string, number>; levels: Record<string, string[]> }[];
}>('model_sampling.json');

const configOf = (className: string, values: Record<string, unknown>) =>
  parseSchedulerConfig(JSON.stringify({ _class_name: className, ...values }));

const SD = {
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
  clip_sample: false,
  skip_prk_steps: true,
};

const FLOW = { prediction_type: 'flow_prediction', use_flow_sigmas: true, flow_shift: 3 };

const numbers = (texts: readonly (string | number)[]) => texts.map(Number);

function expectClose(actual: readonly number[], expected: readonly number[], tolerance: (value: number) => number) {
  expect(actual.length).toBe(expected.length);
  actual.forEach((value, i) => {
    expect(Math.abs(value - expected[i]), `${i}: ${value}, not ${expected[i]}`).toBeLessThanOrEqual(
      tolerance(expected[i]),
    );
  });
}
/** Elements of the latents that {@link Stage} samples: two of four channels of one point. */
const COUNT = 8;

const bits = (values: Float32Array<ArrayBuffer>) => [
  ...new Uint32Array(values.buffer, values.byteOffset, values.length),
];

/** A whole sampling run on plain arrays, with guidance and a network that is sensitive to every input. */
class Stage {
  readonly x: Float32Array<ArrayBuffer>;
  readonly loop: SamplingLoop;
  readonly random = new TorchGenerator('3');
  readonly #arithmetic = new CpuArithmetic({
    Tensor: class {
      constructor(
        readonly type: string,
        readonly data: unknown,
      ) {}
    },
  } as unknown as OrtModule);

  constructor(plan: SamplerPlan, masked: boolean) {
    const dims = [2, 4, 1, 1];
    const noise = this.random.randn(COUNT);
    const x = this.#arithmetic.upload(noise, dims);
    this.x = x.data as Float32Array<ArrayBuffer>;
    const mask = Float32Array.from({ length: COUNT }, (_, i) => (i % 3) / 2);
    const blend = masked ? this.#arithmetic.upload(Float32Array.of(...noise, ...noise, ...mask), [3 * COUNT]) : null;
    this.loop = new SamplingLoop(this.#arithmetic, plan, x, 2, blend, this.#arithmetic.snapshots());
  }

  step(): void {
    const { timestep, noise: added } = this.loop.plan.steps[this.loop.done];
    const input = this.loop.input.ort.data as Float32Array;
    const draw = this.random.randn(1)[0];
    const predict = (at: number) =>
      this.#arithmetic.upload(
        Float32Array.from({ length: COUNT }, (_, i) => Math.sin(timestep + 3 * input[at + i] + 0.1 * draw)),
        [2, 4, 1, 1],
      );
    const noise = added && this.#arithmetic.upload(this.random.randn(COUNT), [2, 4, 1, 1]);
    this.loop.step({ uncond: predict(0), cond: predict(COUNT), condOffset: 0, guidance: 7.5, noise });
  }

  state(): SamplingState {
    let state: SamplingState | undefined;
    this.loop.keep(this.random.state, (kept) => {
      state = kept;
    });
    return state as SamplingState;
  }
}

const sigmaTolerance = (sigma: number) => 1e-5 * Math.max(1, sigma);

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(StudioError);
    expect((error as StudioError).message).toMatch(/^[A-Z].*\.$/);
    return (error as StudioError).code;
  }
  return 'nothing thrown';
}

describe('the folders are the registry', () => {
  const samplerFiles = import.meta.glob<{ sampler?: Sampler }>('../src/samplers/*.ts', { eager: true });
  const scheduleFiles = import.meta.glob<{ schedule?: Schedule }>('../src/schedules/*.ts', { eager: true });

  test('a sampler says whether a class of diffusers stands for it', () => {
    const known = new Set(schedulers.flatMap(({ follows, samplers: ids }) => (follows === 'comfyui' ? [] : ids)));
    expect(Object.values(samplers).filter(({ id, ofDiffusers }) => (ofDiffusers ?? false) !== known.has(id))).toEqual(
      [],
    );
  });

  test('ids equal file names', () => {
    for (const [path, { sampler }] of Object.entries(samplerFiles)) {
      expect(sampler?.id ?? '').toBe(sampler ? path.replace(/^.*\/|\.ts$/g, '') : '');
    }
    for (const [path, { schedule }] of Object.entries(scheduleFiles)) {
      expect(schedule?.id ?? '').toBe(schedule ? path.replace(/^.*\/|\.ts$/g, '') : '');
    }
    expect(Object.keys(samplers)).toEqual(expect.arrayContaining(['euler', 'ddim', 'dpmpp_2m', 'plms']));
    expect(Object.keys(schedules)).toEqual(
      expect.arrayContaining(['normal', 'karras', 'simple', 'leading', 'trailing', 'linspace']),
    );
  });

  test('one scheduler for a class and kind of prediction, and at least one for every sampler', () => {
    const classes = schedulers.map(({ className, isFlow = false }) => `${className} ${isFlow}`);
    expect(new Set(classes).size).toBe(classes.length);
    expect(new Set(schedulers.flatMap(({ samplers: ids }) => ids))).toEqual(new Set(Object.keys(samplers)));
  });
});

describe('levels equal the goldens', () => {
  const known = new Set(schedulers.map(({ className }) => className));
  const cases = tables.diffusers.filter((entry) => known.has(entry.scheduler) && !entry.set_timesteps);

  test.each(cases)('diffusers $id', (entry) => {
    const config = configOf(entry.scheduler, entry.config);
    const path = layPath(choose(config, undefined, offers), undefined, entry.steps, offers);
    const plan = planSampling({ config, steps: entry.steps }, offers);
    expectClose(
      plan.steps.map((step) => step.timestep),
      entry.timesteps ?? [],
      () => 2e-3,
    );
    if (entry.sigmas) {
      expectClose(path.noises, entry.sigmas, sigmaTolerance);
    }
    if (entry.init_noise_sigma !== null) {
      expectClose([plan.initNoise], [entry.init_noise_sigma], sigmaTolerance);
    }
  });

  const comfy = tables.comfyui.filter(({ id, scheduler }) => id.startsWith('comfy_sd15') && scheduler in schedules);
  test.each(comfy)('ComfyUI $id', (entry) => {
    const config = configOf('EulerDiscreteScheduler', SD);
    // Those that drop the penultimate level place a different number of them.
    for (const sampler of Object.keys(samplers).filter((id) => !/^(dpm_2|uni_pc)/.test(id))) {
      const path = layPath(choose(config, sampler, offers), entry.scheduler, entry.steps, offers);
      expectClose(path.noises, entry.sigmas ?? [], sigmaTolerance);
    }
  });
});

describe('traces equal diffusers', () => {
  const x0 = numbers(traces.x0);
  const noise = numbers(traces.noise);

  test.each(traces.cases.map((entry, i) => ({ i, ...entry })))(
    '$i $sampler, $steps steps, strength $strength, $config.timestep_spacing',
    (entry) => {
      const config = configOf(entry.class, entry.config);
      const { strength, steps } = entry;
      const plan = planSampling({ config, steps, strength: strength ?? undefined }, offers);
      expect(plan.sampler).toBe(entry.sampler);
      expectClose(
        plan.steps.map((step) => step.timestep),
        entry.timesteps,
        () => 2e-3,
      );
      if (entry.sigmas) {
        const path = layPath(choose(config, undefined, offers), undefined, steps, offers);
        expectClose(path.noises, numbers(entry.sigmas), sigmaTolerance);
      }
      expectClose([plan.initNoise], [Number(entry.init_noise_sigma)], sigmaTolerance);
      expectClose(
        plan.steps.map((step) => step.inputScale),
        entry.scale ? numbers(entry.scale) : plan.steps.map(() => 1),
        () => 1e-6,
      );

      const mix = plan.addNoise(0);
      const x = Float32Array.from(x0, (value, k) =>
        entry.start ? mix.alpha * value + mix.sigma * noise[k] : plan.initNoise * value,
      );
      if (entry.start) {
        expectClose([...x], numbers(entry.start), (value) => 1e-5 * Math.max(1, Math.abs(value)));
      }
      const ours = tracePlan(plan, x);
      expect(ours.length).toBe(entry.trace.length);
      ours.forEach((row, i) => {
        expectClose(row, numbers(entry.trace[i]), (value) => 1e-4 * Math.max(1, Math.abs(value)));
      });
    },
  );
});

describe('flows equal diffusers', () => {
  const name = 'FlowMatchEulerDiscreteScheduler';
  const [x0, noise] = [numbers(flows.x0), numbers(flows.noise)];

  test.each(flows.cases.map((entry, i) => ({ i, ...entry })))(
    '$i $steps steps, strength $strength, $course, $config',
    ({ config, course, steps, strength, ...expected }) => {
      const request = { config: configOf(name, config), steps, strength: strength ?? undefined, flow: course };
      const plan = planSampling(request, offers);
      const path = layPath(choose(request.config, undefined, offers, { ...course, steps }), undefined, steps, offers);
      expectClose(path.noises, numbers(expected.sigmas), () => 1e-6);
      expectClose(
        plan.steps.map(({ timestep }) => timestep),
        expected.timesteps,
        () => 1e-3,
      );
      expect(plan.initNoise).toBe(1);
      const { alpha, sigma } = plan.addNoise(0);
      const x = Float32Array.from(x0, (value, k) => (expected.start ? alpha * value + sigma * noise[k] : value));
      expectClose([...x], numbers(expected.start ?? flows.x0), () => 1e-5);
      expectClose(tracePlan(plan, x).at(-1) ?? [], numbers(expected.end), () => 1e-5);
    },
  );

  test("ComfyUI's samplers go along the levels of a dynamic shift, too", () => {
    const config = configOf(name, { use_dynamic_shifting: true, base_shift: 0.5, max_shift: 1.15, shift: 3 });
    for (const shift of ['linear', 'empirical'] as const) {
      const flow = { tokens: 1024, shift, least: 'step' as const };
      const levels = (request: { sampler?: string; schedule?: string }) => {
        const plan = planSampling({ config, steps: 4, flow, ...request }, offers);
        return [plan.follows, ...new Set(plan.steps.map(({ level }) => level.sigma.toFixed(5)))];
      };
      const own = levels({});
      expect(levels({ sampler: 'dpmpp_2m', schedule: 'simple' })).toEqual(['comfyui', ...own.slice(1)]);
    }
  });

  test.each(nodes.rows.map((row) => ({ ...row, said: JSON.stringify(row.settings) })))(
    'the levels of $node are those of ComfyUI: $said',
    ({ node, settings: { width, height, ...settings }, levels }) => {
      const request = { model_sampling: node, ...settings };
      // What the config says of a shift counts for nothing.
      const config = configOf(name, { use_dynamic_shifting: true, shift_terminal: 0.02, base_shift: 0.7 });
      const sized = { ...request, ...(width === undefined ? {} : { shift_width: width, shift_height: height }) };
      for (const modelSampling of [
        modelSamplingOf(sized, { width: 64, height: 64 }),
        modelSamplingOf(request, { width: width ?? 64, height: height ?? 64 }),
      ]) {
        const flow = { tokens: 99, shift: 'empirical' as const, least: 'step' as const, modelSampling };
        for (const [schedule, expected] of Object.entries(levels)) {
          const plan = planSampling({ config, schedule, steps: nodes.steps, follows: 'comfyui', flow }, offers);
          const given = plan.steps.map(({ level }) => level.sigma);
          expectClose(given, numbers(expected.slice(0, plan.steps.length)), () => 2e-6);
          expectClose(
            plan.steps.map(({ timestep }) => timestep / 1000),
            given,
            () => 1e-6,
          );
        }
      }
    },
  );

  test('the nodes have ComfyUI’s own values where none are given', () => {
    const picture = { width: 1024, height: 1024 };
    const factor = (request: ModelSamplingRequest) => modelSamplingOf(request, picture)?.shift;
    expect(factor({})).toBeUndefined();
    expect(factor({ model_sampling: 'ModelSamplingAuraFlow' })).toBe(1.73);
    expect(factor({ model_sampling: 'ModelSamplingSD3' })).toBe(3);
    expect(factor({ model_sampling: 'ModelSamplingFlux' })).toBeCloseTo(Math.exp(1.15), 12);
  });

  test('only samplers that know flows are taken, by a scheduler that is known', () => {
    const config = configOf(name, { shift: 3 });
    expect(defaultsOf(config, offers)).toEqual({ sampler: 'euler', schedule: 'shifted' });
    expect(codeOf(() => planSampling({ config, sampler: 'plms', steps: 4 }, offers))).toBe('invalid_operation');
    const heun = configOf('FlowMatchHeunDiscreteScheduler', { shift: 3 });
    expect(codeOf(() => planSampling({ config: heun, steps: 4 }, offers))).toBe('checkpoint_unsupported');
    // ComfyUI's schedules choose among the shifted levels.
    const simple = planSampling({ config, schedule: 'simple', steps: 4 }, offers);
    expectClose(
      simple.steps.map(({ level }) => level.sigma),
      [1, 0.9, 0.75, 0.5],
      () => 1e-6,
    );
  });

  test.each([{ stochastic_sampling: true }, { invert_sigmas: true }, { use_beta_sigmas: true }, { shift: 0 }])(
    '%o is refused',
    (values) => {
      expect(codeOf(() => planSampling({ config: configOf(name, values), steps: 4 }, offers))).toBe(
        'checkpoint_unsupported',
      );
    },
  );

  test.each([{ use_flow_sigmas: false }, { solver_order: 4 }, { solver_type: 'bh1' }, { disable_corrector: [0] }])(
    'UniPC with %o is refused',
    (values) => {
      const config = configOf('UniPCMultistepScheduler', { ...FLOW, ...values });
      expect(codeOf(() => planSampling({ config, steps: 4 }, offers))).toBe('checkpoint_unsupported');
    },
  );
});

describe('whole operations on the tiny checkpoints take the timesteps that diffusers takes', () => {
  const folder = new URL('goldens/pipelines/', import.meta.url);
  test.each(readdirSync(folder))('%s', (name) => {
    const entry = golden<PipelineCase>(`pipelines/${name}/case.json`);
    const { parameters } = golden<{ parameters: PipelineParameters }>(`pipelines/${name}/operation.json`);
    const from = entry.checkpoint.replace(/^builtin:/, '../../public/checkpoints/');
    const file = new URL(`checkpoints/${from}/scheduler/scheduler_config.json`, import.meta.url);
    const config = withPrediction(parseSchedulerConfig(readFileSync(file, 'utf8')), parameters);
    const { sampler, schedule, steps, strength } = parameters;
    const plan = planSampling({ config, sampler, schedule, steps, strength }, offers);
    expect(schedulers.find(({ className }) => className === entry.scheduler.class)?.samplers).toContain(plan.sampler);
    expectClose(
      plan.steps.map((step) => step.timestep),
      entry.timesteps,
      () => 2e-3,
    );
    expectClose([plan.initNoise], [Number(entry.init_noise_sigma)], sigmaTolerance);
    if (entry.sigmas) {
      const sigmas = numbers(entry.sigmas);
      expectClose(
        plan.steps.map(({ level }) => level.sigma / level.alpha),
        sigmas.slice(sigmas.length - 1 - plan.steps.length, -1),
        sigmaTolerance,
      );
    }
  });
});

/** Numbers of steps and strengths to try with every sampler. */
const COUNTS = [
  ...[1, 2, 3, 5, 14, 15, 16, 50].map((steps) => ({ steps, strength: undefined })),
  ...[1, 0.999, 0.5, 0.1].map((strength) => ({ steps: 15, strength })),
];

/** As many as there are levels. */
const MOST = { steps: 1000, strength: undefined };

/** Two of ComfyUI's, one of them with another number of points than of steps, and one of diffusers'. */
const STOPPED = ['normal', 'ddim_uniform', 'leading'];

/** A class that stands for the sampler. */
const classOf = ({ id }: Sampler) => schedulers.find(({ samplers: ids }) => ids.includes(id))?.className ?? 'none';

describe.each(Object.values(samplers))('sampler $id', (sampler) => {
  const onlyFlows = schedulers.every(({ samplers: ids, isFlow }) => isFlow ?? !ids.includes(sampler.id));
  const own = onlyFlows ? FLOW : { ...SD, steps_offset: 1 };
  const predictions = onlyFlows ? ['flow_prediction'] : ['epsilon', 'v_prediction'];

  test('says whether its steps add noise', () => {
    const config = configOf(classOf(sampler), own);
    const { steps } = planSampling({ config, sampler: sampler.id, schedule: undefined, steps: 5, strength: 1 }, offers);
    expect(sampler.addsNoise ?? false).toBe(steps.some(({ noise }) => noise !== null));
  });

  test.each(Object.keys(schedules))('with %s: finite and consistent from 1 to 1000 steps', (schedule) => {
    for (const prediction of predictions) {
      const config = configOf(classOf(sampler), { ...own, prediction_type: prediction });
      for (const { steps, strength } of [...COUNTS, ...(schedule === 'simple' ? [MOST] : [])]) {
        let plan: SamplerPlan;
        try {
          plan = planSampling({ config, sampler: sampler.id, schedule, steps, strength }, offers);
        } catch (error) {
          // Allowed: too many steps for the levels, too little strength, PLMS off the grid, levels of another kind. Never anything else.
          expect((error as StudioError).code).toBe('invalid_operation');
          expect((error as StudioError).message).toMatch(
            /has no room for|leaves none of|plms needs evenly spaced|holds noise levels of Stable Diffusion/,
          );
          continue;
        }
        expect(plan.schedule).toBe(schedule);
        const wrong = plan.steps.findIndex(
          ({ timestep, level, next }, i) =>
            next.history.length > Math.min(plan.historyLength, i) ||
            !(timestep >= 0 && timestep <= (onlyFlows ? 1000 : 999) && level.sigma > 0),
        );
        expect(wrong).toBe(-1);
        expect(plan.addNoise(plan.steps.length)).toEqual({ alpha: 1, sigma: 0 });
        const trace = tracePlan(plan, Float32Array.from([1, -2, 0.5, 0, 3, -0.1, 0.7, 1.5]));
        expect(trace.flat().every(Number.isFinite)).toBe(true);
      }
    }
  });

  test('a perfect network gives back the picture', () => {
    // A network that knows x0 predicts exactly the noise that is in x, or the way there from x0, so every step must lead towards x0.
    const config = configOf(classOf(sampler), {
      ...own,
      steps_offset: 0,
      set_alpha_to_one: true,
      timestep_spacing: 'trailing',
    });
    const plan = planSampling({ config, sampler: sampler.id, steps: 10 }, offers);
    const image = Float32Array.of(0.5, -1, 2);
    const noise = Float32Array.of(1, 0.3, -0.7);
    const start = plan.addNoise(0);
    const x = image.map((value, k) => start.alpha * value + start.sigma * noise[k]);
    const history = Array.from({ length: plan.historyLength }, () => new Float32Array(3));
    const denoised = new Float32Array(3);
    const random = new TorchGenerator('1');
    for (const step of plan.steps) {
      const { alpha, sigma } = step.level;
      const cond = x.map((value, k) => (value - (onlyFlows ? 1 : alpha) * image[k]) / sigma);
      applyStep(step, { x, cond, uncond: null, guidance: 1, history, noise: random.randn(3), denoised });
      expectClose([...denoised], [...image], () => 1e-3);
    }
    // ComfyUI's UniPC ends at σ = 0.001, and TCD at the cleanest level of the table, σ = 0.0292.
    expectClose([...x], [...image], () => (sampler.id === 'tcd' ? 3 * 0.0292 : 2e-3));
  });

  test('the part of a picture outside the mask comes back untouched', () => {
    const config = configOf(classOf(sampler), { ...own, steps_offset: 0 });
    const plan = planSampling({ config, sampler: sampler.id, steps: 7, strength: 0.6 }, offers);
    const image = Float32Array.of(0.5, -1, 2, 0.25);
    const noise = Float32Array.of(1, 0.3, -0.7, 0.1);
    const x = noise.slice();
    const history = Array.from({ length: plan.historyLength }, () => new Float32Array(4));
    for (const [i, step] of plan.steps.entries()) {
      const inpaint = { mask: Float32Array.of(0, 1), image, noise, level: plan.addNoise(i + 1) };
      applyStep(step, { x, cond: noise, uncond: image, guidance: 2, history, noise, inpaint });
    }
    expect([x[0], x[2]]).toEqual([0.5, 2]);
    expect([x[1], x[3]].every(Number.isFinite)).toBe(true);
  });

  test.each(STOPPED)(
    'with %s: stopped after any call of the network and gone on elsewhere, the latents are the same to the bit',
    (schedule) => {
      for (const { steps, strength, masked } of [
        { steps: 1, strength: 1, masked: false },
        { steps: 9, strength: 1, masked: false },
        { steps: 17, strength: 0.7, masked: true },
      ]) {
        let plan: SamplerPlan;
        try {
          const config = configOf(classOf(sampler), own);
          plan = planSampling({ config, sampler: sampler.id, schedule, steps, strength }, offers);
        } catch {
          // PLMS off the grid, which the test above allows.
          expect(sampler.id).toBe('plms');
          continue;
        }
        const undisturbed = new Stage(plan, masked);
        const states: unknown[] = [undisturbed.state()];
        while (undisturbed.loop.done < plan.steps.length) {
          undisturbed.step();
          states.push(undisturbed.state());
        }
        expect(states).toHaveLength(plan.steps.length + 1);
        for (const [done, kept] of states.entries()) {
          const state = readState(structuredClone(kept), plan, COUNT);
          expect(state?.done).toBe(done);
          const elsewhere = new Stage(plan, masked);
          // Previous content must not matter.
          elsewhere.x.fill(7);
          elsewhere.loop.restore(state as SamplingState);
          elsewhere.random.state = (state as SamplingState).random as GeneratorState;
          while (elsewhere.loop.done < plan.steps.length) {
            elsewhere.step();
          }
          expect(bits(elsewhere.x)).toEqual(bits(undisturbed.x));
          expect(elsewhere.state()).toEqual(undisturbed.state());
        }
      }
    },
  );
});

test('a state of another plan, torn or with numbers that are none is not gone on from', () => {
  const plan = (steps: number, name = 'DPMSolverMultistepScheduler') =>
    planSampling({ config: configOf(name, SD), steps }, offers);
  const stage = new Stage(plan(4), false);
  stage.step();
  const state = stage.state();
  expect(readState(state, plan(4), COUNT)).toEqual(state);
  expect(readState(state, plan(5), COUNT)).toBeNull();
  expect(readState(state, plan(4, 'EulerDiscreteScheduler'), COUNT)).toBeNull();
  expect(readState(state, plan(4), COUNT + 1)).toBeNull();
  for (const wrong of [
    null,
    'x',
    {},
    { ...state, done: 5 },
    { ...state, done: -1 },
    { ...state, x: [...state.x] },
    { ...state, x: state.x.map(() => NaN) },
    { ...state, history: state.history.slice(1) },
    { ...state, random: { ...state.random, words: new Uint32Array(3) } },
    { ...state, random: { ...state.random, index: 625 } },
  ]) {
    expect(readState(wrong, plan(4), COUNT)).toBeNull();
  }
});

describe('guidance', () => {
  test('m = u + g·(c − u)', () => {
    const plan = planSampling({ config: configOf('EulerDiscreteScheduler', SD), steps: 1 }, offers);
    const step = { ...plan.steps[0], next: { x: 0, model: 1, negative: 0, history: [] } };
    const x = Float32Array.of(9);
    const buffers = { x, cond: Float32Array.of(3), uncond: Float32Array.of(1), guidance: 7.5, history: [] };
    applyStep(step, buffers);
    expect(x[0]).toBe(16);
  });
});

describe('what a checkpoint asks for', () => {
  test('defaults come from the class, and a missing spacing from the class of the chosen sampler', () => {
    const pndm = configOf('PNDMScheduler', SD);
    expect(defaultsOf(pndm, offers)).toEqual({ sampler: 'plms', schedule: 'leading' });
    expect(planSampling({ config: pndm, sampler: 'euler', steps: 5 }, offers).schedule).toBe('linspace');
    const dpm = configOf('DPMSolverMultistepScheduler', { ...SD, use_karras_sigmas: true });
    expect(defaultsOf(dpm, offers)).toEqual({ sampler: 'dpmpp_2m', schedule: 'karras' });
  });

  test("Python's -Infinity is understood", () => {
    const text =
      '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "variance_type": null}';
    expect(defaultsOf(parseSchedulerConfig(text), offers).sampler).toBe('dpmpp_2m');
  });

  test('zero terminal SNR works, and a division by zero is refused', () => {
    const values = { ...SD, rescale_betas_zero_snr: true, timestep_spacing: 'trailing' };
    for (const [className, prediction] of [
      ['EulerDiscreteScheduler', 'epsilon'],
      ['DPMSolverMultistepScheduler', 'v_prediction'],
      ['DDIMScheduler', 'v_prediction'],
    ] as const) {
      const config = configOf(className, { ...values, prediction_type: prediction });
      expect(planSampling({ config, steps: 4 }, offers).steps).toHaveLength(4);
    }
    const ddim = configOf('DDIMScheduler', values);
    expect(codeOf(() => planSampling({ config: ddim, steps: 4 }, offers))).toBe('checkpoint_unsupported');
  });

  test.each([
    ['DPMSolverMultistepScheduler', { thresholding: true }],
    ['DPMSolverMultistepScheduler', { solver_order: 4 }],
    ['DPMSolverMultistepScheduler', { algorithm_type: 'dpmsolver' }],
    ['DPMSolverMultistepScheduler', { use_exponential_sigmas: true }],
    ['DPMSolverMultistepScheduler', { use_lu_lambdas: true }],
    ['DPMSolverMultistepScheduler', { lambda_min_clipped: -5.1 }],
    ['DDIMScheduler', { clip_sample: true }],
    ['DDIMScheduler', { clip_sample: undefined }],
    ['DDIMScheduler', { beta_schedule: 'sigmoid' }],
    ['EulerDiscreteScheduler', { use_beta_sigmas: true }],
    ['EulerDiscreteScheduler', { interpolation_type: 'log_linear' }],
    ['EulerDiscreteScheduler', { prediction_type: 'flow_prediction' }],
    ['EulerDiscreteScheduler', { trained_betas: [0.1, 0.2] }],
    ['EulerDiscreteScheduler', { num_train_timesteps: 1e9 }],
    ['PNDMScheduler', { skip_prk_steps: false }],
    ['PNDMScheduler', { prediction_type: 'sample' }],
    ['DEISMultistepScheduler', {}],
    ['UniPCMultistepScheduler', { predict_x0: false }],
    ['UniPCMultistepScheduler', { disable_corrector: [0] }],
    ['UniPCMultistepScheduler', { solver_order: 4 }],
    ['HeunDiscreteScheduler', { use_beta_sigmas: true }],
    ['HeunDiscreteScheduler', { clip_sample: true }],
    ['LMSDiscreteScheduler', { rescale_betas_zero_snr: true }],
    ['LCMScheduler', { clip_sample: true }],
    ['TCDScheduler', { thresholding: true }],
  ])('%s with %o is refused', (className, values) => {
    const config = configOf(className, { ...SD, ...values });
    expect(codeOf(() => planSampling({ config, steps: 5 }, offers))).toBe('checkpoint_unsupported');
  });

  test('an unknown class still runs with a sampler of ours', () => {
    const config = configOf('DEISMultistepScheduler', { ...SD, solver_type: 'logrho' });
    expect(planSampling({ config, sampler: 'dpmpp_2m', steps: 5 }, offers).steps).toHaveLength(5);
  });

  test.each(['', '[]', 'null', '{}', '{"_class_name": 3}', '{'])('the file %o is damaged', (text) => {
    expect(codeOf(() => parseSchedulerConfig(text))).toBe('checkpoint_damaged');
  });
});

describe('whose numbers they are', () => {
  const config = configOf('EulerDiscreteScheduler', SD);
  const plan = (request: { sampler?: string; follows?: 'diffusers' | 'comfyui' }) =>
    planSampling({ config, steps: 5, ...request }, offers);

  test("is the checkpoint's own class where it knows the sampler, else whoever has it, else who is asked for", () => {
    expect(plan({}).follows).toBe('diffusers');
    expect(plan({ sampler: 'dpmpp_2m' }).follows).toBe('diffusers');
    expect(plan({ sampler: 'heun' }).follows).toBe('diffusers');
    expect(plan({ sampler: 'heunpp2' }).follows).toBe('comfyui');
    expect(plan({ follows: 'comfyui' })).toMatchObject({ follows: 'comfyui', sampler: 'euler', schedule: 'normal' });
    expect(codeOf(() => plan({ sampler: 'heunpp2', follows: 'diffusers' }))).toBe('invalid_operation');
  });

  test('ComfyUI tells the network whole timesteps, and starts from more noise than diffusers', () => {
    const [ours, theirs] = (['diffusers', 'comfyui'] as const).map((follows) =>
      planSampling({ config, sampler: 'euler', schedule: 'karras', steps: 5, follows }, offers),
    );
    expect(ours.steps.every(({ timestep }) => Number.isInteger(timestep))).toBe(false);
    expect(theirs.steps.every(({ timestep }) => Number.isInteger(timestep))).toBe(true);
    expect(theirs.initNoise).toBeGreaterThan(ours.initNoise);
  });

  test('with a strength ComfyUI runs all steps, as the last ones of more', () => {
    const request = { config, sampler: 'heun', steps: 6, strength: 0.5, follows: 'comfyui' } as const;
    // Two calls a step, but for the last.
    expect(planSampling(request, offers).steps).toHaveLength(11);
  });
});

describe('what an operation asks for', () => {
  const config = configOf('EulerDiscreteScheduler', SD);
  test.each([
    { sampler: 'toString', steps: 5 },
    { schedule: '__proto__', steps: 5 },
    { sampler: 'plms', schedule: 'karras', steps: 5 },
    { steps: 5, strength: 0.1 },
    { schedule: 'leading', steps: 1001 },
    { sampler: 'heun', schedule: 'simple', steps: 1001 },
  ])('%o is refused', (request) => {
    expect(codeOf(() => planSampling({ config, ...request }, offers))).toBe('invalid_operation');
  });
});
