/** The checkpoints that are open, and those of them that hold memory of the device. */
import { own } from '../src/core/catalogue.ts';
import type { MemoryBudget, WeightVariant } from '../src/core/model.ts';
import type { Operation } from '../src/core/operation.ts';
import { furtherKey } from '../src/core/further_checkpoints.ts';
import { checkpointOf, furtherOf } from '../src/core/plan.ts';
import { courseOf } from '../src/core/steps.ts';
import type { Engine } from '../src/engine/engine.ts';
import { openCheckpoint } from '../src/models/family.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import type { ExecuteRequest } from './generation_api.ts';
import type { StepModel } from './graph_work.ts';
import { filesOf } from './source_files.ts';

export type Opened = StepModel['model'];

/** One that paints, one that enlarges between its passes, and one that does so afterwards. */
const REMEMBERED = 3;

export class OpenedModels {
  /** Those opened last: configurations and headers, no weights yet. */
  #opened: Opened[] = [];
  /** Those of the last job, with their networks on the device; the next job needs their memory. */
  #held: Opened[] = [];
  /** Bytes that their networks take, as estimated for their last job. */
  readonly #bytes = new WeakMap<Opened, number>();
  /** How their weights are run. */
  readonly #variants = new WeakMap<Opened, WeightVariant>();
  readonly #budget: () => MemoryBudget;

  constructor(budget: () => MemoryBudget) {
    this.#budget = budget;
  }

  /** The one whose networks are on the device. */
  get onDevice(): Opened | undefined {
    return this.#held.find(({ onDevice }) => onDevice.length > 0);
  }

  expect(model: Opened, bytes: number): void {
    this.#bytes.set(model, bytes);
  }

  /** @param variant how its weights are to be run; null where only its summary is asked for */
  async open(engine: Engine, source: CheckpointSource, variant: WeightVariant | null): Promise<Opened> {
    const known = [...this.#held, ...this.#opened].filter(
      (model) => variant === null || model.summary.variants.length === 1 || this.#variants.get(model) === variant,
    );
    // Served files cannot change while the page is open; others of the same name can.
    const served = known.find(({ summary }) => source.kind === 'builtin' && summary.ref === `builtin:${source.name}`);
    if (served) {
      return served;
    }
    const files = await filesOf(source);
    const same = known.find((model) => model.summary.ref === files.ref && model.isFrom(files));
    if (same) {
      return same;
    }
    const model = await openCheckpoint(files, engine, { weights: variant ?? 'full' });
    this.#variants.set(model, variant ?? 'full');
    this.#opened = [model, ...this.#opened].slice(0, REMEMBERED);
    return model;
  }

  /** What the steps of an operation ask for, by step, and what they use beside it, by {@link furtherKey}; only summaries are read. */
  async openAll(
    engine: Engine,
    operation: Operation,
    sources: ExecuteRequest['sources'],
  ): Promise<Map<string, { model: Opened; source: CheckpointSource }>> {
    const opened = new Map<string, { model: Opened; source: CheckpointSource }>();
    const config = own(catalogue.configs, operation.config);
    const course = config ? courseOf(config, catalogue) : '';
    for (const step of typeof course === 'string' ? [] : course.steps) {
      const { id, chunk } = step;
      if (own(operation.given ?? {}, id)) {
        continue;
      }
      const ref = chunk.meta.needs.checkpoint ? checkpointOf(step, operation) : null;
      const further = furtherOf(step, operation, catalogue).map((one) => [furtherKey(id, one.ref), one.ref]);
      for (const [key, named] of [...(ref === null ? [] : [[id, ref]]), ...further]) {
        const source = own(sources, named);
        if (source) {
          opened.set(key, { model: await this.open(engine, source, null), source });
        }
      }
    }
    return opened;
  }

  /**
   * The two engines share the GPU's memory by one rule: before one of them brings a model to it, the other one frees what it holds, unless both
   * fit the budget together.
   */
  async release(bytes: number): Promise<void> {
    if (this.#heldBytes + bytes > this.#budget().bytes) {
      await this.releaseAll();
    }
  }

  async releaseAll(): Promise<void> {
    for (const model of this.#held.splice(0)) {
      await model.release();
    }
  }

  get #heldBytes(): number {
    return this.#held.reduce((sum, model) => sum + this.#bytesOf(model), 0);
  }

  #bytesOf(model: Opened): number {
    return this.#bytes.get(model) ?? model.summary.memoryBytes;
  }

  /** Whether it is on the device beside what is held, or would fit there. */
  fitsBeside(model: Opened): boolean {
    return this.#held.includes(model) || this.#heldBytes + this.#bytesOf(model) <= this.#budget().bytes;
  }

  /**
   * Releases those that this one has no room beside; never while another job runs.
   * @param job the models of its steps, which stay where they fit
   */
  async hold(model: Opened, job: ReadonlyMap<string, StepModel>): Promise<void> {
    const ofJob = new Set(Array.from(job.values(), (step) => step.model));
    const goes = (held: Opened) => held !== model && (!ofJob.has(held) || !this.fitsBeside(model));
    for (const held of this.#held.filter(goes)) {
      this.#held = this.#held.filter((one) => one !== held);
      await held.release();
    }
    if (!this.#held.includes(model)) {
      this.#held.push(model);
    }
  }
}
