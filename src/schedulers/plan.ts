/**
 * From what a checkpoint and an operation ask for to the steps that are run. Pure, and fast enough for every keystroke.
 */
import { StudioError } from '../core/errors.ts';
import { positionOf, sigmaAt } from '../predictions/noise_table.ts';
import { CLEAN, variancePreserving, type Level } from '../predictions/prediction.ts';
import type { Course, Point, Sampler, SamplerPlan } from '../samplers/sampler.ts';
import type { Points, Schedule } from '../schedules/schedule.ts';
import type { SchedulerConfig } from './config.ts';
import type { Choices, FlowCourse, Scheduler } from './scheduler.ts';

/** What there is to choose from. */
export interface Offers {
  samplers: Readonly<Record<string, Sampler>>;
  schedules: Readonly<Record<string, Schedule>>;
  schedulers: readonly Scheduler[];
}

export interface SamplingRequest {
  config: SchedulerConfig;
  /** Ids; undefined = what the checkpoint asks for. */
  sampler?: string | undefined;
  schedule?: string | undefined;
  steps: number;
  /** The share of the steps that is run on a given picture, above 0 to 1; undefined = all. */
  strength?: number | undefined;
  /** What the picture and its family add, for a flow. */
  flow?: Omit<FlowCourse, 'steps'> | undefined;
}

/**
 * @throws StudioError `invalid_operation` (unknown ids; a number of steps or a strength that leaves nothing sensible),
 *   `checkpoint_unsupported` (the checkpoint's scheduler is not known, or asks for something that is not done here)
 */
export function planSampling(request: SamplingRequest, offers: Offers): SamplerPlan {
  const { steps, strength = 1, flow } = request;
  const choices = choose(request.config, request.sampler, offers, flow && { ...flow, steps });
  const sampler = find(offers.samplers, choices.sampler, 'sampler');
  const path = layPath(choices, request.schedule, steps, offers);

  // As `get_timesteps` of diffusers' image-to-image pipelines, of which those of flows keep the step that is begun.
  const share = Math.min(steps * strength, steps);
  const kept = flow ? steps - Math.floor(steps - share) : Math.floor(share);
  if (kept < 1) {
    throw new StudioError(
      'invalid_operation',
      `A strength of ${strength} leaves none of the ${steps} steps to run; raise the strength or the number of steps.`,
    );
  }
  const course = courseAlong(path, choices, steps - kept);
  const plan = sampler.plan(course);

  const isFinite = plan.steps.every(({ inputScale, denoised, next, noise, remember }) =>
    [
      inputScale,
      denoised.x,
      denoised.model,
      next.x,
      next.model,
      ...next.history,
      noise?.scale ?? 0,
      remember.x,
      remember.model,
    ].every(Number.isFinite),
  );
  const initNoise = choices.initNoise(pointAt(path.noises[0], path.timesteps[0], choices), path.spacing);
  if (!isFinite || !Number.isFinite(initNoise)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The sampler ${sampler.id} would divide by zero on this checkpoint's noise levels; choose another sampler or schedule.`,
    );
  }
  return {
    ...plan,
    sampler: sampler.id,
    schedule: path.schedule,
    initNoise,
    addNoise: (i) => plan.steps[i]?.level ?? CLEAN,
  };
}

/**
 * What a checkpoint asks for itself, as ids.
 * @throws StudioError `checkpoint_unsupported` as {@link planSampling}
 */
export function defaultsOf(config: SchedulerConfig, offers: Offers): { sampler: string; schedule: string } {
  const choices = choose(config, undefined, offers);
  return { sampler: choices.sampler, schedule: defaultSchedule(choices) };
}

/** The scheduler that decides how `sampler` runs on a checkpoint: the checkpoint's own where it stands for it. */
export function choose(
  config: SchedulerConfig,
  sampler: string | undefined,
  offers: Offers,
  course?: FlowCourse,
): Choices {
  const { schedulers } = offers;
  const own = schedulers.find(({ className }) => className === config.className);
  if (sampler === undefined) {
    if (!own) {
      throw new StudioError(
        'checkpoint_unsupported',
        `This checkpoint asks for ${config.className}, which is not available; choose one of the samplers ${known(offers.samplers)}.`,
      );
    }
    return own.read(config, undefined, course);
  }
  find(offers.samplers, sampler, 'sampler');
  const wantsFlow = /^FlowMatch/.test(config.className);
  const able = schedulers.filter(({ isFlow = false }) => isFlow === wantsFlow);
  const scheduler = [...(own ? [own] : []), ...able].find(({ samplers }) => samplers.includes(sampler));
  if (!scheduler) {
    const others = [...new Set(able.flatMap(({ samplers }) => samplers))].sort().join(', ');
    throw new StudioError(
      'invalid_operation',
      `The sampler ${sampler} does not go with this checkpoint, whose noise levels are a flow's; choose ${others}.`,
    );
  }
  return scheduler.read(config, sampler, course);
}

/** The noise levels to go through, as a schedule laid them for one scheduler. */
export interface Path {
  schedule: string;
  /** One per requested step. */
  timesteps: readonly number[];
  /** One more than `timesteps`: the last is the level after the last step. */
  noises: readonly number[];
  /** Whether the points were chosen as training timesteps (and not as noise levels). */
  onGrid: boolean;
  /** The spacing in force; beside given noise levels, the one of the checkpoint or of the diffusers class. */
  spacing: string;
}

/**
 * The noise levels of `steps` steps.
 * @param asked id of the schedule; undefined = as the checkpoint asks
 */
export function layPath(
  choices: Choices,
  asked: string | undefined,
  steps: number,
  { schedules }: Pick<Offers, 'schedules'>,
): Path {
  const { table } = choices;
  const lay = (id: string, range: { max: number; min: number }): Points =>
    find(schedules, id, 'schedule').points({
      steps,
      table,
      grid: choices.grid,
      stepsOffset: choices.stepsOffset,
      range,
    });
  const noisesOf = (points: Points) =>
    'sigmas' in points ? points.sigmas : points.timesteps.map((timestep) => sigmaAt(table, timestep));

  const id = asked ?? defaultSchedule(choices);
  let range = { max: table.sigmas[table.length - 1], min: table.sigmas[0] };
  const spaced = (): Points => (choices.spaced ? { sigmas: choices.spaced(steps) } : lay(choices.spacing, range));
  if (asked === undefined && choices.levels?.ends === 'spacing') {
    const ends = noisesOf(spaced());
    range = { max: ends[0], min: ends[steps - 1] };
  }
  const points = asked === undefined && !choices.levels ? spaced() : lay(id, range);
  const onGrid = 'timesteps' in points;
  if (onGrid) {
    requireOrder(points.timesteps, id, table.length);
  }
  const noises = noisesOf(points);
  const finalNoise = asked === undefined || onGrid ? choices.finalNoise : 0;
  return {
    schedule: id,
    timesteps:
      onGrid && !choices.timestepAt
        ? points.timesteps
        : noises.map(choices.timestepAt ?? ((noise) => choices.timestepOf(positionOf(table, noise)))),
    noises: [...noises, finalNoise].map(Math.fround),
    onGrid,
    spacing: onGrid && asked !== undefined ? asked : choices.spacing,
  };
}

/** @param first index of the first step to run: above 0 when a given picture is only partly repainted */
function courseAlong(path: Path, choices: Choices, first: number): Course {
  const { timesteps, noises, onGrid } = path;
  const { table, targetOf, finalNoise, visits = (points) => [...points] } = choices;
  const total = timesteps.length;
  const stride = Math.floor(table.length / total);
  const isOnTable = onGrid && targetOf !== undefined;
  // Schedulers that aim at timesteps read the table itself, where zero terminal SNR may leave no signal at all.
  const onTable = (timestep: number): Point =>
    timestep < 0
      ? pointAt(finalNoise, timestep, choices)
      : pointAt(table.sigmas[timestep], timestep, choices, table.alphasCumprod[timestep]);
  const points = timesteps.map((timestep, i) =>
    isOnTable ? onTable(timestep) : pointAt(noises[i], timestep, choices),
  );
  const ends = noises.slice(1).map((noise, i) => pointAt(noise, i + 1 < total ? timesteps[i + 1] : 0, choices));
  const targets = points.map((point, i) => (isOnTable ? onTable(targetOf(point.timestep, stride)) : ends[i]));
  return {
    points: visits(points).slice(first),
    targets: visits(targets).slice(first),
    grid: isOnTable ? { stride, at: onTable } : null,
    options: { ...choices.options, firstOrderEnd: choices.endsInFirstOrder(total, ends[total - 1]) },
  };
}

/** @param alphaBar share of the picture in the variance, where it is known apart from `noise` */
function pointAt(noise: number, timestep: number, { prediction, scale }: Choices, alphaBar?: number): Point {
  const unit: Level =
    alphaBar === undefined ? prediction.levelAt(noise) : { alpha: Math.sqrt(alphaBar), sigma: Math.sqrt(1 - alphaBar) };
  const denoised = prediction.denoised(unit);
  const lambda = Math.log(unit.alpha / unit.sigma);
  if (scale === 'unit') {
    return { ...unit, noise, timestep, inputScale: 1, denoised, lambda };
  }
  const inputScale = variancePreserving(noise).alpha;
  return {
    alpha: 1,
    sigma: noise,
    noise,
    timestep,
    inputScale,
    denoised: { x: denoised.x * inputScale, model: denoised.model },
    lambda,
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

function defaultSchedule({ levels, spacing }: Choices): string {
  return levels?.schedule ?? spacing;
}

function find<T>(record: Readonly<Record<string, T>>, id: string, kind: string): T {
  if (!Object.hasOwn(record, id)) {
    throw new StudioError('invalid_operation', `There is no ${kind} "${id}"; the ${kind}s here are: ${known(record)}.`);
  }
  return record[id];
}

function known(record: Readonly<Record<string, unknown>>): string {
  return Object.keys(record).sort().join(', ');
}
