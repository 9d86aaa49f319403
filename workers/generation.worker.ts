/** The generation worker: the only place that holds the GPU. One owner class, served by Comlink. */
import type * as Comlink from 'comlink';
import { version } from '../package.json';
import type { Chunk, ChunkContract, Context } from '../src/core/chunk.ts';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { DeviceReport, Entity, JobEvent, LedgerReport, Stage } from '../src/core/job.ts';
import type { CheckpointSummary } from '../src/core/model.ts';
import { parseOperation, type Operation } from '../src/core/operation.ts';
import { plan, type Config, type Pipeline, type Plan } from '../src/core/plan.ts';
import { Engine } from '../src/engine/engine.ts';
import { decodePicture, encodePng } from '../src/formats/picture.ts';
import { openModel, type LoadedModel } from '../src/models/family.ts';
import { FolderFiles, ServedFiles } from '../src/weights/checkpoint_files.ts';
import { writeSafetensors } from '../src/weights/safetensors.ts';
import {
  EventSender,
  callsTo,
  serve,
  type CheckpointSource,
  type GenerationApi,
  type RecorderApi,
  type StartOptions,
} from './protocol.ts';

// The folders are the registry: a new chunk, pipeline or config is one file and no other edit.
const contracts = byId(
  import.meta.glob<ChunkContract['meta']>('../chunks/*.ts', { eager: true, import: 'meta' }),
  import.meta.glob<ChunkContract['parameters']>('../chunks/*.ts', { eager: true, import: 'parameters' }),
);
const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts');
const pipelines = byName(import.meta.glob<Pipeline>('../src/pipelines/*.json', { eager: true, import: 'default' }));
const configs = byName(
  import.meta.glob<Omit<Config, 'id'>>('../src/configs/*.json', { eager: true, import: 'default' }),
);
const catalogue = {
  chunks: contracts,
  pipelines,
  configs: Object.fromEntries(Object.entries(configs).map(([id, config]) => [id, { ...config, id }])),
};

class GenerationWorker implements GenerationApi {
  #engine: Engine | undefined;
  #recorder: Comlink.Remote<RecorderApi> | undefined;
  /** The checkpoint that was opened last: configurations and headers, no weights yet. */
  #opened: LoadedModel | undefined;
  /** The model of the last job, with its networks on the device. Only one is held: the next one needs its memory. */
  #held: LoadedModel | undefined;
  #canvas: OffscreenCanvas | null = null;
  readonly #running = new Map<string, AbortController>();

  async start({
    backend = 'auto',
    precision = 'auto',
    countLaunches = false,
    recorder,
  }: StartOptions & { recorder: MessagePort }): Promise<DeviceReport> {
    this.#recorder = callsTo<RecorderApi>(recorder);
    this.#engine = await Engine.start({ backend, precision, countLaunches });
    return this.#engine.report;
  }

  async openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary> {
    return (await this.#open(source)).summary;
  }

  async execute(
    request: { jobId: string; operation: Operation; source: CheckpointSource },
    onEvent: (event: JobEvent) => void,
  ): Promise<{ run: string }> {
    const events = new EventSender(onEvent);
    const controller = new AbortController();
    this.#running.set(request.jobId, controller);
    try {
      return await new Execution(
        await this.#prepare(request),
        this.#recording,
        events,
        controller.signal,
        () => this.#canvas,
      ).run();
    } finally {
      this.#running.delete(request.jobId);
      await events.delivered();
    }
  }

  cancel(jobId: string): Promise<void> {
    this.#running.get(jobId)?.abort();
    return Promise.resolve();
  }

  watch(canvas: OffscreenCanvas | null): Promise<void> {
    this.#canvas = canvas;
    return Promise.resolve();
  }

  ledger(): Promise<LedgerReport> {
    return Promise.resolve(this.#started.ledger.report());
  }

  async #prepare({ operation: asked, source }: { operation: Operation; source: CheckpointSource }): Promise<Prepared> {
    const operation = parseOperation(asked);
    const model = await this.#open(source);
    const result = plan(operation, catalogue, model.summary, this.#started.report);
    if (!result.ok) {
      throw new StudioError(result.reasons[0].code, result.reasons.map(({ message }) => message).join(' '));
    }
    // Only here, where no other job runs, may a model be released.
    if (this.#held !== model) {
      await this.#held?.release();
      this.#held = model;
    }
    return { plan: result.plan, model, engine: this.#started };
  }

  async #open(source: CheckpointSource): Promise<LoadedModel> {
    const engine = this.#started;
    const ref = source.kind === 'builtin' ? `builtin:${source.name}` : `folder:${source.name}`;
    // A folder of the same name may hold other files by now, so only served checkpoints are taken as known.
    for (const known of [this.#opened, this.#held]) {
      if (
        known?.summary.ref === ref &&
        (source.kind === 'builtin' || known.isFrom(new FolderFiles(source.name, source.files)))
      ) {
        return known;
      }
    }
    const files =
      source.kind === 'builtin'
        ? await ServedFiles.open(
            ref,
            new URL(`${import.meta.env.BASE_URL}checkpoints/${encodeURIComponent(source.name)}/`, self.location.origin),
          )
        : new FolderFiles(source.name, source.files);
    const model = await openModel(files, engine);
    this.#opened = model;
    return model;
  }

  get #started(): Engine {
    if (!this.#engine) {
      throw new StudioError('internal', 'The engine was not started; reload the page.', { retry: 'same' });
    }
    return this.#engine;
  }

  get #recording(): Comlink.Remote<RecorderApi> {
    if (!this.#recorder) {
      throw new StudioError('internal', 'The recorder was not connected; reload the page.', { retry: 'same' });
    }
    return this.#recorder;
  }
}

interface Prepared {
  plan: Plan;
  model: LoadedModel;
  engine: Engine;
}

/** One job from its plan to its recorded pictures. */
class Execution {
  #run = '';
  #sampleStarted = 0;
  #stage: Stage = 'load';
  readonly #started = performance.now();
  readonly #notices: string[] = [];

  constructor(
    readonly prepared: Prepared,
    readonly recorder: Comlink.Remote<RecorderApi>,
    readonly events: EventSender,
    readonly signal: AbortSignal,
    readonly canvas: () => OffscreenCanvas | null,
  ) {}

  async run(): Promise<{ run: string }> {
    const { plan, model } = this.prepared;
    const operation = { ...plan.operation, parameters: { ...plan.operation.parameters }, checkpoint: plan.checkpoint };
    const pictures = takePictures(operation.parameters);
    this.#run = await this.recorder.openRun({
      config_name: plan.config,
      operation,
      expected_outputs: ['input', 'config', ...operation.record, 'output_image'],
    });
    this.events.send({ type: 'run', run: this.#run });
    model.onLoading = () => {
      this.#report('load');
    };
    try {
      for (const [name, source] of pictures) {
        // Recorded as what was used, so that the run can be made again from its folder alone.
        operation.parameters[name] = await this.#record(
          `input_${name}`,
          await encodePng(await decodePicture(source, name)),
        );
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
      for (const { id, parameters } of plan.chunks) {
        await this.#execute(id, parameters);
      }
      await this.recorder.closeRun(this.#run, 'completed');
      return { run: this.#run };
    } catch (thrown) {
      const error = StudioError.from(thrown);
      await this.recorder
        .closeRun(this.#run, error.code === 'cancelled' ? 'cancelled' : 'failed', error.toData())
        .catch(() => undefined);
      throw error;
    } finally {
      model.onLoading = null;
    }
  }

  async #execute(id: string, parameters: Record<string, unknown>): Promise<void> {
    const { plan, model, engine } = this.prepared;
    const chunk = await chunkFiles[`../chunks/${id}.ts`]();
    const media = await chunk.execute(parameters, this.#context());
    this.#report('record');
    const images = await Promise.all(media.images.map(encodePng));
    const provenance = await model.provenance();
    for (const [index, image] of images.entries()) {
      if (this.signal.aborted) {
        throw cancelled();
      }
      await this.#record('output_image', image, {
        operation: plan.operation.operation,
        config: plan.config,
        chunk: id,
        parameters: pick(
          parameters,
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
      });
    }
  }

  #context(): Context {
    const { plan, model } = this.prepared;
    return {
      operation: plan.operation.operation,
      checkpoint: plan.checkpoint,
      models: { load: () => Promise.resolve(model) },
      readImage: decodePicture,
      progress: (stage, step, steps) => {
        this.#report(stage, step, steps);
      },
      preview: this.canvas,
      notice: (message) => {
        this.#notices.push(message);
        this.events.send({ type: 'notice', message });
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

  #report(stage: Stage, step = 0, steps = 0): void {
    if (this.signal.aborted) {
      throw cancelled();
    }
    if (stage === 'sample' && step === 0) {
      this.#sampleStarted = performance.now();
    }
    // The first step carries one-time costs (shader compilation), so rates are taken from the second step on.
    if (stage === 'sample' && step === 1) {
      this.#sampleStarted = performance.now();
    }
    const measured = stage === 'sample' && step > 1;
    const secondsLeft = measured
      ? ((performance.now() - this.#sampleStarted) / (step - 1) / 1000) * (steps - step)
      : null;
    this.#stage = stage;
    this.events.send({ type: 'progress', progress: { stage: this.#stage, step, steps, secondsLeft } });
  }

  async #record(type: string, content: Blob | string | object, metadata?: Record<string, unknown>): Promise<string> {
    const entity: Entity = await this.recorder.saveEntity(this.#run, type, content, metadata);
    this.events.send({ type: 'entity', entity });
    return entity.filename;
  }
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

function byName<T>(files: Record<string, T>): Record<string, T> {
  return Object.fromEntries(Object.entries(files).map(([path, value]) => [stem(path), value]));
}

function byId(
  metas: Record<string, ChunkContract['meta']>,
  parameters: Record<string, ChunkContract['parameters']>,
): Record<string, ChunkContract> {
  return Object.fromEntries(
    Object.entries(metas).map(([path, meta]) => [meta.id, { meta, parameters: parameters[path] }]),
  );
}

function stem(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1, path.lastIndexOf('.'));
}

void serve(new GenerationWorker(), self);
