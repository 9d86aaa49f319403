/** The generation worker: the only place that holds the GPU. One owner class, served by Comlink. */
import type * as Comlink from 'comlink';
import { version } from '../package.json';
import type { Chunk, Context } from '../src/core/chunk.ts';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { DeviceReport, Entity, JobEvent, LedgerReport, Stage } from '../src/core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget, WeightVariant } from '../src/core/model.ts';
import { parseOperation, type Operation } from '../src/core/operation.ts';
import { estimateRequest, fit, plan, type Plan } from '../src/core/plan.ts';
import { Engine } from '../src/engine/engine.ts';
import { deviceKey, IndexedRates, Speedometer, workloads } from '../src/engine/self_measurement.ts';
import { inscribe } from '../src/formats/container.ts';
import { decodePicture, encodePng } from '../src/formats/picture.ts';
import { inscriptionOf, settingsOf } from '../src/formats/settings.ts';
import { openModel, type Circumstances, type LoadedModel } from '../src/models/family.ts';
import { memoryBudget } from '../src/models/latent_diffusion/estimate.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { FolderFiles, ServedFiles, type CheckpointFiles } from '../src/weights/checkpoint_files.ts';
import { browserNetwork } from '../src/weights/library/browser_surroundings.ts';
import { IndexedKeyValues } from '../src/weights/library/key_values.ts';
import { RemoteFiles } from '../src/weights/library/remote_files.ts';
import { Requests } from '../src/weights/library/requests.ts';
import { LibraryStore } from '../src/weights/library/store.ts';
import { StoredFiles } from '../src/weights/library/stored_files.ts';
import { systemClock } from '../src/weights/library/surroundings.ts';
import { transformMakers } from '../src/weights/quantise.ts';
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

/** Loaded one by one, when it is their turn. */
const chunkFiles = import.meta.glob<Chunk>('../chunks/*.ts');

/** The same database as the library worker's, which alone writes files there. */
const library = new LibraryStore(new IndexedKeyValues());
const requests = new Requests(browserNetwork(self.location.href), systemClock);

class GenerationWorker implements GenerationApi {
  #engine: Engine | undefined;
  #recorder: Comlink.Remote<RecorderApi> | undefined;
  /** The checkpoint that was opened last: configurations and headers, no weights yet. */
  #opened: LoadedModel | undefined;
  /** The model of the last job, with its networks on the device. Only one is held: the next one needs its memory. */
  #held: LoadedModel | undefined;
  #canvas: OffscreenCanvas | null = null;
  #speedometer: Speedometer | undefined;
  /** As the person says; null = a guess. */
  #memoryBytes: number | null = null;
  /** How the models' weights were asked for when they were opened. */
  readonly #variants = new WeakMap<LoadedModel, WeightVariant>();
  readonly #running = new Map<string, AbortController>();

  async start({
    backend = 'auto',
    precision = 'auto',
    countLaunches = false,
    memoryBytes = null,
    recorder,
  }: StartOptions & { recorder: MessagePort }): Promise<DeviceReport> {
    this.#recorder = callsTo<RecorderApi>(recorder);
    this.#memoryBytes = memoryBytes;
    this.#engine = await Engine.start({ backend, precision, countLaunches });
    const { report, runtime } = this.#engine;
    const { web, common } = runtime.ort.env.versions;
    this.#speedometer = new Speedometer(deviceKey(report, web ?? common), new IndexedRates());
    return this.#engine.report;
  }

  async openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary> {
    return (await this.#open(source, null)).summary;
  }

  async execute(
    request: { jobId: string; operation: Operation; source: CheckpointSource; inscribes: boolean },
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

  async #prepare({
    operation: asked,
    source,
    inscribes,
  }: {
    operation: Operation;
    source: CheckpointSource;
    inscribes: boolean;
  }): Promise<Prepared> {
    const operation = parseOperation(asked);
    const opened = await this.#open(source, null);
    const { summary } = opened;
    let result = plan(operation, catalogue, summary, this.#started.report);
    const request = result.ok ? estimateRequest(result.plan, summary) : null;
    const estimate = request && (await opened.estimate(request, await this.#circumstances(source, summary)));
    if (result.ok && estimate) {
      result = fit(result.plan, summary, estimate, 'warn');
    }
    if (!result.ok) {
      throw new StudioError(result.reasons[0].code, result.reasons.map(({ message }) => message).join(' '));
    }
    const model = await this.#open(source, result.plan.variant);
    // Only here, where no other job runs, may a model be released.
    if (this.#held !== model) {
      await this.#held?.release();
      this.#held = model;
    }
    return { plan: result.plan, model, engine: this.#started, estimate, speedometer: this.#speed, inscribes };
  }

  async estimate(source: CheckpointSource, request: EstimateRequest): Promise<Estimate> {
    const model = await this.#open(source, null);
    // Beside a picture in the making nothing true could be measured.
    if (this.#running.size === 0) {
      const { report } = this.#started;
      const precisions = report.precision === 'f16' ? (['f16', 'f32'] as const) : (['f32'] as const);
      await this.#speed.measured(precisions, workloads(this.#started));
    }
    return model.estimate(request, await this.#circumstances(source, model.summary));
  }

  planWith(memoryBytes: number | null): Promise<MemoryBudget> {
    this.#memoryBytes = memoryBytes;
    return Promise.resolve(this.#budget);
  }

  get #budget(): MemoryBudget {
    const { deviceMemory } = navigator as { deviceMemory?: number };
    return memoryBudget(this.#started.report, this.#memoryBytes, deviceMemory);
  }

  async #circumstances(source: CheckpointSource, { needs }: CheckpointSummary): Promise<Circumstances> {
    const missing = source.kind === 'remote' ? source.listing.files.filter(({ path }) => needs.includes(path)) : [];
    return {
      device: this.#started.report,
      budget: this.#budget,
      rates: await this.#speed.known(),
      downloadBytes: missing.reduce((sum, { size }) => sum + size, 0),
    };
  }

  /** @param variant how its weights are to be run; null = no matter, because only its summary is asked for */
  async #open(source: CheckpointSource, variant: WeightVariant | null): Promise<LoadedModel> {
    const engine = this.#started;
    const known = [this.#held, this.#opened]
      .filter((model) => model !== undefined)
      .filter(
        (model) => variant === null || model.summary.variants.length === 1 || this.#variants.get(model) === variant,
      );
    // Served files stay as they are while the page is open; others of the same name may hold something else by now.
    const served = known.find(({ summary }) => source.kind === 'builtin' && summary.ref === `builtin:${source.name}`);
    if (served) {
      return served;
    }
    const files = await filesOf(source);
    const same = known.find((model) => model.summary.ref === files.ref && model.isFrom(files));
    if (same) {
      return same;
    }
    const model = await openModel(files, engine, { weights: variant ?? 'full' });
    this.#variants.set(model, variant ?? 'full');
    this.#opened = model;
    return model;
  }

  get #started(): Engine {
    if (!this.#engine) {
      throw new StudioError('internal', 'The engine was not started; reload the page.', { retry: 'same' });
    }
    return this.#engine;
  }

  get #speed(): Speedometer {
    if (!this.#speedometer) {
      throw new StudioError('internal', 'The engine was not started; reload the page.', { retry: 'same' });
    }
    return this.#speedometer;
  }

  get #recording(): Comlink.Remote<RecorderApi> {
    if (!this.#recorder) {
      throw new StudioError('internal', 'The recorder was not connected; reload the page.', { retry: 'same' });
    }
    return this.#recorder;
  }
}

/** The files that a source speaks of. */
async function filesOf(source: CheckpointSource): Promise<CheckpointFiles> {
  switch (source.kind) {
    case 'builtin':
      return ServedFiles.open(
        `builtin:${source.name}`,
        new URL(`${import.meta.env.BASE_URL}checkpoints/${encodeURIComponent(source.name)}/`, self.location.origin),
      );
    case 'folder':
      return new FolderFiles(source.name, source.files);
    case 'stored': {
      const files = await StoredFiles.open(library, source.ref, transformMakers);
      await library.changeManifest(source.ref, { usedAt: Date.now() });
      return files;
    }
    case 'remote':
      return new RemoteFiles(requests, source.listing, source.token);
  }
}

interface Prepared {
  plan: Plan;
  model: LoadedModel;
  engine: Engine;
  /** Null where the plan runs no checkpoint. */
  estimate: Estimate | null;
  speedometer: Speedometer;
  /** Whether pictures are recorded with their settings in them. */
  inscribes: boolean;
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
    plan.notices.forEach((message) => {
      this.#notice(message);
    });
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
      const metadata = {
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
      };
      const settings = this.prepared.inscribes ? settingsOf(metadata) : null;
      await this.#record('output_image', settings ? await inscribe(image, inscriptionOf(settings)) : image, metadata);
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

  #notice(message: string): void {
    this.#notices.push(message);
    this.events.send({ type: 'notice', message });
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
    if (measured && step === steps) {
      this.#observe(steps - 1);
    }
    this.#stage = stage;
    this.events.send({ type: 'progress', progress: { stage: this.#stage, step, steps, secondsLeft } });
  }

  /** Keeps how fast the last `steps` steps were, for the next estimate. */
  #observe(steps: number): void {
    const { plan, engine, estimate, speedometer } = this.prepared;
    const flops = steps * (estimate?.flops?.step ?? 0);
    const seconds = (performance.now() - this.#sampleStarted) / 1000;
    void speedometer.observe(engine.report.precision, plan.variant, flops, seconds);
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

void serve(new GenerationWorker(), self);
