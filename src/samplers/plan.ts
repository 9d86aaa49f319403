/**
 * From what a checkpoint and an operation ask for to the steps that are run. Pure, and fast enough for every keystroke.
 */
import { StudioError } from '../core/errors.ts';
import type { Points, Schedule } from '../schedules/schedule.ts';
import type { SchedulerConfig } from './config.ts';
import { positionOf, sigmaAt } from './config.ts';
import type { Path, PreparedSampler, Sampler, SamplerPlan } from './sampler.ts';

export type Samplers = Readonly<Record<string, Sampler>>;
export type Schedules = Readonly<Record<string, Schedule>>;

export interface SamplingRequest {
  config: SchedulerConfig;
  /** Ids; undefined = what the checkpoint asks for. */
  sampler?: string | undefined;
  schedule?: string | undefined;
  steps: number;
  /** The share of the steps that is run on a given picture, above 0 to 1; undefined = all. */
  strength?: number | undefined;
}

/**
 * @throws StudioError `invalid_operation` (unknown ids; a number of steps or a strength that leaves nothing sensible),
 *   `checkpoint_unsupported` (the checkpoint's scheduler is not known, or asks for something that is not done here)
 */
export function planSampling(request: SamplingRequest, samplers: Samplers, schedules: Schedules): SamplerPlan {
  const { steps, strength = 1 } = request;
  const sampler = findSampler(request.config, request.sampler, samplers);
  const prepared = sampler.prepare(request.config);
  const { path, schedule } = layPath(prepared, request.schedule, steps, schedules);

  // As `get_timesteps` of diffusers' image-to-image pipelines.
  const kept = Math.min(Math.floor(steps * strength), steps);
  if (kept < 1) {
    throw new StudioError(
      'invalid_operation',
      `A strength of ${strength} leaves none of the ${steps} steps to run; raise the strength or the number of steps.`,
    );
  }
  const plan = prepared.plan(path, steps - kept);

  const isFinite = plan.steps.every(({ inputScale, denoised, next, remember }) =>
    [inputScale, denoised.x, denoised.model, next.x, next.model, ...next.history, remember.x, remember.model].every(
      Number.isFinite,
    ),
  );
  if (!isFinite || !Number.isFinite(plan.initNoise)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The sampler ${sampler.id} would divide by zero on this checkpoint's noise levels; choose another sampler or schedule.`,
    );
  }
  return { ...plan, sampler: sampler.id, schedule };
}

/**
 * What a checkpoint asks for itself, as ids.
 * @throws StudioError `checkpoint_unsupported` as {@link planSampling}
 */
export function defaultsOf(config: SchedulerConfig, samplers: Samplers): { sampler: string; schedule: string } {
  const sampler = findSampler(config, undefined, samplers);
  return { sampler: sampler.id, schedule: defaultSchedule(sampler.prepare(config)) };
}

/**
 * The noise levels of `steps` steps.
 * @param asked id of the schedule; undefined = as the checkpoint asks
 */
export function layPath(
  prepared: PreparedSampler,
  asked: string | undefined,
  steps: number,
  schedules: Schedules,
): { path: Path; schedule: string } {
  const { table } = prepared;
  const lay = (id: string, range: { max: number; min: number }): Points => {
    const schedule = own(schedules, id);
    if (!schedule) {
      throw new StudioError(
        'invalid_operation',
        `There is no schedule "${id}"; the schedules here are: ${known(schedules)}.`,
      );
    }
    return schedule.points({ steps, table, grid: prepared.grid, stepsOffset: prepared.stepsOffset, range });
  };
  const sigmasOf = (points: Points) =>
    'sigmas' in points ? points.sigmas : points.timesteps.map((timestep) => sigmaAt(table, timestep));

  const id = asked ?? defaultSchedule(prepared);
  let range = { max: table.sigmas[table.length - 1], min: table.sigmas[0] };
  if (asked === undefined && prepared.karras === 'spacing') {
    const spaced = sigmasOf(lay(prepared.spacing, range));
    range = { max: spaced[0], min: spaced[steps - 1] };
  }
  const points = lay(id, range);
  const onGrid = 'timesteps' in points;
  if (onGrid) {
    requireOrder(points.timesteps, id, table.length);
  }
  const sigmas = sigmasOf(points);
  const finalSigma = asked === undefined || onGrid ? prepared.finalSigma : 0;
  return {
    schedule: id,
    path: {
      timesteps: onGrid ? points.timesteps : sigmas.map((sigma) => prepared.timestepOf(positionOf(table, sigma))),
      sigmas: [...sigmas, finalSigma].map(Math.fround),
      onGrid,
      spacing: onGrid && asked !== undefined ? asked : prepared.spacing,
    },
  };
}

/** With very many steps the spacings repeat timesteps or leave the table, where no step can be made. */
function requireOrder(timesteps: number[], schedule: string, length: number): void {
  const isOrdered = timesteps.every((timestep, i) => i === 0 || timestep < timesteps[i - 1]);
  if (!isOrdered || timesteps[0] > length - 1 || timesteps[timesteps.length - 1] < 0) {
    throw new StudioError(
      'invalid_operation',
      `The schedule ${schedule} has no room for ${timesteps.length} steps on this checkpoint's ${length} timesteps; choose fewer steps.`,
    );
  }
}

function findSampler(config: SchedulerConfig, id: string | undefined, samplers: Samplers): Sampler {
  if (id !== undefined) {
    const sampler = own(samplers, id);
    if (!sampler) {
      throw new StudioError(
        'invalid_operation',
        `There is no sampler "${id}"; the samplers here are: ${known(samplers)}.`,
      );
    }
    return sampler;
  }
  const sampler = Object.values(samplers).find(({ diffusersClass }) => diffusersClass === config.className);
  if (!sampler) {
    throw new StudioError(
      'checkpoint_unsupported',
      `This checkpoint asks for ${config.className}, which is not available; choose one of the samplers ${known(samplers)}.`,
    );
  }
  return sampler;
}

function defaultSchedule(prepared: PreparedSampler): string {
  return prepared.karras ? 'karras' : prepared.spacing;
}

function own<T>(record: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

function known(record: Readonly<Record<string, unknown>>): string {
  return Object.keys(record).sort().join(', ');
}
