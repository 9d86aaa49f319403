/** A job's work on the graph engine: its steps' checkpoints, one on the device at a time, and their expected and measured durations. */
import type { UsedAdditions } from '../src/core/additions.ts';
import { stageKey, type CourseStage, type StageSeconds } from '../src/core/job_progress.ts';
import type { DeviceReport, Stage } from '../src/core/job.ts';
import type { Estimate, EstimateRequest, LatentUpsampler, Upscaler, WeightVariant } from '../src/core/model.ts';
import { furtherKey } from '../src/core/further_checkpoints.ts';
import type { PlannedStep } from '../src/core/plan.ts';
import type { Engine } from '../src/engine/engine.ts';
import type { Loading } from '../src/engine/network_shelf.ts';
import { expectedSeconds, rateOf, type Speedometer, type StageUnits } from '../src/engine/self_measurement.ts';
import {
  asLatentUpsampler,
  asUpscaler,
  isSounding,
  isUpsampling,
  isUpscaling,
  type Loaded,
} from '../src/models/family.ts';

/** A step's opened checkpoint: headers, no weights yet. */
export interface StepModel {
  model: Loaded;
  variant: WeightVariant;
  request: EstimateRequest | null;
  estimate: Estimate | null;
}

export interface GraphWorkOptions {
  engine: Engine;
  speedometer: Speedometer;
  models: ReadonlyMap<string, StepModel>;
  /** Frees the device of anything but the graph engine's models, if they do not fit together. */
  makeRoom: (step: StepModel) => Promise<void>;
  /** Makes room for this model, keeping the job's other models that fit beside it. */
  hold: (model: StepModel['model']) => Promise<void>;
  /**
   * Uses exactly these stored additions beside a model; returns what of the LoRAs was left out.
   * @param words that may name embeddings
   */
  useAdditions: (model: StepModel['model'], additions: UsedAdditions, words: string) => Promise<string[]>;
}

/** Milliseconds between reports on loading. */
const TOLD_EVERY = 100;

/** The stage whose speed is measured in operations. */
const SAMPLE = 'sample';
/** An upscaler's stage; its operations are those of its one step. */
const UPSCALE = 'upscale';

export class GraphWork {
  /** Receives the share of the weights on the device, 0 to 1, whether a network has just finished loading, and whether one is about to start. */
  onLoading: ((share: number, isOver: boolean, begins: boolean) => void) | null = null;
  /** Seconds by stage, if measured on this device. */
  readonly expected: StageSeconds;
  readonly #options: GraphWorkOptions;
  readonly #units: ReadonlyMap<string, StageUnits>;
  /** Bytes of weights not on the device when the job started, by step and network. */
  readonly #toLoad: ReadonlyMap<string, number>;
  readonly #loaded = new Map<string, number>();
  #loadTold = -Infinity;
  /** Steps already done when this attempt started to sample. */
  #firstStep: number | null = null;
  #measuredFrom: { step: number; at: number } | null = null;

  static async prepare(options: GraphWorkOptions): Promise<GraphWork> {
    const { engine, speedometer, models } = options;
    const rates = await speedometer.known();
    const [first] = models.values();
    await options.hold(first.model);
    const toLoad = new Map<string, number>();
    const units = new Map<string, StageUnits>();
    let expected: StageSeconds = {};
    for (const [id, { model, variant, request, estimate }] of models) {
      const missing = request ? await model.toLoad({ ...request, weights: variant }) : new Map<string, number>();
      missing.forEach((bytes, network) => toLoad.set(`${id}/${network}`, bytes));
      if (!request || !estimate) {
        continue;
      }
      const pixels = request.width * request.height * request.batch_size;
      const bytes = [...missing.values()].reduce((sum, each) => sum + each, 0);
      const each = { load: bytes, encode: 1, decode: pixels, record: pixels };
      // The stages of an upscaler or of a sound say nothing about a picture's.
      if (!isUpscaling(model) && !isUpsampling(model) && !isSounding(model)) {
        units.set(id, each);
      }
      const rate = rateOf(rates, engine.report.precision, variant)?.perSecond;
      const sample = estimate.flops && rate ? (stepsOf(request) * estimate.flops.step) / rate : null;
      const { load, record, ...own } = expectedSeconds(rates, each, sample);
      expected = {
        ...expected,
        load: sum(expected.load, load),
        record: sum(expected.record, record),
        ...Object.fromEntries(
          Object.entries({ ...own, [UPSCALE]: sample }).map(([stage, seconds]) => [stageKey(id, stage), seconds]),
        ),
      };
    }
    return new GraphWork(options, toLoad, units, expected);
  }

  private constructor(
    options: GraphWorkOptions,
    toLoad: ReadonlyMap<string, number>,
    units: ReadonlyMap<string, StageUnits>,
    expected: StageSeconds,
  ) {
    this.#options = options;
    this.#toLoad = toLoad;
    this.#units = units;
    this.expected = expected;
  }

  /** Whether all weights were already on the device. */
  get isLoaded(): boolean {
    return this.#bytes === 0;
  }

  get device(): DeviceReport {
    return this.#options.engine.report;
  }

  /** Versions of the libraries that compute, for recordings. */
  get versions(): Record<string, string | undefined> {
    const { web, common } = this.#options.engine.runtime.ort.env.versions;
    return { 'onnxruntime-web': web ?? common };
  }

  /** A job's stages with their expected sampling steps. */
  withSteps(stages: readonly CourseStage[]): CourseStage[] {
    return stages.map((stage) => {
      const request = stage.step === null ? null : this.#options.models.get(stage.step)?.request;
      return stage.stage === SAMPLE && request ? { ...stage, steps: stepsOf(request) } : { ...stage };
    });
  }

  /** Starts a step; one without a checkpoint changes nothing. */
  async enter({ id }: PlannedStep): Promise<void> {
    const found = this.#options.models.get(id);
    if (found) {
      await this.#turnTo(found);
      this.#firstStep = null;
      this.#measuredFrom = null;
    }
  }

  /** The step's model with these additions, and sentences on what was left out. */
  async load(
    { id, parameters }: PlannedStep,
    additions: UsedAdditions = {},
  ): Promise<{ model: StepModel['model']; notices: string[] }> {
    const { model } = this.#of(id);
    model.onLoading = (loading) => {
      this.#tell(id, loading);
    };
    const notices = await this.#options.useAdditions(model, additions, wordsOf(parameters));
    return { notices, model };
  }

  /** The device is the model's that comes next; others stay where they fit. */
  async #turnTo(step: StepModel): Promise<void> {
    useBlocks(step);
    await this.#options.makeRoom(step);
    await this.#options.hold(step.model);
  }

  /** An upscaler that a step uses beside its own checkpoint: it has the device while it enlarges, and then hands it back. */
  lend({ id }: PlannedStep, ref: string): Upscaler {
    const model = asUpscaler(this.#of(furtherKey(id, ref)).model);
    return {
      summary: model.summary,
      provenance: () => model.provenance(),
      upscale: (image, request) => this.#lent(id, ref, () => model.upscale(image, request)),
    };
  }

  /** As {@link lend}, of latents. */
  lendUpsampler({ id }: PlannedStep, ref: string): LatentUpsampler {
    const model = asLatentUpsampler(this.#of(furtherKey(id, ref)).model);
    return {
      summary: model.summary,
      provenance: () => model.provenance(),
      upsample: (latents, frames, signal) => this.#lent(id, ref, () => model.upsample(latents, frames, signal)),
    };
  }

  async #lent<T>(id: string, ref: string, use: () => Promise<T>): Promise<T> {
    const key = furtherKey(id, ref);
    const further = this.#of(key);
    await this.#turnTo(further);
    further.model.onLoading = (loading) => {
      this.#tell(key, loading);
    };
    try {
      return await use();
    } finally {
      further.model.onLoading = null;
      await this.#turnTo(this.#of(id));
    }
  }

  /** What is needed to reproduce a step's result, for recordings; null without a checkpoint. */
  async provenance({ id, parameters }: PlannedStep): Promise<Record<string, unknown> | null> {
    const { models } = this.#options;
    const found = models.get(id);
    if (!found) {
      return null;
    }
    found.model.onLoading = null;
    const facts = await found.model.provenance();
    for (const [name, value] of Object.entries(parameters)) {
      const further = typeof value === 'string' ? models.get(furtherKey(id, value)) : undefined;
      if (further) {
        facts[name] = (await further.model.provenance()).checkpoint;
      }
    }
    return facts;
  }

  /** Saves the speed of this attempt's steps for the next estimate, except the first one, which also compiles. */
  observeStep(id: string, stage: Stage, step: number, steps: number): void {
    const found = this.#options.models.get(id);
    if (!found || stage !== SAMPLE) {
      return;
    }
    const at = performance.now();
    this.#firstStep ??= step;
    if (step > this.#firstStep) {
      this.#measuredFrom ??= { step, at };
    }
    if (this.#measuredFrom && step === steps && step > this.#measuredFrom.step) {
      const { engine, speedometer } = this.#options;
      const flops = (step - this.#measuredFrom.step) * (found.estimate?.flops?.step ?? 0);
      void speedometer.observe(engine.report.precision, found.variant, flops, (at - this.#measuredFrom.at) / 1000);
    }
  }

  /** Saves the stages' durations if one checkpoint did everything. @param seconds by {@link stageKey} */
  observe(seconds: Record<string, number>): void {
    const [only, ...others] = this.#units;
    if (only && others.length === 0) {
      const [id, units] = only;
      const own = (stage: string) => seconds[stage] ?? seconds[stageKey(id, stage)];
      const measured = Object.fromEntries(Object.keys(units).map((stage) => [stage, own(stage)]));
      void this.#options.speedometer.observeStages(units, measured);
    }
  }

  get #bytes(): number {
    return [...this.#toLoad.values()].reduce((sum, each) => sum + each, 0);
  }

  #tell(id: string, { network, bytes, total }: Loading): void {
    const isOver = bytes === total && total > 0;
    this.#loaded.set(`${id}/${network}`, total === 0 ? 1 : bytes / total);
    const now = performance.now();
    if (!isOver && bytes > 0 && now - this.#loadTold < TOLD_EVERY) {
      return;
    }
    this.#loadTold = now;
    const here = [...this.#toLoad].reduce((sum, [name, size]) => sum + size * (this.#loaded.get(name) ?? 0), 0);
    const all = this.#bytes;
    this.onLoading?.(all === 0 ? 1 : here / all, isOver, bytes === 0);
  }

  #of(id: string): StepModel {
    const found = this.#options.models.get(id);
    if (!found) {
      throw new Error(`Assertion failed: the step "${id}" has a checkpoint`);
    }
    return found;
  }
}

/** Has the model run as it was planned. */
export function useBlocks({ model, variant, estimate }: StepModel): void {
  const planned = estimate?.variants.filter((one) => one.variant === variant && one.runsHere) ?? [];
  model.useBlocks?.(new Map(Object.entries(planned.find(({ blocks }) => blocks)?.blocks?.networks ?? {})));
  model.usePlainConvolutions?.(planned.some(({ plainConvolutions }) => plainConvolutions));
}

function stepsOf({ steps, strength }: EstimateRequest): number {
  return Math.max(1, Math.floor(steps * (strength ?? 1)));
}

function sum(before: number | null | undefined, more: number | null): number | null {
  return before === undefined ? more : before === null || more === null ? null : before + more;
}

/** Prompts read in a syntax that has embeddings. */
function wordsOf({
  prompt,
  negative_prompt: negative,
  prompt_syntax: syntax = 'literal',
}: PlannedStep['parameters']): string {
  return syntax === 'literal' ? '' : [prompt, negative].filter((text) => typeof text === 'string').join('\n');
}
