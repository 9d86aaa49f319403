/**
 * How far a job is, as a share of the time that it takes, and how long it still takes. Pure: it is told what happens and what the time is.
 *
 * Work is counted in seconds: those that a stage took, takes by what was measured of it so far, or is expected to take. The laws: within an
 * attempt the fraction never goes back, it is 1 at the end and only then, and the time left is null or a finite number from 0.
 */
import type { Progress, Stage } from './job.ts';

const STAGES: readonly Stage[] = ['load', 'encode', 'sample', 'decode', 'record'];

/** Seconds that are expected of each stage of one job; null where nothing like it was ever measured on this device. */
export type StageSeconds = Record<Stage, number | null>;

/** What an unmeasured stage counts as, in sampling steps. It has to count for something, and the picture's networks cost about that. */
const IN_STEPS: Record<Exclude<Stage, 'sample'>, number> = { load: 4, encode: 1, decode: 2, record: 0.5 };

/** A share of a stage from which the rest is judged. */
const FAR_ENOUGH = 0.01;

/** Before the end this is the most that is said. */
const NEARLY = 0.999;

interface Course {
  expected: number | null;
  /** Seconds that went by within it. */
  spent: number;
  /** 0 to 1. */
  share: number;
  /** The share that an earlier attempt had done. */
  given: number;
}

export class JobProgress {
  readonly #courses: Record<Stage, Course>;
  readonly #clock: () => number;
  #stage: Stage | null = null;
  #at: number;
  #fraction = 0;
  #steps: number;
  /** Of the first step of this attempt, which also compiles and says nothing of the others. */
  #first: { step: number; spent: number } | null = null;

  /**
   * @param steps of sampling that are expected
   * @param clock in seconds; it may stand still, and is not trusted to run forward
   */
  constructor(expected: StageSeconds, steps: number, clock: () => number) {
    this.#steps = Math.max(1, steps);
    const course = (stage: Stage): Course => ({ expected: sane(expected[stage]), spent: 0, share: 0, given: 0 });
    this.#courses = {
      load: course('load'),
      encode: course('encode'),
      sample: course('sample'),
      decode: course('decode'),
      record: course('record'),
    };
    this.#clock = clock;
    this.#at = clock();
  }

  /** Weights are loaded whenever a network is needed, between the other stages, so they are told apart from them. @param share 0 to 1 */
  load(share: number): Progress {
    this.#enter('load');
    this.#advance('load', share);
    return this.#report('load', 0, 0);
  }

  /** @param steps how many the stage has; 0 where it has none */
  report(stage: Exclude<Stage, 'load'>, step = 0, steps = 0): Progress {
    const isNew = this.#stage !== stage && this.#courses[stage].share === 0;
    this.#enter(stage);
    const share = steps > 0 ? step / steps : 0;
    this.#advance(stage, share);
    if (isNew) {
      this.#courses[stage].given = share;
    }
    for (const before of STAGES.slice(1, STAGES.indexOf(stage))) {
      this.#courses[before].share = 1;
    }
    if (stage === 'sample') {
      this.#steps = Math.max(1, steps);
      if (this.#first === null && share > this.#courses.sample.given) {
        this.#first = { step, spent: this.#courses.sample.spent };
      }
    }
    return this.#report(stage, step, steps);
  }

  /** Everything is done and recorded. */
  finish(): Progress {
    this.#enter('record');
    STAGES.forEach((stage) => (this.#courses[stage].share = 1));
    this.#fraction = 1;
    return { stage: 'record', step: 0, steps: 0, fraction: 1, secondsLeft: 0 };
  }

  /** Seconds that stages took which are over, and of which this attempt did everything. */
  get measured(): Partial<Record<Stage, number>> {
    return Object.fromEntries(
      STAGES.filter((stage) => {
        const { share, given, spent } = this.#courses[stage];
        return share === 1 && given === 0 && spent > 0;
      }).map((stage) => [stage, this.#courses[stage].spent]),
    );
  }

  #enter(stage: Stage): void {
    const now = this.#clock();
    const passed = Math.max(0, now - this.#at);
    this.#at = now;
    this.#courses[this.#stage ?? stage].spent += Number.isFinite(passed) ? passed : 0;
    this.#stage = stage;
  }

  #advance(stage: Stage, share: number): void {
    const course = this.#courses[stage];
    course.share = Math.max(course.share, Math.min(1, sane(share) ?? 0));
  }

  #report(stage: Stage, step: number, steps: number): Progress {
    const perStep = this.#perStep();
    let [done, left] = [0, 0];
    for (const each of STAGES) {
      const whole = this.#whole(each, perStep ?? 1);
      const { share } = this.#courses[each];
      done += whole * share;
      left += whole * (1 - share);
    }
    const fraction = done + left > 0 ? done / (done + left) : 0;
    this.#fraction = Math.min(NEARLY, Math.max(this.#fraction, fraction));
    const { load } = this.#courses;
    const isKnown = perStep !== null && (load.share === 1 || load.expected !== null || load.share > 0);
    return { stage, step, steps, fraction: this.#fraction, secondsLeft: isKnown ? left : null };
  }

  /** Seconds of all of a stage. */
  #whole(stage: Stage, perStep: number): number {
    const { expected, spent, share, given } = this.#courses[stage];
    if (stage === 'sample') {
      return perStep * this.#steps;
    }
    if (share - given > FAR_ENOUGH) {
      return (spent * (1 - given)) / (share - given);
    }
    return Math.max(expected ?? IN_STEPS[stage] * perStep, spent);
  }

  /** Seconds of a sampling step: as this attempt measured it, else as expected; null where nothing is known yet. */
  #perStep(): number | null {
    const { expected, spent, share } = this.#courses.sample;
    if (this.#first) {
      const steps = share * this.#steps - this.#first.step;
      if (steps > 0) {
        return (spent - this.#first.spent) / steps;
      }
    }
    return expected === null ? null : expected / this.#steps;
  }
}

function sane(value: number | null): number | null {
  return value !== null && Number.isFinite(value) && value >= 0 ? value : null;
}
