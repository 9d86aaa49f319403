/**
 * Turns what a checkpoint and an operation ask for into the steps to run. Pure, and fast enough to run on every keystroke.
 */
import { StudioError } from '../core/errors.ts';
import { positionOf, sigmaAt, sigmaLogAt } from '../predictions/noise_table.ts';
import { CLEAN, variancePreserving, type Level } from '../predictions/prediction.ts';
import type { Course, Point, Sampler, SamplerPlan } from '../samplers/sampler.ts';
import type { Points, Schedule } from '../schedules/schedule.ts';
import type { SchedulerConfig } from './config.ts';
import type { Choices, Convention, FlowCourse, Scheduler } from './scheduler.ts';

/** The available implementations. */
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
  /** Whose implementation to follow; undefined = the checkpoint's own class if it has the sampler, else another diffusers class, else ComfyUI. */
  follows?: Convention | undefined;
  steps: number;
  /**
   * The share of noise added to a given picture, above 0 to 1; undefined = all. diffusers runs that share of the steps, ComfyUI runs all of
   * them over that share.
   */
  strength?: number | undefined;
  /** What the picture's size and its family contribute, for a flow. */
  flow?: Omit<FlowCourse, 'steps'> | undefined;
}

/**
 * @throws StudioError `invalid_operation` (unknown ids; a number of steps or a strength that leaves no step to run),
 *   `checkpoint_unsupported` (the checkpoint's scheduler is unknown, or asks for something that is not implemented)
 */
export function planSampling(request: SamplingRequest, offers: Offers): SamplerPlan {
  const { steps, strength = 1, flow } = request;
  const { choices, follows } = chosen(request, offers, flow && { ...flow, steps });
  const sampler = find(offers.samplers, choices.sampler, 'sampler');
  const laid = choices.keepsSteps ? Math.floor(steps / strength) : steps;
  const path = layPath(choices, request.schedule, laid, offers);

  // As in `get_timesteps` of diffusers' image-to-image pipelines, where those of flows keep a partial step; ComfyUI makes a longer
  // schedule and runs its end.
  const total = path.timesteps.length;
  const share = choices.keepsSteps ? steps : Math.min(steps * strength, steps);
  const begun = flow && !flow.floors && !choices.keepsSteps ? steps - Math.floor(steps - share) : Math.floor(share);
  const kept = strength === 1 ? total : Math.min(begun, total);
  if (kept < 1) {
    throw new StudioError(
      'invalid_operation',
      `A strength of ${strength} leaves none of the ${steps} steps to run; raise the strength or the number of steps.`,
    );
  }
  const course = courseAlong(path, choices, sampler, total - kept);
  const plan = sampler.plan(course);

  const isFinite = plan.steps.every(({ inputScale, denoised, next, noise, remember }) =>
    [
      inputScale,
      denoised.x,
      denoised.model,
      noise?.scale ?? 0,
      ...[next, remember].flatMap(({ x, model, negative, history }) => [x, model, negative, ...history]),
    ].every(Number.isFinite),
  );
  // diffusers uses the schedule's noisiest level, whichever step runs first.
  const firstNoise = path.noises[choices.keepsSteps ? total - kept : 0];
  const initNoise = choices.initNoise(pointAt(firstNoise, 0, choices, sampler), path.spacing);
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
    follows,
    initNoise,
    range: sampler.drawsPath ? rangeOf(path.noises.slice(total - kept)) : null,
    start: choices.keepsSteps ? { ...plan.steps[0].level, sigma: initNoise } : plan.steps[0].level,
    addNoise: (i) => plan.steps[i]?.level ?? CLEAN,
  };
}

/**
 * What the checkpoint itself asks for, as ids.
 * @throws StudioError `checkpoint_unsupported` as {@link planSampling}
 */
export function defaultsOf(config: SchedulerConfig, offers: Offers): { sampler: string; schedule: string } {
  const choices = choose(config, undefined, offers);
  return { sampler: choices.sampler, schedule: defaultSchedule(choices) };
}

/** The scheduler that a request's sampler follows on a checkpoint, see {@link SamplingRequest.follows}. */
export function choose(
  config: SchedulerConfig,
  sampler: string | undefined,
  offers: Offers,
  course?: FlowCourse,
): Choices {
  return chosen({ config, sampler }, offers, course).choices;
}

function chosen(
  { config, sampler, follows }: Pick<SamplingRequest, 'config' | 'sampler' | 'follows'>,
  offers: Offers,
  course?: FlowCourse,
): { choices: Choices; follows: Convention } {
  const conventionOf = (scheduler: Scheduler): Convention => scheduler.follows ?? 'diffusers';
  const wantsFlow = /^FlowMatch/.test(config.className) || config.values.use_flow_sigmas === true;
  const schedulers = offers.schedulers
    .filter((scheduler) => follows === undefined || conventionOf(scheduler) === follows)
    // ComfyUI's comes last, as it fits every checkpoint.
    .sort((a, b) => Number(a.follows === 'comfyui') - Number(b.follows === 'comfyui'));
  const own = schedulers.find(
    // One class may sample flows and other checkpoints, which are schedulers of their own here.
    ({ className, isFlow = false }) => className === config.className && isFlow === wantsFlow,
  );
  if (sampler === undefined) {
    const scheduler = own ?? (follows === 'comfyui' ? schedulers[0] : undefined);
    if (!scheduler) {
      throw new StudioError(
        'checkpoint_unsupported',
        `This checkpoint asks for ${config.className}, which is not available; choose one of the samplers ${known(offers.samplers)}.`,
      );
    }
    return { choices: scheduler.read(config, undefined, course), follows: conventionOf(scheduler) };
  }
  find(offers.samplers, sampler, 'sampler');
  // ComfyUI's samples every kind, but of flows only those whose levels depend on a shift alone.
  const isShifted = config.className.startsWith('FlowMatchEuler');
  const able = schedulers.filter(
    ({ isFlow = false, ...scheduler }) =>
      isFlow === wantsFlow || (scheduler.follows === 'comfyui' && (isShifted || follows === 'comfyui')),
  );
  const scheduler = [...(own ? [own] : []), ...able].find(({ samplers }) => samplers.includes(sampler));
  if (!scheduler) {
    if (wantsFlow && follows === undefined) {
      const others = [...new Set(able.flatMap(({ samplers }) => samplers))].sort().join(', ');
      throw new StudioError(
        'invalid_operation',
        `The sampler ${sampler} does not go with this checkpoint, whose noise levels are a flow's; choose ${others}.`,
      );
    }
    const [tool, other] = follows === 'comfyui' ? ['ComfyUI', 'diffusers'] : ['diffusers', 'ComfyUI'];
    throw new StudioError(
      'invalid_operation',
      `The sampler ${sampler} is not one of ${tool}; follow ${other}, or choose another sampler.`,
    );
  }
  return { choices: scheduler.read(config, sampler, course), follows: conventionOf(scheduler) };
}

/** The noise levels to visit, as a schedule placed them for one scheduler. */
export interface Path {
  schedule: string;
  /** One per requested step. */
  timesteps: readonly number[];
  /** One more than `timesteps`: the last is the level after the last step. */
  noises: readonly number[];
  /** Whether the points were chosen as training timesteps, not as noise levels. */
  onGrid: boolean;
  /** The spacing in use; with given noise levels, that of the checkpoint or of the diffusers class. */
  spacing: string;
}

/**
 * The noise levels of `steps` steps.
 * @param asked id of the schedule; undefined = the checkpoint's own
 */
export function layPath(
  choices: Choices,
  asked: string | undefined,
  steps: number,
  { schedules }: Pick<Offers, 'schedules'>,
): Path {
  const { table, prediction } = choices;
  const id = asked ?? defaultSchedule(choices);
  const dropsPenultimate = choices.dropsPenultimate?.(id) ?? false;
  const lay = (id: string, range: { max: number; min: number }): Points =>
    find(schedules, id, 'schedule').points({
      steps: dropsPenultimate ? steps + 1 : steps,
      table,
      isFlow: prediction.id === 'flow_prediction',
      time: choices.time ?? {
        first: table.length - 1,
        last: 0,
        noiseAt: (timestep) => sigmaLogAt(table, timestep),
      },
      grid: choices.grid,
      stepsOffset: choices.stepsOffset,
      range,
    });
  const noisesOf = (points: Points) =>
    'sigmas' in points ? points.sigmas : points.timesteps.map((timestep) => sigmaAt(table, timestep));

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
  const all = noisesOf(points);
  const noises = dropsPenultimate ? all.slice(0, -1) : all;
  if (!onGrid && noises.some((noise, i) => i > 0 && !(noise < noises[i - 1]))) {
    throw noRoom(id, noises.length, table.length);
  }
  const finalNoise = asked === undefined || onGrid ? choices.finalNoise : 0;
  const timesteps =
    onGrid && !choices.timestepAt
      ? points.timesteps.slice(0, noises.length)
      : noises.map((noise) => timestepAt(choices, noise));
  return {
    schedule: id,
    timesteps,
    noises: [...noises, finalNoise].map(Math.fround),
    onGrid,
    spacing: onGrid && asked !== undefined ? asked : choices.spacing,
  };
}

function rangeOf(noises: readonly number[]): { least: number; greatest: number } {
  return { least: Math.min(...noises.filter((noise) => noise > 0)), greatest: Math.max(...noises) };
}

function timestepAt(choices: Choices, noise: number): number {
  return choices.timestepAt?.(noise) ?? choices.timestepOf(positionOf(choices.table, noise));
}

/** @param first index of the first step to run: above 0 when a given picture is only partly redrawn */
function courseAlong(path: Path, choices: Choices, sampler: Sampler, first: number): Course {
  const { timesteps, noises, onGrid } = path;
  const { table, targetOf, finalNoise, visits = (points) => [...points] } = choices;
  const total = timesteps.length;
  const stride = Math.floor(table.length / total);
  const isOnTable = onGrid && targetOf !== undefined;
  const pointOf = (noise: number, timestep: number, alphaBar?: number) =>
    pointAt(noise, timestep, choices, sampler, alphaBar);
  const at = (noise: number) => pointOf(noise, timestepAt(choices, noise));
  const isFlow = choices.prediction.id === 'flow_prediction';
  // Schedulers that aim for timesteps read the table itself, in which zero terminal SNR may leave no signal.
  const onTable = (timestep: number): Point =>
    timestep < 0
      ? pointOf(finalNoise, timestep)
      : pointOf(table.sigmas[timestep], timestep, table.alphasCumprod[timestep]);
  const points = timesteps.map((timestep, i) => (isOnTable ? onTable(timestep) : pointOf(noises[i], timestep)));
  const ends = noises.slice(1).map((noise, i) => pointOf(noise, i + 1 < total ? timesteps[i + 1] : 0));
  const targets = points.map((point, i) =>
    isOnTable ? onTable(targetOf(point.timestep, stride, points.at(i + 1)?.timestep)) : ends[i],
  );
  const time = choices.time ?? { first: table.length - 1, noiseAt: (timestep: number) => sigmaLogAt(table, timestep) };
  return {
    points: visits(points).slice(first),
    skipped: visits(points).slice(0, first),
    targets: visits(targets).slice(first),
    grid: isOnTable ? { stride } : null,
    options: { ...choices.options, firstOrderEnd: choices.endsInFirstOrder(total, ends[total - 1]) },
    at,
    atTimestep: onTable,
    atLambda: (lambda) => at(isFlow && sampler.readsFlow ? 1 / (1 + Math.exp(lambda)) : Math.exp(-lambda)),
    noiseAfter: (share) => time.noiseAt((1 - share) * (isFlow && !choices.time ? table.length : time.first)),
  };
}

/** @param alphaBar the picture's share of the variance, if known apart from `noise` */
function pointAt(
  noise: number,
  timestep: number,
  { prediction, scale }: Choices,
  { readsFlow }: Sampler,
  alphaBar?: number,
): Point {
  const unit: Level =
    alphaBar === undefined ? prediction.levelAt(noise) : { alpha: Math.sqrt(alphaBar), sigma: Math.sqrt(1 - alphaBar) };
  const denoised = prediction.denoised(unit);
  if (scale === 'unit') {
    const isFullScale = prediction.id === 'flow_prediction' && !readsFlow;
    const { alpha, sigma } = isFullScale ? { alpha: 1, sigma: noise } : unit;
    return { alpha, sigma, noise, timestep, inputScale: 1, denoised, lambda: Math.log(alpha / sigma), level: unit };
  }
  const inputScale = variancePreserving(noise).alpha;
  const level = { alpha: 1, sigma: noise };
  return {
    ...level,
    level,
    noise,
    timestep,
    inputScale,
    denoised: { x: denoised.x * inputScale, model: denoised.model },
    lambda: Math.log(unit.alpha / unit.sigma),
  };
}

/** With very many steps the spacings repeat timesteps or run off the table, and no step is possible. */
function requireOrder(timesteps: number[], schedule: string, length: number): void {
  const isOrdered = timesteps.every((timestep, i) => i === 0 || timestep < timesteps[i - 1]);
  if (!isOrdered || timesteps[0] > length - 1 || timesteps[timesteps.length - 1] < 0) {
    throw noRoom(schedule, timesteps.length, length);
  }
}

function noRoom(schedule: string, steps: number, length: number): StudioError {
  return new StudioError(
    'invalid_operation',
    `The schedule ${schedule} has no room for ${steps} steps on this checkpoint's ${length} timesteps; choose fewer steps.`,
  );
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
