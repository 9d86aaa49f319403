/**
 * How far a job is, as a share of its time, and how long it still takes. Pure: events and the clock are passed in.
 * Work is counted in seconds: those a stage took, is taking by the measurements so far, or is expected to take. Three invariants: the
 * fraction never goes back within an attempt; it is 1 at the end and only then; the time left is null or a finite number of at least 0.
 */
import type { StageDeclaration } from './chunk.ts';
import type { Progress, Stage } from './job.ts';

/** Expected seconds of each stage of one job, by {@link stageKey}; null or absent if nothing like it was measured on this device. */
export type StageSeconds = Record<string, number | null>;

/** One stage of one step; `load` and `record` belong to the job as a whole. */
export interface CourseStage {
  step: string | null;
  stage: Stage;
  /** Expected steps of the stage; null for one without steps. */
  steps: number | null;
  /** Its weight before anything is measured, in steps of the counted stage before or after it. */
  weight: number;
}

/** The weight of the executor's own stages before they are measured: about what loading a picture's networks costs. */
const LOAD: CourseStage = { step: null, stage: 'load', steps: null, weight: 4 };
/** The weight of loading a language model, in tokens. */
const LANGUAGE_WEIGHT = 100;
const RECORD: CourseStage = { step: null, stage: 'record', steps: null, weight: 0.5 };

/**
 * The stages of a job in order.
 * @param steps those with `loads` load a model of their own into another engine
 * @param loads whether weights must be loaded onto the device
 */
export function stagesOf(
  steps: readonly { id: string; stages: readonly StageDeclaration[]; loads?: boolean }[],
  loads: boolean,
): CourseStage[] {
  const own = steps.flatMap(({ id, stages, loads: loadsItself = false }) => [
    ...(loadsItself ? [{ ...LOAD, step: id, weight: LANGUAGE_WEIGHT }] : []),
    ...stages.map((stage) => ({
      step: id,
      stage: stage.id,
      steps: stage.unit === undefined ? null : 1,
      weight: stage.weight ?? 1,
    })),
  ]);
  return [...(loads ? [LOAD] : []), ...own, RECORD];
}

/** Names a stage of a job: `load`, `record`, or `<step>.<stage>`. */
export function stageKey(step: string | null, stage: Stage): string {
  return step === null ? stage : `${step}.${stage}`;
}

/** The share of a stage that must be done before the rest is extrapolated. */
const FAR_ENOUGH = 0.01;

/** The highest fraction reported before the end. */
const NEARLY = 0.999;

class Course {
  /** Seconds spent in it. */
  spent = 0;
  /** 0 to 1. */
  share = 0;
  /** The share done by an earlier attempt. */
  given = 0;
  steps: number;
  /** Seconds of this attempt's first step, which also compiles and so says nothing about the others. */
  first: { step: number; spent: number } | null = null;

  constructor(
    readonly declared: CourseStage,
    readonly expected: number | null,
  ) {
    this.steps = Math.max(1, declared.steps ?? 1);
  }

  get isCounted(): boolean {
    return this.declared.steps !== null;
  }

  /** Seconds per step: measured in this attempt, else as expected; null if nothing is known yet. */
  get perStep(): number | null {
    if (this.first) {
      const steps = this.share * this.steps - this.first.step;
      if (steps > 0) {
        return (this.spent - this.first.spent) / steps;
      }
    }
    return this.expected === null ? null : this.expected / this.steps;
  }

  /** Seconds of the whole stage. @param reference seconds per step of a counted stage */
  whole(reference: number): number {
    if (this.isCounted) {
      return (this.perStep ?? reference) * this.steps;
    }
    if (this.share - this.given > FAR_ENOUGH) {
      return (this.spent * (1 - this.given)) / (this.share - this.given);
    }
    return Math.max(this.expected ?? this.declared.weight * reference, this.spent);
  }
}

export class JobProgress {
  readonly #courses: Map<string, Course>;
  readonly #clock: () => number;
  #current: Course | null = null;
  #at: number;
  #fraction = 0;

  /**
   * @param stages of the job in order, see {@link stagesOf}
   * @param clock in seconds; it may stand still or even go back
   */
  constructor(stages: readonly CourseStage[], expected: StageSeconds, clock: () => number) {
    this.#courses = new Map(
      stages.map((stage) => {
        const key = stageKey(stage.step, stage.stage);
        return [key, new Course(stage, sane(expected[key] ?? null))];
      }),
    );
    this.#clock = clock;
    this.#at = clock();
  }

  /**
   * Weights are loaded whenever a network is needed, in between the other stages, so loading is tracked separately.
   * @param share 0 to 1
   * @param of the step that loads a model of its own; null for what the steps share
   */
  load(share: number, of: string | null = null): Progress {
    const course = this.#course(of, 'load');
    this.#enter(course);
    advance(course, share);
    return this.#report(course, 0, 0);
  }

  /**
   * @param of the step of the pipeline; null for `record`
   * @param steps how many the stage has; 0 where it has none
   */
  report(of: string | null, stage: Stage, step = 0, steps = 0): Progress {
    const course = this.#course(of, stage);
    const isNew = this.#current !== course && course.share === 0;
    this.#enter(course);
    const share = steps > 0 ? step / steps : 0;
    advance(course, share);
    if (isNew) {
      course.given = share;
    }
    for (const before of this.#before(course)) {
      before.share = 1;
    }
    if (course.isCounted) {
      course.steps = Math.max(1, steps);
      if (course.first === null && share > course.given) {
        course.first = { step, spent: course.spent };
      }
    }
    return this.#report(course, step, steps);
  }

  /** Everything is done and recorded. */
  finish(): Progress {
    this.#enter(this.#course(null, 'record'));
    this.#courses.forEach((course) => (course.share = 1));
    this.#fraction = 1;
    return { of: null, stage: 'record', step: 0, steps: 0, fraction: 1, secondsLeft: 0 };
  }

  /** Seconds of the finished stages that this attempt did from start to end, by {@link stageKey}. */
  get measured(): Record<string, number> {
    return Object.fromEntries(
      [...this.#courses]
        .filter(([, { share, given, spent }]) => share === 1 && given === 0 && spent > 0)
        .map(([key, { spent }]) => [key, spent]),
    );
  }

  /** A stage that the chunk did not declare counts for nothing. */
  #course(of: string | null, stage: Stage): Course {
    const key = stageKey(of, stage);
    const known = this.#courses.get(key);
    if (known) {
      return known;
    }
    const course = new Course({ step: of, stage, steps: null, weight: 0 }, null);
    this.#courses.set(key, course);
    return course;
  }

  /** Loading runs beside the other stages. */
  #before(course: Course): Course[] {
    const all = [...this.#courses.values()];
    return all
      .slice(0, all.indexOf(course))
      .filter(({ declared }) => stageKey(declared.step, declared.stage) !== 'load');
  }

  #enter(course: Course): void {
    const now = this.#clock();
    const passed = Math.max(0, now - this.#at);
    this.#at = now;
    (this.#current ?? course).spent += Number.isFinite(passed) ? passed : 0;
    this.#current = course;
  }

  #report({ declared: { step: of, stage } }: Course, step: number, steps: number): Progress {
    const all = [...this.#courses.values()];
    const counted = all.filter(({ isCounted }) => isCounted);
    const rates = counted.map(({ perStep }) => perStep);
    const reference = rates.find((rate) => rate !== null) ?? 1;
    let [done, left] = [0, 0];
    for (const course of all) {
      const whole = course.whole(reference);
      done += whole * course.share;
      left += whole * (1 - course.share);
    }
    const fraction = done + left > 0 ? done / (done + left) : 0;
    this.#fraction = Math.min(NEARLY, Math.max(this.#fraction, fraction));
    const load = this.#courses.get('load');
    const isLoadKnown = !load || load.share > 0 || load.expected !== null;
    const isOver = (at: number) => counted[at].share === 1;
    const isRateKnown = rates.some((rate) => rate !== null) && rates.every((rate, at) => rate !== null || isOver(at));
    const isKnown = isLoadKnown && isRateKnown;
    return { of, stage, step, steps, fraction: this.#fraction, secondsLeft: isKnown ? left : null };
  }
}

function advance(course: Course, share: number): void {
  course.share = Math.max(course.share, Math.min(1, sane(share) ?? 0));
}

function sane(value: number | null): number | null {
  return value !== null && Number.isFinite(value) && value >= 0 ? value : null;
}
