/** One job in the generation worker, from its plan to its recorded pictures. */
import type * as Comlink from 'comlink';
import * as v from 'valibot';
import { version } from '../package.json';
import type { Chunk, Context } from '../src/core/chunk.ts';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { ResumePoint, Stage } from '../src/core/job.ts';
import { JobProgress } from '../src/core/job_progress.ts';
import type { LoraUse } from '../src/core/loras.ts';
import type { PixelImage } from '../src/core/media.ts';
import type { Estimate } from '../src/core/model.ts';
import { isColour, isMask } from '../src/core/parameters.ts';
import type { Plan } from '../src/core/plan.ts';
import type { Engine } from '../src/engine/engine.ts';
import type { Loading } from '../src/engine/network_shelf.ts';
import { expectedSeconds, rateOf, type Speedometer, type StageUnits } from '../src/engine/self_measurement.ts';
import { WHITE, isOpaque, layOn } from '../src/formats/background.ts';
import { inscribe } from '../src/formats/container.ts';
import { decodePicture, encodePng } from '../src/formats/picture.ts';
import { inscriptionOf, settingsOf } from '../src/formats/settings.ts';
import type { LoadedModel } from '../src/models/family.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import type { EventSender } from './connection.ts';
import type { RecorderApi, RunEntity } from './protocol.ts';

/** Loaded one by one, when it is their turn. */
const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts');

/** What a job runs with once its plan is made. */
export interface Prepared {
  plan: Plan;
  model: LoadedModel;
  engine: Engine;
  /** Null where the plan runs no checkpoint. */
  estimate: Estimate | null;
  /** Bytes of weights that are not on the device yet, by the name of their network. */
  load: ReadonlyMap<string, number>;
  speedometer: Speedometer;
  /** Merges stored LoRAs into the model's weights, and no others; says what of them was left out. */
  mergeLoras: (loras: readonly LoraUse[]) => Promise<string[]>;
  /** Whether pictures are recorded with their settings in them. */
  inscribes: boolean;
}

/** The state of a {@link ResumePoint}: which chunk was at work, and what it kept. */
const pointSchema = v.nullable(v.object({ chunk: v.string(), kept: v.unknown() }));

/** How often loading is told of, in milliseconds. */
const TOLD_EVERY = 100;

export class Execution {
  #run = '';
  /** What an earlier attempt recorded, by type, in order; each is taken once, in place of recording it again. */
  #recorded = new Map<string, RunEntity[]>();
  #progress: JobProgress;
  #units: StageUnits = { load: 0, encode: 1, decode: 0, record: 0 };
  #stage: Exclude<Stage, 'load'> = 'encode';
  #place: [step: number, steps: number] = [0, 0];
  readonly #loaded = new Map<string, number>();
  #loadTold = -Infinity;
  /** Steps that were done when this attempt began to sample. */
  #firstStep: number | null = null;
  #measuredFrom: { step: number; at: number } | null = null;
  /** What every chunk ran with. */
  readonly #settled: ResumePoint['parameters'];
  readonly #started = performance.now();
  readonly #notices: string[] = [];

  constructor(
    readonly prepared: Prepared,
    readonly recorder: Comlink.Remote<RecorderApi>,
    readonly events: EventSender,
    readonly signal: AbortSignal,
    readonly canvas: () => OffscreenCanvas | null,
  ) {
    this.#settled = settledOf(prepared.plan);
    this.#progress = new JobProgress(NOTHING_KNOWN, 1, seconds);
  }

  /**
   * @param run that an earlier attempt opened
   * @param point from where to go on
   */
  async run(run: string | null, point: ResumePoint | null): Promise<{ run: string }> {
    const { plan, model } = this.prepared;
    const operation = { ...plan.operation, parameters: { ...plan.operation.parameters }, checkpoint: plan.checkpoint };
    const pictures = takePictures(operation.parameters);
    await this.#expect();
    if (!(run !== null && (await this.#goOnWith(run)))) {
      this.#run = await this.recorder.openRun({
        config_name: plan.config,
        operation,
        expected_outputs: [
          'input',
          'config',
          ...plan.chunks.flatMap(({ id }) => catalogue.chunks[id].meta.records ?? []),
          ...operation.record,
          'output_image',
        ],
      });
    }
    this.events.send({ type: 'run', run: this.#run });
    if (!point) {
      this.#keep(null);
    }
    model.onLoading = (loading) => {
      this.#load(loading);
    };
    plan.notices.forEach((message) => {
      this.#notice(message);
    });
    try {
      const used: Record<string, Blob> = {};
      for (const [name, source] of pictures) {
        // Recorded as what is used, so that the run can be made again from its folder alone.
        used[name] = await encodePng(this.#opaque(await decodePicture(source, name), name));
        operation.parameters[name] = await this.#record(`input_${name}`, used[name]);
      }
      await this.#record('input', operation);
      const steps = plan.chunks.map(({ id, parameters }) => ({
        id,
        parameters: { ...parameters, ...pick(operation.parameters, pictures.keys()) },
      }));
      await this.#record('config', {
        pipeline: plan.pipeline,
        config: plan.config,
        checkpoint: plan.checkpoint,
        chunks: steps,
      });
      const state = v.safeParse(pointSchema, point?.state ?? null);
      const kept = state.success ? state.output : null;
      // Chunks before the one that was at work have recorded what they made.
      const first = Math.max(
        0,
        plan.chunks.findIndex(({ id }) => id === kept?.chunk),
      );
      for (const { id, parameters } of plan.chunks.slice(first)) {
        await this.#execute(id, withPictures(parameters, used), kept?.chunk === id ? kept.kept : null);
      }
      await this.recorder.closeRun(this.#run, 'completed');
      this.events.send({ type: 'progress', progress: this.#progress.finish() });
      void this.prepared.speedometer.observeStages(this.#units, this.#progress.measured);
      return { run: this.#run };
    } finally {
      model.onLoading = null;
    }
  }

  /** False when there is no such run any more, because somebody deleted it, or when another tab does not let go of it. */
  async #goOnWith(run: string): Promise<boolean> {
    try {
      const { entities } = await this.recorder.resumeRun(run);
      for (const entity of entities) {
        this.#recorded.set(entity.type, [...(this.#recorded.get(entity.type) ?? []), entity]);
      }
      this.#run = run;
      return true;
    } catch (error) {
      const { code } = StudioError.from(error);
      if (code === 'storage_unavailable') {
        // A tab that hangs still has it open. Where nothing can be stored at all, opening another one says so.
        this.#notice('The tab that began this did not let go of its recording, so it was recorded anew.');
        return false;
      }
      if (code === 'invalid_operation') {
        return false;
      }
      throw error;
    }
  }

  /** What the stages will take, as far as that was ever measured on this device. */
  async #expect(): Promise<void> {
    const { estimate, load, plan, engine, speedometer } = this.prepared;
    if (!estimate) {
      return;
    }
    const { request, flops } = estimate;
    const rates = await speedometer.known();
    const rate = rateOf(rates, engine.report.precision, plan.variant)?.perSecond;
    const steps = Math.max(1, Math.floor(request.steps * (request.strength ?? 1)));
    const pixels = request.width * request.height * request.batch_size;
    const bytes = [...load.values()].reduce((sum, each) => sum + each, 0);
    this.#units = { load: bytes, encode: 1, decode: pixels, record: pixels };
    const sample = flops && rate ? (steps * flops.step) / rate : null;
    this.#progress = new JobProgress(expectedSeconds(rates, this.#units, sample), steps, seconds);
    if (bytes === 0) {
      this.#progress.load(1);
    }
  }

  /** @param resume what the chunk kept in an earlier attempt */
  async #execute(id: string, parameters: Record<string, unknown>, resume: unknown): Promise<void> {
    const { plan, model, engine } = this.prepared;
    const chunk = await chunkFiles[`../chunks/${id}.ts`]();
    const media = await chunk.execute(parameters, this.#context(id, resume));
    this.#report('record');
    const images = await Promise.all(media.images.map(encodePng));
    const provenance = await model.provenance();
    for (const [index, image] of images.entries()) {
      if (this.signal.aborted) {
        throw cancelled();
      }
      const metadata = {
        operation: plan.operation.operation,
        config: plan.config,
        chunk: id,
        // As settled, so that a run that was resumed says the same as one that was not.
        parameters: pick(
          { ...parameters, ...this.#settled[id] },
          Object.keys(parameters).filter((name) => typeof parameters[name] !== 'object'),
        ),
        seed: parameters.seed,
        index,
        width: media.images[index].width,
        height: media.images[index].height,
        ...provenance,
        versions: {
          darkroom: version,
          'onnxruntime-web': engine.runtime.ort.env.versions.web ?? engine.runtime.ort.env.versions.common,
        },
        device: engine.report,
        notices: this.#notices,
        ms: Math.round(performance.now() - this.#started),
      };
      const settings = this.prepared.inscribes ? settingsOf(metadata) : null;
      await this.#record('output_image', settings ? await inscribe(image, inscriptionOf(settings)) : image, metadata);
    }
  }

  #context(id: string, resume: unknown): Context {
    const { plan, model } = this.prepared;
    return {
      resume,
      keep: (kept) => {
        this.#keep({ chunk: id, kept });
      },
      operation: plan.operation.operation,
      checkpoint: plan.checkpoint,
      models: {
        load: async (_, loras = []) => {
          for (const sentence of await this.prepared.mergeLoras(loras)) {
            this.#notice(sentence);
          }
          return model;
        },
      },
      readImage: decodePicture,
      progress: (stage, step, steps) => {
        if (stage !== 'load') {
          this.#report(stage, step, steps);
        }
      },
      preview: this.canvas,
      notice: (message) => {
        this.#notice(message);
      },
      wants: (what) => plan.operation.record.includes(what),
      record: (type, content, metadata) => this.#record(type, content, metadata),
      recordTensors: (type, tensors, metadata) =>
        this.#record(type, new Blob([writeSafetensors(Object.entries(tensors))]), {
          format: 'safetensors',
          ...metadata,
        }),
      signal: this.signal,
    };
  }

  /** A picture as checkpoints take it, without transparency. What a mask means stands in its colours, so it stays as it is. */
  #opaque(picture: PixelImage, name: string): PixelImage {
    if (isMask(name) || isOpaque(picture)) {
      return picture;
    }
    const background = this.prepared.plan.chunks.map(({ parameters }) => parameters.background).find(isColour);
    if (background === undefined) {
      this.#notice(`The transparent parts of ${name} were filled with white; background chooses another colour.`);
    }
    return layOn(picture, background ?? WHITE);
  }

  #notice(message: string): void {
    this.#notices.push(message);
    this.events.send({ type: 'notice', message });
  }

  #keep(state: v.InferOutput<typeof pointSchema>): void {
    this.events.send({ type: 'resume_point', point: { parameters: this.#settled, state } });
  }

  #report(stage: Exclude<Stage, 'load'>, step = 0, steps = 0): void {
    if (this.signal.aborted) {
      throw cancelled();
    }
    this.#stage = stage;
    this.#place = [step, steps];
    this.events.send({ type: 'progress', progress: this.#progress.report(stage, step, steps) });
    if (stage === 'sample') {
      this.#observe(step, steps);
    }
  }

  /** Weights are brought to the device whenever a network is needed, so afterwards the stage is what it was before. */
  #load({ network, bytes, total }: Loading): void {
    // Not in the middle: the runtime would be told so while it reads.
    if (this.signal.aborted && bytes === 0) {
      throw cancelled();
    }
    const isOver = bytes === total && total > 0;
    this.#loaded.set(network, total === 0 ? 1 : bytes / total);
    const now = performance.now();
    if (!isOver && bytes > 0 && now - this.#loadTold < TOLD_EVERY) {
      return;
    }
    this.#loadTold = now;
    const { load } = this.prepared;
    const here = [...load].reduce((sum, [name, size]) => sum + size * (this.#loaded.get(name) ?? 0), 0);
    const progress = this.#progress.load(this.#units.load === 0 ? 1 : here / this.#units.load);
    this.events.send({ type: 'progress', progress });
    if (isOver && !this.signal.aborted) {
      this.#report(this.#stage, ...this.#place);
    }
  }

  /** Keeps how fast the steps of this attempt were, for the next estimate; not the first one, which also compiles. */
  #observe(step: number, steps: number): void {
    const at = performance.now();
    this.#firstStep ??= step;
    if (step > this.#firstStep) {
      this.#measuredFrom ??= { step, at };
    }
    if (this.#measuredFrom && step === steps && step > this.#measuredFrom.step) {
      const { plan, engine, estimate, speedometer } = this.prepared;
      const flops = (step - this.#measuredFrom.step) * (estimate?.flops?.step ?? 0);
      void speedometer.observe(engine.report.precision, plan.variant, flops, (at - this.#measuredFrom.at) / 1000);
    }
  }

  async #record(type: string, content: Blob | string | object, metadata?: Record<string, unknown>): Promise<string> {
    const known = this.#recorded.get(type)?.shift();
    const entity = known
      ? { ...known, run: this.#run }
      : await this.recorder.saveEntity(this.#run, type, content, metadata);
    this.events.send({ type: 'entity', entity });
    return entity.filename;
  }
}

const NOTHING_KNOWN = { load: null, encode: null, sample: null, decode: null, record: null };

function seconds(): number {
  return performance.now() / 1000;
}

/** What the chunks of a plan run with, every value settled; pictures are the operation's. */
function settledOf({ chunks, variant }: Plan): ResumePoint['parameters'] {
  return Object.fromEntries(
    chunks.map(({ id, parameters }) => {
      const settled = { ...parameters };
      takePictures(settled);
      // Chosen by what fits at this moment, which may be another variant in the next attempt, and with it another picture.
      return [id, 'weights' in settled ? { ...settled, weights: variant } : settled];
    }),
  );
}

/** @param used by the names of the parameters that they take the place of */
function withPictures(parameters: Record<string, unknown>, used: Record<string, Blob>): Record<string, unknown> {
  return {
    ...parameters,
    ...pick(
      used,
      Object.keys(used).filter((name) => name in parameters),
    ),
  };
}

/** Takes the pictures out of the parameters, which are recorded as files beside them. */
function takePictures(parameters: Record<string, unknown>): Map<string, Blob | string> {
  const pictures = new Map<string, Blob | string>();
  for (const [name, value] of Object.entries(parameters)) {
    if (value instanceof Blob || (typeof value === 'string' && value.startsWith('data:image/'))) {
      pictures.set(name, value);
      delete parameters[name];
    }
  }
  return pictures;
}

function pick(record: Record<string, unknown>, names: Iterable<string>): Record<string, unknown> {
  return Object.fromEntries([...names].map((name) => [name, record[name]]));
}
