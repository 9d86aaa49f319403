/** One job in a worker, from its plan to its recorded results, step by step, each with the outputs of earlier ones. */
import type * as Comlink from 'comlink';
import * as v from 'valibot';
import { version } from '../package.json';
import type { Chunk, Outputs } from '../src/core/chunk.ts';
import { StudioError, assert, cancelled } from '../src/core/errors.ts';
import type { ResumePoint } from '../src/core/job.ts';
import { isWritten } from '../src/core/media.ts';
import { parse } from '../src/core/operation.ts';
import { isFile } from '../src/core/parameters.ts';
import { MadeFile } from '../src/core/remote.ts';
import type { Plan, PlannedStep } from '../src/core/plan.ts';
import { entityTypeOf } from '../src/core/steps.ts';
import { knownBytes } from '../src/formats/bytes.ts';
import { inscriptionOf, settingsOf } from '../src/formats/settings.ts';
import type { Medium } from '../src/media/medium.ts';
import { mediumNamed } from '../src/media/registry.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import type { EventSender } from './connection.ts';
import type { NewEntity, RecorderApi } from '../src/recorder/recorder_api.ts';
import { asUsed, takeFiles } from './given_files.ts';
import { madeElsewhere, sortedByContent } from './made_files.ts';
import { ProgressReport } from './progress_report.ts';
import { RecordedRun } from './recorded_run.ts';
import { contextOf } from './step_context.ts';
import type { Prepared, StepDesk } from './step_context.ts';

/** Loaded one by one, as needed. */
const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts');

/** The state of a {@link ResumePoint}: the current step, what it saved, and how an earlier main step made its result. */
const pointSchema = v.nullable(
  v.object({
    step: v.string(),
    kept: v.unknown(),
    made: v.fallback(v.nullish(v.record(v.string(), v.unknown())), null),
  }),
);

/** One file of an output. */
interface MadeResult {
  file: Blob;
  facts: Record<string, unknown>;
  /** What is told of one that another machine made; null = it was made here. */
  origin: Record<string, unknown> | null;
}

/** What is tried to be kept of a result where there is no room for all of it. */
const BEGINNINGS = [1 / 2, 1 / 4, 1 / 8, 1 / 16];

export class Execution {
  readonly #run: RecordedRun;
  readonly #progress: ProgressReport;
  /** What every step ran with. */
  readonly #settled: ResumePoint['parameters'];
  /** Outputs by step and name, in the form that later steps' parameters take. */
  readonly #given = new Map<string, Record<string, unknown>>();
  /** Metadata of results made by a server, by step. */
  readonly #origins = new Map<string, Record<string, unknown>>();
  readonly #started = performance.now();
  /** See {@link Execution.run}; everything else is recorded afterwards. */
  #opening: Promise<void> = Promise.resolve();
  /** What the step at work records beside its work. */
  #beside: Promise<unknown> = Promise.resolve();
  /** How the main step made its result; later steps add to it. */
  #made: Record<string, unknown> | null = null;
  readonly #notices: string[] = [];

  constructor(
    readonly prepared: Prepared,
    recorder: Comlink.Remote<RecorderApi>,
    readonly events: EventSender,
    readonly signal: AbortSignal,
    readonly canvas: () => OffscreenCanvas | null,
  ) {
    this.#run = new RecordedRun(recorder, events);
    this.#settled = settledOf(prepared.plan);
    this.#progress = new ProgressReport(prepared, events, signal);
  }

  /**
   * @param run the one an earlier attempt opened
   * @param point where to continue
   */
  async run(run: string | null, point: ResumePoint | null): Promise<{ run: string }> {
    const { plan, graph } = this.prepared;
    const operation = { ...plan.operation, parameters: { ...plan.operation.parameters } };
    if (plan.checkpoint !== '') {
      operation.checkpoint = plan.checkpoint;
    }
    const files = takeFiles(operation.parameters);
    if (graph?.isLoaded) {
      this.#progress.loaded();
    }
    if (graph) {
      graph.onLoading = (share, isOver, begins) => {
        this.#progress.load(share, isOver, begins);
      };
    }
    plan.notices.forEach((message) => {
      this.#notice(message);
    });
    try {
      const used: Record<string, Blob | Blob[]> = {};
      this.#opening = this.#open(run, point === null, operation, files, used);
      this.#opening.catch((error: unknown) => {
        this.#progress.fail(error);
      });
      if (run !== null || files.size > 0) {
        await this.#opening;
      }
      const state = v.safeParse(pointSchema, point?.state ?? null);
      const kept = state.success ? state.output : null;
      this.#made = kept?.made ?? null;
      // Steps before the current one have recorded their outputs.
      const first = plan.steps.findIndex(({ id }) => id === kept?.step);
      for (const [at, step] of plan.steps.entries()) {
        if (step.given !== null) {
          await this.#take(step, step.given);
          if (step.id === plan.main) {
            this.#made = askedOf(plan);
          }
        } else if (!(at < first && (await this.#readBack(step)))) {
          const isAtWork = kept?.step === step.id;
          if (!isAtWork && at > 0) {
            // From now on, an interrupted attempt resumes here, with the recorded outputs of earlier steps.
            this.#keep({ step: step.id, kept: null });
          }
          await this.#execute(step, used, isAtWork ? kept.kept : null);
        }
      }
      await this.#opening;
      await this.#beside;
      const closed = this.#run.close();
      // It crosses to the page meanwhile.
      this.#progress.finish();
      await closed;
      return { run: this.#run.id };
    } finally {
      // Whoever closes a failed run must know it.
      await this.#opening.catch(() => undefined);
      await this.#beside.catch(() => undefined);
      if (graph) {
        graph.onLoading = null;
      }
    }
  }

  /**
   * Opens the run, or continues an earlier attempt's, and records what is known before the first step. A fresh job does not wait for it:
   * the disk is slower than a network already on the device.
   * @param used receives the operation's files, by parameter, as they are used
   */
  async #open(
    run: string | null,
    isFirst: boolean,
    operation: Plan['operation'],
    files: ReturnType<typeof takeFiles>,
    used: Record<string, Blob | Blob[]>,
  ): Promise<void> {
    const { plan } = this.prepared;
    const first = () => this.#firstEntities(operation, [...files.keys()]);
    let areRecorded = false;
    if (!(run !== null && (await this.#goOnWith(run)))) {
      const opening = {
        job: this.prepared.jobId,
        config_name: plan.config,
        operation,
        expected_outputs: [
          'input',
          'config',
          ...plan.steps.flatMap(({ chunk }) => catalogue.chunks[chunk].meta.records ?? []),
          ...operation.record,
          ...plan.steps.flatMap((step) => Object.keys(outputsOf(step)).map((name) => this.#entityType(step, name))),
        ],
      };
      // In one message where networks keep this worker busy. Files are recorded before them, under names that they hold.
      areRecorded = files.size === 0 && this.prepared.graph !== null;
      await (areRecorded ? this.#run.openWith(opening, first()) : this.#run.open(opening));
    }
    this.events.send({ type: 'run', run: this.#run.id });
    this.#run.tellFirst();
    if (isFirst) {
      this.#keep(null);
    }
    for (const [name, { list, isList }] of files) {
      // Recorded as used, so that the run can be reproduced from its folder alone.
      const [blobs, names]: [Blob[], string[]] = [[], []];
      for (const source of list) {
        const takers = plan.steps.filter(({ parameters }) => name in parameters);
        const blob = await asUsed(source, name, takers, (message) => {
          this.#notice(message);
        });
        blobs.push(blob);
        names.push(await this.#run.record(`input_${name}`, blob));
      }
      used[name] = isList ? blobs : blobs[0];
      operation.parameters[name] = isList ? names : names[0];
    }
    for (const { type, content } of areRecorded ? [] : first()) {
      await this.#run.record(type, content);
    }
  }

  /** What is asked and how it is planned. @param files names of the operation's parameters that hold files */
  #firstEntities(operation: Plan['operation'], files: readonly string[]): NewEntity[] {
    const { plan } = this.prepared;
    const steps = plan.steps.map(({ id, chunk, parameters, wired, given, language }) => ({
      id,
      chunk,
      parameters: {
        ...parameters,
        ...pick(
          operation.parameters,
          Object.keys(parameters).filter((name) => files.includes(name)),
        ),
      },
      ...(Object.keys(wired).length > 0 ? { wired } : {}),
      ...(given === null ? {} : { is_given: true }),
      ...(language === null ? {} : { language }),
    }));
    const { pipeline, config, checkpoint } = plan;
    return [
      // Given outputs are recorded as if their steps had made them.
      { type: 'input', content: { ...operation, given: undefined } },
      { type: 'config', content: { pipeline, config, checkpoint, steps } },
    ];
  }

  /** False if the run cannot be continued, so that another one is opened. */
  async #goOnWith(run: string): Promise<boolean> {
    const outcome = await this.#run.resume(run);
    if (outcome === 'held') {
      this.#notice('The tab that began this did not let go of its recording, so it was recorded anew.');
    }
    return outcome === 'resumed';
  }

  /**
   * @param used the operation's files, by the parameters they replace
   * @param resume what the chunk saved in an earlier attempt
   */
  async #execute(step: PlannedStep, used: Record<string, Blob | Blob[]>, resume: unknown): Promise<void> {
    const chunk = await chunkFiles[`../chunks/${step.chunk}.ts`]();
    const wired = Object.fromEntries(
      Object.entries(step.wired).map(([name, wire]) => [name, this.#given.get(wire.step)?.[wire.output]]),
    );
    const names = Object.keys(used).filter((name) => name in step.parameters);
    const input = { ...step.parameters, ...pick(used, names), ...wired };
    // The plan has validated all values but those from earlier steps.
    const parameters =
      Object.keys(wired).length === 0
        ? input
        : parse(chunk.parameters, { ...input, operation: step.operation }, `What the step "${step.id}" was given`);
    await this.prepared.graph?.enter(step);
    const outputs = await chunk.execute(parameters, contextOf(step, resume, this.#desk(step, wired)));
    this.#progress.recording();
    const made = await this.#howMade(step, wired);
    if (step.id === this.prepared.plan.main) {
      this.#made = made;
    }
    await this.#take(step, outputs, this.#toldOf(step, made));
  }

  /** How a step makes its result, beside how the main one made its own. */
  async #howMade(step: PlannedStep, wired: Record<string, unknown>): Promise<Record<string, unknown>> {
    const provenance = (await this.prepared.graph?.provenance(step)) ?? {};
    const settled = { ...step.parameters, ...this.#settled[step.id], ...wired };
    const own = {
      // The settled values, so a resumed run records the same as an undisturbed one.
      parameters: Object.fromEntries(Object.entries(settled).filter(([, value]) => typeof value !== 'object')),
      ...(step.language === null ? {} : { language_model: step.language }),
      ...this.#origins.get(step.id),
      ...provenance,
    };
    return this.#made ? { ...this.#made, [step.id]: own } : { ...own, seed: settled.seed };
  }

  #toldOf(step: PlannedStep, made: Record<string, unknown>): Record<string, unknown> {
    const { plan } = this.prepared;
    return { operation: plan.operation.operation, config: plan.config, chunk: step.chunk, step: step.id, ...made };
  }

  /** Records what there is of an output of a step that ends without it. */
  async #keepPart(step: PlannedStep, wired: Record<string, unknown>, output: string, value: unknown): Promise<void> {
    const medium = mediumNamed(outputsOf(step)[output].medium);
    assert(medium && medium.accepts(value), `the part is of the medium that "${output}" is`);
    const made = { file: await medium.encode(value), facts: medium.facts(value), origin: null };
    const told = { ...this.#toldOf(step, await this.#howMade(step, wired)), is_part: true };
    await this.#recordResult(step, output, medium, made, { ...told, index: 0 });
  }

  /** Records a step's outputs in the order its chunk declares them, and keeps them for later steps. */
  async #take(step: PlannedStep, given: Outputs, metadata: Record<string, unknown> = {}): Promise<void> {
    const kept: Record<string, unknown> = {};
    const declared = outputsOf(step);
    const outputs = await sortedByContent(given, declared, (sentence) => this.#notice(sentence));
    const isLastStep = step === this.prepared.plan.steps.at(-1);
    const last = Object.keys(declared).findLast(
      (name) => !declared[name].many || (outputs[name] as unknown[]).length > 0,
    );
    for (const [name, { medium: id, many }] of Object.entries(declared)) {
      const medium = mediumNamed(id);
      assert(medium, `there is a medium "${id}"`);
      const values = many ? outputs[name] : [outputs[name]];
      assert(Array.isArray(values), `"${name}" of the chunk "${step.chunk}" is a list`);
      const made = await Promise.all(
        values.map(async (value: unknown) => {
          // Outputs the person brings arrive in the form of parameters.
          if (step.given !== null && value instanceof Blob) {
            return { file: value, facts: {}, origin: null };
          }
          if (value instanceof MadeFile) {
            return madeElsewhere(value, medium, step.id);
          }
          if (!medium.accepts(value)) {
            throw new StudioError(
              'result_invalid',
              `The step "${step.id}" gave no ${medium.label.en.toLowerCase()} where one was expected; try again, or with other settings.`,
            );
          }
          return { file: await medium.encode(value), facts: medium.facts(value), origin: null };
        }),
      );
      const files: unknown[] = [];
      for (const [index, one] of made.entries()) {
        if (this.signal.aborted) {
          throw cancelled();
        }
        const given = step.given === null ? {} : { operation: step.operation, step: step.id, is_given: true };
        // What is recorded beside it comes before it, or the job fails without it.
        await this.#beside;
        const isLast = isLastStep && name === last && index === made.length - 1;
        await this.#recordResult(step, name, medium, one, { ...metadata, ...given, index }, isLast);
        files.push(isWritten(id) ? await one.file.text() : one.file);
      }
      kept[name] = many ? files : files[0];
    }
    this.#given.set(step.id, kept);
  }

  /**
   * Records one file of an output with what is told of it, which is also written into it where the person wants that.
   * @param isLast nothing of the job is recorded after it
   */
  async #recordResult(
    step: PlannedStep,
    output: string,
    medium: Medium,
    { file, facts, origin }: MadeResult,
    metadata: Record<string, unknown>,
    isLast = false,
  ): Promise<void> {
    const all = {
      ...metadata,
      ...facts,
      ...origin,
      versions: { darkroom: version, ...this.prepared.graph?.versions },
      ...(step.checkpoint === null ? {} : { device: this.prepared.graph?.device }),
      notices: this.#notices,
      ms: Math.round(performance.now() - this.#started),
    };
    const inscribe = origin && medium.keepsOrigin ? null : medium.inscribe;
    const settings = this.prepared.inscribes && inscribe ? settingsOf(all) : null;
    const inscribed = settings && inscribe ? await inscribe(file, inscriptionOf(settings)) : file;
    const type = this.#entityType(step, output);
    await this.#opening;
    try {
      const content = knownBytes(inscribed) ?? inscribed;
      await (origin
        ? this.#run.recordMade(type, inscribed, all)
        : isLast
          ? this.#run.recordLast(type, content, all)
          : this.#run.record(type, content, all));
    } catch (error) {
      if (error instanceof StudioError && error.code === 'storage_full') {
        await this.#recordBeginning(type, medium, file, all);
      }
      throw error;
    }
  }

  /** Where the disk has no room for a whole result, records as much of its beginning as fits. */
  async #recordBeginning(type: string, medium: Medium, file: Blob, told: Record<string, unknown>): Promise<void> {
    for (const share of BEGINNINGS) {
      const value = await medium.beginning?.(file, share);
      if (!value) {
        return;
      }
      const all = { ...told, ...medium.facts(value), is_part: true };
      const settings = this.prepared.inscribes && medium.inscribe ? settingsOf(all) : null;
      const part = await medium.encode(value);
      const inscribed = settings && medium.inscribe ? await medium.inscribe(part, inscriptionOf(settings)) : part;
      try {
        await this.#run.record(type, inscribed, all);
        this.#notice(
          'There was no room for the whole video; as much of its beginning as fitted is kept as a shorter one.',
        );
        return;
      } catch (error) {
        if (!(error instanceof StudioError && error.code === 'storage_full')) {
          throw error;
        }
      }
    }
  }

  /** Restores a step's outputs from the recordings of an earlier attempt; false if something is missing. */
  async #readBack(step: PlannedStep): Promise<boolean> {
    const kept: Record<string, unknown> = {};
    for (const [name, { medium, many }] of Object.entries(outputsOf(step))) {
      const recorded = await this.#run.readBack(this.#entityType(step, name), step.id);
      if (recorded.length === 0) {
        return false;
      }
      const files = isWritten(medium) ? await Promise.all(recorded.map((file) => file.text())) : recorded;
      kept[name] = many ? files : files[0];
    }
    this.#given.set(step.id, kept);
    return true;
  }

  #entityType(step: PlannedStep, output: string): string {
    const { steps, operation } = this.prepared.plan;
    const isResult = step === steps.at(-1) && operation.until === undefined;
    return entityTypeOf(step.id, catalogue.chunks[step.chunk].meta, output, isResult);
  }

  /** What a chunk can do while its step runs. */
  #desk(step: PlannedStep, wired: Record<string, unknown>): StepDesk {
    const { id } = step;
    const { events, signal, canvas, prepared } = this;
    return {
      prepared,
      events,
      signal,
      canvas,
      keep: (kept) => {
        this.#keep({ step: id, kept });
      },
      notice: (message) => {
        this.#notice(message);
      },
      report: (stage, done, steps) => {
        this.#progress.report(id, stage, done, steps);
      },
      load: (share) => {
        this.#progress.loadOf(id, share);
      },
      place: (server, ahead) => {
        this.#progress.place(server, ahead);
      },
      madeBy: (origin) => {
        this.#origins.set(id, origin);
      },
      keepPart: (output, value) => this.#keepPart(step, wired, output, value),
      record: (type, content, metadata) => this.#record(type, content, { step: id, ...metadata }),
      recordBeside: (type, content, metadata) => {
        const recorded = this.#record(type, content, { step: id, ...metadata });
        this.#beside = Promise.all([this.#beside, recorded]);
        this.#beside.catch((error: unknown) => {
          this.#progress.fail(error);
        });
      },
    };
  }

  #notice(message: string): void {
    this.#notices.push(message);
    this.events.send({ type: 'notice', message });
  }

  #keep(state: { step: string; kept: unknown } | null): void {
    const made = this.#made ? { made: this.#made } : {};
    this.events.send({
      type: 'resume_point',
      point: { parameters: this.#settled, state: state && { ...state, ...made } },
    });
  }

  async #record(type: string, content: Blob | string | object, metadata?: Record<string, unknown>): Promise<string> {
    await this.#opening;
    return this.#run.record(type, content, metadata);
  }
}

/** How a given result of the main step was made, as far as known: what was asked for. */
function askedOf({ operation: { parameters } }: Plan): Record<string, unknown> {
  const plain = Object.entries(parameters).filter(([, value]) => typeof value !== 'object' && !isFile(value));
  return { parameters: Object.fromEntries(plain), seed: parameters.seed };
}

function outputsOf({ chunk }: PlannedStep) {
  return catalogue.chunks[chunk].meta.outputs;
}

/** The parameters of a plan's steps, every value settled; files stay in the operation. */
function settledOf({ steps, variant }: Plan): ResumePoint['parameters'] {
  return Object.fromEntries(
    steps.map(({ id, parameters, checkpoint }) => {
      const settled = { ...parameters };
      takeFiles(settled);
      // `auto` depends on what fits right now; the next attempt might pick another variant, and so make another picture.
      return [id, checkpoint !== null && 'weights' in settled ? { ...settled, weights: variant } : settled];
    }),
  );
}

function pick(record: Record<string, unknown>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.map((name) => [name, record[name]]));
}
