/** One job in a worker, from its plan to its recorded results: step by step, each with what the steps before it gave. */
import type * as Comlink from 'comlink';
import * as v from 'valibot';
import { version } from '../package.json';
import type { Chunk, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError, assert, cancelled } from '../src/core/errors.ts';
import type { ResumePoint, Stage } from '../src/core/job.ts';
import { JobProgress, stagesOf } from '../src/core/job_progress.ts';
import { isWritten } from '../src/core/media.ts';
import { parse } from '../src/core/operation.ts';
import { MadeFile } from '../src/core/remote.ts';
import type { Plan, PlannedStep } from '../src/core/plan.ts';
import type { SpeechService, StepSpeech } from '../src/core/speech_service.ts';
import type { ModelLoading, StepText, TextService } from '../src/core/text_service.ts';
import { entityTypeOf } from '../src/core/steps.ts';
import { inscriptionOf, settingsOf } from '../src/formats/settings.ts';
import { decodePicture } from '../src/formats/picture.ts';
import { openEngine } from '../src/engines/engine.ts';
import type { Medium } from '../src/media/medium.ts';
import { mediumNamed, recogniseFile } from '../src/media/registry.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import type { EventSender } from './connection.ts';
import type { GraphWork } from './graph_work.ts';
import type { JobPage } from './generation_api.ts';
import type { RecorderApi } from '../src/recorder/recorder_api.ts';
import { asUsed, takeFiles } from './given_files.ts';
import { RecordedRun } from './recorded_run.ts';

/** Loaded one by one, when it is their turn. */
const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts');

/** What a job runs with once its plan is made. */
export interface Prepared {
  plan: Plan;
  /** The checkpoints of its steps on the graph engine; null where no step needs one. */
  graph: GraphWork | null;
  /** The language engine, which is started by the first step that asks it. */
  language: TextService & SpeechService;
  /** Whether results are recorded with their settings in them. */
  inscribes: boolean;
  page: Pick<JobPage, 'secret' | 'servers' | 'develop'>;
}

/** The state of a {@link ResumePoint}: which step was at work, and what it kept. */
const pointSchema = v.nullable(v.object({ step: v.string(), kept: v.unknown() }));

export class Execution {
  readonly #run: RecordedRun;
  readonly #progress: JobProgress;
  #at: { step: string; stage: Stage; place: [step: number, steps: number] } | null = null;
  /** What every step ran with. */
  readonly #settled: ResumePoint['parameters'];
  /** What every step gave, by step and output, as the parameters of later steps take it. */
  readonly #given = new Map<string, Record<string, unknown>>();
  readonly #started = performance.now();
  /** See {@link Execution.run}; everything else is recorded after it. */
  #opening: Promise<void> = Promise.resolve();
  /** Why the run could not be opened. */
  #failure: StudioError | null = null;
  readonly #notices: string[] = [];

  constructor(
    readonly prepared: Prepared,
    recorder: Comlink.Remote<RecorderApi>,
    readonly events: EventSender,
    readonly signal: AbortSignal,
    readonly canvas: () => OffscreenCanvas | null,
  ) {
    const { plan, graph } = prepared;
    this.#run = new RecordedRun(recorder, events);
    this.#settled = settledOf(plan);
    const run = plan.steps
      .filter(({ given }) => given === null)
      .map(({ id, chunk, language }) => ({
        id,
        stages: catalogue.chunks[chunk].meta.stages,
        loads: language !== null,
      }));
    this.#progress = new JobProgress(
      graph ? graph.withSteps(stagesOf(run, true)) : stagesOf(run, false),
      graph?.expected ?? {},
      seconds,
    );
  }

  /**
   * @param run that an earlier attempt opened
   * @param point from where to go on
   */
  async run(run: string | null, point: ResumePoint | null): Promise<{ run: string }> {
    const { plan, graph } = this.prepared;
    const operation = { ...plan.operation, parameters: { ...plan.operation.parameters } };
    if (plan.checkpoint !== '') {
      operation.checkpoint = plan.checkpoint;
    }
    const files = takeFiles(operation.parameters);
    if (graph?.isLoaded) {
      this.#progress.load(1);
    }
    if (graph) {
      graph.onLoading = (share, isOver, begins) => {
        this.#load(share, isOver, begins);
      };
    }
    plan.notices.forEach((message) => {
      this.#notice(message);
    });
    try {
      const used: Record<string, Blob | Blob[]> = {};
      this.#opening = this.#open(run, point === null, operation, files, used);
      this.#opening.catch((error: unknown) => {
        this.#failure = StudioError.from(error);
      });
      if (run !== null || files.size > 0) {
        await this.#opening;
      }
      const state = v.safeParse(pointSchema, point?.state ?? null);
      const kept = state.success ? state.output : null;
      // Steps before the one that was at work have recorded what they gave.
      const first = plan.steps.findIndex(({ id }) => id === kept?.step);
      for (const [at, step] of plan.steps.entries()) {
        if (step.given !== null) {
          await this.#take(step, step.given);
        } else if (!(at < first && (await this.#readBack(step)))) {
          const isAtWork = kept?.step === step.id;
          if (!isAtWork && at > 0) {
            // From now on an attempt that is broken off goes on here, with what the steps before have recorded.
            this.#keep({ step: step.id, kept: null });
          }
          await this.#execute(step, used, isAtWork ? kept.kept : null);
        }
      }
      await this.#opening;
      await this.#run.close();
      this.events.send({ type: 'progress', progress: this.#progress.finish() });
      graph?.observe(this.#progress.measured);
      return { run: this.#run.id };
    } finally {
      // Whoever ends a run that failed has to know of it.
      await this.#opening.catch(() => undefined);
      if (graph) {
        graph.onLoading = null;
      }
    }
  }

  /**
   * Opens the run, or goes on with that of an earlier attempt, and records what is known before the first step. A fresh job does not wait for
   * it: the disk takes longer than a network that is on the device.
   * @param used takes the operation's files, by parameter, as they are used
   */
  async #open(
    run: string | null,
    isFirst: boolean,
    operation: Plan['operation'],
    files: ReturnType<typeof takeFiles>,
    used: Record<string, Blob | Blob[]>,
  ): Promise<void> {
    const { plan } = this.prepared;
    if (!(run !== null && (await this.#goOnWith(run)))) {
      await this.#run.open({
        config_name: plan.config,
        operation,
        expected_outputs: [
          'input',
          'config',
          ...plan.steps.flatMap(({ chunk }) => catalogue.chunks[chunk].meta.records ?? []),
          ...operation.record,
          ...plan.steps.flatMap((step) => Object.keys(outputsOf(step)).map((name) => this.#entityType(step, name))),
        ],
      });
    }
    this.events.send({ type: 'run', run: this.#run.id });
    if (isFirst) {
      this.#keep(null);
    }
    for (const [name, { list, isList }] of files) {
      // Recorded as what is used, so that the run can be made again from its folder alone.
      const [blobs, names]: [Blob[], string[]] = [[], []];
      for (const source of list) {
        const blob = await asUsed(source, name, plan.steps, (message) => {
          this.#notice(message);
        });
        blobs.push(blob);
        names.push(await this.#run.record(`input_${name}`, blob));
      }
      used[name] = isList ? blobs : blobs[0];
      operation.parameters[name] = isList ? names : names[0];
    }
    // What was given is recorded as what its steps gave.
    await this.#run.record('input', { ...operation, given: undefined });
    await this.#run.record('config', {
      pipeline: plan.pipeline,
      config: plan.config,
      checkpoint: plan.checkpoint,
      steps: plan.steps.map(({ id, chunk, parameters, wired, given, language }) => ({
        id,
        chunk,
        parameters: {
          ...parameters,
          ...pick(
            operation.parameters,
            Object.keys(parameters).filter((name) => files.has(name)),
          ),
        },
        ...(Object.keys(wired).length > 0 ? { wired } : {}),
        ...(given === null ? {} : { is_given: true }),
        ...(language === null ? {} : { language }),
      })),
    });
  }

  /** False when the run cannot be gone on with, so that another one is opened. */
  async #goOnWith(run: string): Promise<boolean> {
    const outcome = await this.#run.resume(run);
    if (outcome === 'held') {
      this.#notice('The tab that began this did not let go of its recording, so it was recorded anew.');
    }
    return outcome === 'resumed';
  }

  /**
   * @param used the operation's files by the names of the parameters that they take the place of
   * @param resume what the chunk kept in an earlier attempt
   */
  async #execute(step: PlannedStep, used: Record<string, Blob | Blob[]>, resume: unknown): Promise<void> {
    const chunk = await chunkFiles[`../chunks/${step.chunk}.ts`]();
    const wired = Object.fromEntries(
      Object.entries(step.wired).map(([name, wire]) => [name, this.#given.get(wire.step)?.[wire.output]]),
    );
    const names = Object.keys(used).filter((name) => name in step.parameters);
    const input = { ...step.parameters, ...pick(used, names), ...wired };
    // The plan has judged all values but those that an earlier step gave.
    const parameters =
      Object.keys(wired).length === 0
        ? input
        : parse(chunk.parameters, { ...input, operation: step.operation }, `What the step "${step.id}" was given`);
    await this.prepared.graph?.enter(step);
    const outputs = await chunk.execute(parameters, this.#context(step, resume));
    this.#tell(null, 'record');
    const provenance = (await this.prepared.graph?.provenance(step)) ?? {};
    const { plan } = this.prepared;
    const settled = { ...step.parameters, ...this.#settled[step.id], ...wired };
    await this.#take(step, outputs, {
      operation: plan.operation.operation,
      config: plan.config,
      chunk: step.chunk,
      step: step.id,
      // As settled, so that a run that was resumed says the same as one that was not.
      parameters: Object.fromEntries(Object.entries(settled).filter(([, value]) => typeof value !== 'object')),
      seed: settled.seed,
      ...(step.language === null ? {} : { language_model: step.language }),
      ...provenance,
    });
  }

  /** Records what a step gave, in the order in which its chunk declares it, and keeps it for later steps. */
  async #take(step: PlannedStep, outputs: Outputs, metadata: Record<string, unknown> = {}): Promise<void> {
    const kept: Record<string, unknown> = {};
    for (const [name, { medium: id, many }] of Object.entries(outputsOf(step))) {
      const medium = mediumNamed(id);
      assert(medium, `there is a medium "${id}"`);
      const values = many ? outputs[name] : [outputs[name]];
      assert(Array.isArray(values), `"${name}" of the chunk "${step.chunk}" is a list`);
      const made = await Promise.all(
        values.map(async (value: unknown) => {
          // What the person brings instead of running a step comes as a parameter does.
          if (step.given !== null && value instanceof Blob) {
            return { file: value, facts: {}, origin: {} };
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
          return { file: await medium.encode(value), facts: medium.facts(value), origin: {} };
        }),
      );
      const files: unknown[] = [];
      for (const [index, { file, facts, origin }] of made.entries()) {
        if (this.signal.aborted) {
          throw cancelled();
        }
        const all = {
          ...metadata,
          ...(step.given === null ? {} : { operation: step.operation, step: step.id, is_given: true }),
          index,
          ...facts,
          ...origin,
          versions: { darkroom: version, ...this.prepared.graph?.versions },
          ...(step.checkpoint === null ? {} : { device: this.prepared.graph?.device }),
          notices: this.#notices,
          ms: Math.round(performance.now() - this.#started),
        };
        const settings = this.prepared.inscribes && medium.inscribe ? settingsOf(all) : null;
        const inscribed = settings && medium.inscribe ? await medium.inscribe(file, inscriptionOf(settings)) : file;
        await this.#record(this.#entityType(step, name), inscribed, all);
        files.push(isWritten(id) ? await file.text() : file);
      }
      kept[name] = many ? files : files[0];
    }
    this.#given.set(step.id, kept);
  }

  /** Takes what a step recorded in an earlier attempt as what it gave; false where something is missing. */
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

  #context(step: PlannedStep, resume: unknown): Context {
    const { plan, graph, page } = this.prepared;
    return {
      resume,
      keep: (kept) => {
        this.#keep({ step: step.id, kept });
      },
      operation: step.operation,
      checkpoint: step.checkpoint ?? '',
      models: {
        load: async (_, loras = []) => {
          if (!graph) {
            throw new StudioError('internal', `The chunk "${step.chunk}" asks for a checkpoint and declares none.`);
          }
          const { model, notices } = await graph.load(step, loras);
          notices.forEach((sentence) => {
            this.#notice(sentence);
          });
          return model;
        },
      },
      readImage: decodePicture,
      progress: (stage, done, steps) => {
        this.#report(step.id, stage, done, steps);
      },
      delta: (text, thinking = false) => {
        this.events.send({ type: 'delta', step: step.id, text, thinking });
      },
      preview: this.canvas,
      develop: (picture) => {
        // What cannot be shown is no reason to fail.
        page.develop(picture).catch(() => undefined);
      },
      notice: (message) => {
        this.#notice(message);
      },
      wants: (what) => plan.operation.record.includes(what),
      record: (type, content, metadata) => this.#record(type, content, { step: step.id, ...metadata }),
      recordTensors: (type, tensors, metadata) =>
        this.#record(type, new Blob([writeSafetensors(Object.entries(tensors))]), {
          format: 'safetensors',
          step: step.id,
          ...metadata,
        }),
      secret: (name) => page.secret(name),
      engine: () => {
        const { remote } = catalogue.chunks[step.chunk].meta.needs;
        assert(remote !== undefined, `the chunk "${step.chunk}" names the engine that it uses`);
        return openEngine(remote, {
          servers: () => page.servers(remote),
          secret: (name) => page.secret(name),
          signal: this.signal,
        });
      },
      signal: this.signal,
      ...this.#services(step),
    };
  }

  /** What a chunk of this step is handed of the language engine, see `ContextOf`. */
  #services({ id, chunk, language }: PlannedStep): { text?: StepText; speech?: StepSpeech } {
    const { needs } = catalogue.chunks[chunk].meta;
    if (!needs.language || language === null) {
      return {};
    }
    const engine = this.prepared.language;
    const onLoading = ({ done, total }: ModelLoading) => {
      this.events.send({ type: 'progress', progress: this.#progress.load(total === 0 ? 1 : done / total, id) });
    };
    return needs.language === 'text'
      ? {
          text: {
            generate: (request, onDelta) =>
              engine.generate({ ...request, model: language }, onDelta, this.signal, onLoading),
          },
        }
      : { speech: { speak: (request) => engine.speak({ ...request, model: language }, this.signal, onLoading) } };
  }

  #notice(message: string): void {
    this.#notices.push(message);
    this.events.send({ type: 'notice', message });
  }

  #keep(state: v.InferOutput<typeof pointSchema>): void {
    this.events.send({ type: 'resume_point', point: { parameters: this.#settled, state } });
  }

  #report(step: string, stage: Stage, done = 0, steps = 0): void {
    this.#at = { step, stage, place: [done, steps] };
    this.#tell(step, stage, done, steps);
    this.prepared.graph?.observeStep(step, stage, done, steps);
  }

  #tell(of: string | null, stage: Stage, done = 0, steps = 0): void {
    if (this.signal.aborted) {
      throw cancelled();
    }
    if (this.#failure) {
      // What cannot be recorded need not be computed.
      throw this.#failure;
    }
    this.events.send({ type: 'progress', progress: this.#progress.report(of, stage, done, steps) });
  }

  /** Weights are brought to the device whenever a network is needed, so afterwards the stage is what it was before. */
  #load(share: number, isOver: boolean, begins: boolean): void {
    // Not in the middle: the runtime would be told so while it reads.
    if (this.signal.aborted && begins) {
      throw cancelled();
    }
    this.events.send({ type: 'progress', progress: this.#progress.load(share) });
    if (isOver && !this.signal.aborted && this.#at) {
      const { step, stage, place } = this.#at;
      this.#tell(step, stage, ...place);
    }
  }

  async #record(type: string, content: Blob | string | object, metadata?: Record<string, unknown>): Promise<string> {
    await this.#opening;
    return this.#run.record(type, content, metadata);
  }
}

/**
 * A file of another machine, which stays as it came.
 * @throws StudioError `result_invalid` for one that is not what it is said to be
 */
async function madeElsewhere({ file, metadata: origin }: MadeFile, medium: Medium, step: string) {
  const kind = await recogniseFile(file);
  if (kind?.medium.id !== medium.id) {
    throw new StudioError(
      'result_invalid',
      `The step "${step}" was given a file that is no ${medium.label.en.toLowerCase()}; look at what the server made, then try again.`,
    );
  }
  // The bytes say what it is, whatever the server called it.
  const typed = new Blob([file], { type: kind.format.mime });
  const value = await medium.decode(typed).catch((error: unknown) => {
    if (medium.id === 'image') {
      throw error;
    }
    return null; // Of a codec that this browser lacks: it can be saved all the same.
  });
  return { file: typed, facts: value === null ? {} : medium.facts(value), origin };
}

function seconds(): number {
  return performance.now() / 1000;
}

function outputsOf({ chunk }: PlannedStep) {
  return catalogue.chunks[chunk].meta.outputs;
}

/** What the steps of a plan run with, every value settled; files are the operation's. */
function settledOf({ steps, variant }: Plan): ResumePoint['parameters'] {
  return Object.fromEntries(
    steps.map(({ id, parameters, checkpoint }) => {
      const settled = { ...parameters };
      takeFiles(settled);
      // Chosen by what fits at this moment, which may be another variant in the next attempt, and with it another picture.
      return [id, checkpoint !== null && 'weights' in settled ? { ...settled, weights: variant } : settled];
    }),
  );
}

function pick(record: Record<string, unknown>, names: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(names.map((name) => [name, record[name]]));
}
