/** The generation worker: the only place that holds the GPU. One owner class, served by Comlink. */
import type * as Comlink from 'comlink';
import { StudioError, cancelled } from '../src/core/errors.ts';
import type { DeviceReport, EngineState, JobEvent, LedgerReport } from '../src/core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget, WeightVariant } from '../src/core/model.ts';
import type { LoraUse } from '../src/core/loras.ts';
import { own } from '../src/core/catalogue.ts';
import { estimateRequest, fit } from '../src/core/fit.ts';
import { parseOperation, type Operation } from '../src/core/operation.ts';
import { checkpointOf, checkpointStep, plan, type Plan, type PlanResult } from '../src/core/plan.ts';
import { courseOf, entriesOf } from '../src/core/steps.ts';
import { smallerThan, type Change } from '../src/core/smaller.ts';
import { Engine } from '../src/engine/engine.ts';
import { deviceKey, IndexedRates, Speedometer, workloads } from '../src/engine/self_measurement.ts';
import { ThreadMeasurement, thisMachine } from '../src/engine/threads.ts';
import { openModel, type Circumstances, type LoadedModel, type ModelLora } from '../src/models/family.ts';
import { memoryBudget } from '../src/models/latent_diffusion/estimate.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { storedLora, storedLoras } from '../src/weights/library/stored_loras.ts';
import { EventSender, callsTo, resign, serve } from './connection.ts';
import { Execution, type Prepared } from './execution.ts';
import { GraphWork, type StepModel } from './graph_work.ts';
import { LanguageWork } from './language_work.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import type { ExecuteRequest, GenerationApi, JobPage, LoraFit, StartOptions } from './generation_api.ts';
import type { RecorderApi } from '../src/recorder/recorder_api.ts';
import { filesOf, library } from './source_files.ts';
import type { ThreadsApi } from './threads.worker.ts';
import './media_files.ts';

class GenerationWorker implements GenerationApi {
  #engine: Engine | undefined;
  #recorder: Comlink.Remote<RecorderApi> | undefined;
  /** The checkpoint that was opened last: configurations and headers, no weights yet. */
  #opened: LoadedModel | undefined;
  /** The model of the last job, with its networks on the device. Only one is held: the next one needs its memory. */
  #held: LoadedModel | undefined;
  /** What the networks of models take, as estimated for their last job. */
  readonly #bytes = new WeakMap<LoadedModel, number>();
  readonly #language = new LanguageWork((bytes) => this.#release(bytes));
  #canvas: OffscreenCanvas | null = null;
  #speedometer: Speedometer | undefined;
  /** As the person says; null = a guess. */
  #memoryBytes: number | null = null;
  /** How the models' weights were asked for when they were opened. */
  readonly #variants = new WeakMap<LoadedModel, WeightVariant>();
  readonly #running = new Map<string, AbortController>();
  #preparation: { controller: AbortController; done: Promise<void> } | null = null;
  /** Only where the processor computes, with as many threads as are best. */
  #threads: ThreadMeasurement | null = null;

  async start({
    backend = 'auto',
    precision = 'auto',
    countLaunches = false,
    memoryBytes = null,
    threads = null,
    recorder,
  }: StartOptions & { recorder: MessagePort }): Promise<DeviceReport> {
    this.#recorder = callsTo<RecorderApi>(recorder);
    this.#memoryBytes = memoryBytes;
    this.#engine = await Engine.start({ backend, precision, countLaunches, threads });
    if (this.#engine.provider === 'wasm' && threads === null) {
      this.#threads = new ThreadMeasurement(thisMachine(), rateWithThreads);
    }
    // Told at once, at work or idle: a lost device is replaced by replacing this worker.
    void this.#engine.lost.then((error) => {
      resign(error, self);
    });
    const { report, runtime } = this.#engine;
    const { web, common } = runtime.ort.env.versions;
    this.#speedometer = new Speedometer(deviceKey(report, web ?? common), new IndexedRates());
    return this.#engine.report;
  }

  async openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary> {
    return (await this.#open(source, null)).summary;
  }

  async execute(request: ExecuteRequest, onEvent: (event: JobEvent) => void, page: JobPage): Promise<{ run: string }> {
    const events = new EventSender(onEvent);
    events.send({
      type: 'progress',
      progress: { of: null, stage: 'load', step: 0, steps: 0, fraction: 0, secondsLeft: null },
    });
    const controller = new AbortController();
    this.#running.set(request.jobId, controller);
    this.#threads?.stir();
    try {
      await this.#stopPreparing();
      const prepared = await this.#prepare(request, page);
      const execution = new Execution(prepared, this.#recording, events, controller.signal, () => this.#canvas);
      return await execution.run(request.run, request.point);
    } finally {
      this.#running.delete(request.jobId);
      void this.#threads?.rest();
      await events.delivered();
    }
  }

  cancel(jobId: string): Promise<void> {
    this.#running.get(jobId)?.abort();
    return Promise.resolve();
  }

  async show(picture: Blob): Promise<void> {
    const canvas = this.#canvas;
    const context = this.#running.size > 0 ? null : canvas?.getContext('2d');
    if (!canvas || !context) {
      return;
    }
    const bitmap = await createImageBitmap(picture);
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
  }

  watch(canvas: OffscreenCanvas | null): Promise<void> {
    this.#canvas = canvas;
    return Promise.resolve();
  }

  ledger(): Promise<LedgerReport> {
    return Promise.resolve(this.#started.ledger.report());
  }

  /** @throws StudioError where the operation is not valid or does not fit */
  async #plan({
    operation: asked,
    sources,
    point,
  }: Pick<ExecuteRequest, 'operation' | 'sources' | 'point'>): Promise<{ plan: Plan; models: Map<string, StepModel> }> {
    const operation = parseOperation(asked);
    const opened = await this.#openAll(operation, sources);
    const summaries = (step: string) => opened.get(step)?.model.summary ?? null;
    let result = plan(operation, catalogue, summaries, this.#started.report, point?.parameters);
    const models = new Map<string, StepModel>();
    for (const step of result.ok ? result.plan.steps : []) {
      const found = step.checkpoint === null ? undefined : opened.get(step.id);
      if (!found || !result.ok) {
        continue;
      }
      const { summary } = found.model;
      const request = estimateRequest(step, summary);
      const estimate =
        request && (await found.model.estimate(request, await this.#circumstances(found.source, summary)));
      // The plan speaks of the checkpoint that the config is about; another one is judged in the same way.
      const fitted: PlanResult = estimate ? fit(result.plan, summary, estimate, 'warn') : result;
      const variant = fitted.ok ? fitted.plan.variant : 'full';
      result = !fitted.ok || summary.ref === fitted.plan.checkpoint ? fitted : result;
      const { tile_size: tile } = estimate?.request ?? {};
      if (fitted.ok && tile !== undefined && request?.tile_size === undefined) {
        step.parameters.tile_size = tile;
        fitted.plan.notices.push(
          `The picture is decoded in tiles of ${tile} pixels, because it cannot be decoded as a whole here.`,
        );
      }
      if (fitted.ok && estimate?.request.phased && request?.phased === undefined) {
        step.parameters.phased = true;
        fitted.plan.notices.push(
          'The networks are on the device one after another, because they do not fit together; each picture loads them again.',
        );
      }
      const model = fitted.ok ? await this.#open(found.source, variant) : found.model;
      models.set(step.id, { model, variant, request: estimate?.request ?? request, estimate });
    }
    if (!result.ok) {
      const [{ code }] = result.reasons;
      throw new StudioError(code, result.reasons.map(({ message }) => message).join(' '), {
        retry: code === 'does_not_fit' ? 'smaller' : 'never',
      });
    }
    return { plan: result.plan, models };
  }

  async #prepare(request: ExecuteRequest, page: JobPage): Promise<Prepared> {
    const { plan, models } = await this.#plan(request);
    await this.#language.prepare(page, plan.steps, request.sources);
    const graph =
      models.size === 0
        ? null
        : await GraphWork.prepare({
            engine: this.#started,
            speedometer: this.#speed,
            models,
            makeRoom: (step) => this.#makeRoomFor(step),
            hold: (model) => this.#hold(model),
            mergeLoras,
          });
    return { plan, graph, language: this.#language.client, inscribes: request.inscribes, page };
  }

  engineState(): Promise<EngineState> {
    const held = this.#held;
    const prepared = held && held.onDevice.length > 0;
    return Promise.resolve({
      device: this.#started.report,
      isBusy: this.#running.size > 0,
      prepared: prepared ? { checkpoint: held.summary.ref, networks: [...held.onDevice] } : null,
    });
  }

  async prepare({ operation, sources }: Pick<ExecuteRequest, 'operation' | 'sources'>): Promise<void> {
    await this.#stopPreparing();
    if (this.#running.size > 0) {
      return;
    }
    this.#threads?.stir();
    const controller = new AbortController();
    const done = this.#bring({ operation, sources, point: null }, controller.signal);
    const preparation = { controller, done };
    this.#preparation = preparation;
    try {
      await done;
    } finally {
      if (this.#preparation === preparation) {
        this.#preparation = null;
      }
    }
  }

  async unload(): Promise<void> {
    await this.#stopPreparing();
    if (this.#running.size === 0) {
      const held = this.#held;
      this.#held = undefined;
      await held?.release();
    }
  }

  /** Whoever wants the device waits for the network that is on its way; two must not be brought at once. */
  async #stopPreparing(): Promise<void> {
    this.#preparation?.controller.abort();
    await this.#preparation?.done.catch(() => undefined);
  }

  async #bring(request: Pick<ExecuteRequest, 'operation' | 'sources' | 'point'>, signal: AbortSignal): Promise<void> {
    const { plan: planned, models } = await this.#plan(request);
    const step = checkpointStep(planned);
    const found = step && models.get(step.id);
    const chosen = found?.estimate?.variants.find(({ variant }) => variant === found.variant);
    // Beyond the guess it is tried by a job, whose failure somebody waits for.
    if (!step || !found?.request || !chosen || chosen.misfit !== null || signal.aborted) {
      return;
    }
    this.#bytes.set(found.model, chosen.memory.peak);
    await this.#hold(found.model);
    const { loras } = step.parameters;
    await mergeLoras(found.model, Array.isArray(loras) ? (loras as LoraUse[]) : []);
    await found.model.prepare(found.request, signal);
  }

  async makeRoom(bytes: number): Promise<void> {
    await this.#stopPreparing();
    if (this.#running.size === 0) {
      await this.#release(bytes);
    }
  }

  /**
   * The two engines share the GPU's memory by one rule: before one of them brings a model to it, the other one frees what it holds, unless both
   * fit the budget together.
   */
  async #release(bytes: number): Promise<void> {
    const held = this.#held;
    if (held && (this.#bytes.get(held) ?? 0) + bytes > this.#budget.bytes) {
      this.#held = undefined;
      await held.release();
    }
  }

  /** The other half of {@link #release}. */
  async #makeRoomFor({ model, variant, estimate }: StepModel): Promise<void> {
    const chosen = estimate?.variants.find((one) => one.variant === variant);
    const bytes = chosen?.memory.peak ?? model.summary.memoryBytes;
    this.#bytes.set(model, bytes);
    // An engine that does not answer has ended, and its memory is free.
    await this.#language.client.release(Math.max(0, this.#budget.bytes - bytes)).catch(() => undefined);
  }

  /** Only where no other job runs may a model be released. */
  async #hold(model: LoadedModel): Promise<void> {
    if (this.#held !== model) {
      await this.#held?.release();
      this.#held = model;
    }
  }

  /** What is asked for by the steps of an operation, by step; only summaries are read. */
  async #openAll(
    operation: Operation,
    sources: ExecuteRequest['sources'],
  ): Promise<Map<string, { model: LoadedModel; source: CheckpointSource }>> {
    const opened = new Map<string, { model: LoadedModel; source: CheckpointSource }>();
    const config = own(catalogue.configs, operation.config);
    const course = config ? courseOf(config, catalogue) : '';
    for (const { id, chunk } of typeof course === 'string' ? [] : course.steps) {
      const ref = chunk.meta.needs.checkpoint ? checkpointOf(id, operation) : null;
      const source = ref === null || own(operation.given ?? {}, id) ? undefined : own(sources, ref);
      if (source) {
        opened.set(id, { model: await this.#open(source, null), source });
      }
    }
    return opened;
  }

  async smaller({ operation, sources, point, stage }: Parameters<GenerationApi['smaller']>[0]): Promise<Change | null> {
    const asked = parseOperation(operation);
    const opened = await this.#openAll(asked, sources);
    const summaries = (step: string) => opened.get(step)?.model.summary ?? null;
    const planned = plan(asked, catalogue, summaries, null, point?.parameters);
    const step = planned.ok ? checkpointStep(planned.plan) : undefined;
    const found = step && opened.get(step.id);
    const request = found ? estimateRequest(step, found.model.summary) : null;
    if (!planned.ok || !found || !request) {
      return null;
    }
    const { model, source } = found;
    const circumstances = await this.#circumstances(source, model.summary);
    const estimate = await model.estimate(request, circumstances);
    const fitted = fit(planned.plan, model.summary, estimate, 'warn');
    const changes = smallerThan({
      known: new Set(Object.keys(entriesOf(catalogue.chunks[step.chunk]))),
      stage,
      request,
      estimate,
      checkpoint: model.summary,
      variant: fitted.ok ? fitted.plan.variant : (model.summary.variants.at(-1) ?? 'full'),
    });
    let chosen = changes.at(0) ?? null;
    for (const change of changes) {
      const { recommended } = await model.estimate({ ...request, ...change.parameters }, circumstances);
      if (recommended !== null) {
        chosen = change;
        break;
      }
    }
    // The same picture, as far as a smaller one can be that.
    const seed = point && 'seed' in step.parameters ? { seed: step.parameters.seed } : {};
    return chosen && { ...chosen, parameters: { ...seed, ...chosen.parameters } };
  }

  async estimate(source: CheckpointSource, request: EstimateRequest): Promise<Estimate> {
    this.#threads?.stir();
    const model = await this.#open(source, null);
    // Beside a picture in the making nothing true could be measured.
    if (this.#running.size === 0) {
      const { report } = this.#started;
      const precisions = report.precision === 'f16' ? (['f16', 'f32'] as const) : (['f32'] as const);
      await this.#speed.measured(precisions, workloads(this.#started));
    }
    return model.estimate(request, await this.#circumstances(source, model.summary));
  }

  async checkLoras(source: CheckpointSource): Promise<LoraFit[]> {
    const model = await this.#open(source, null);
    if (!model.summary.takesLoras) {
      return [];
    }
    const fits: LoraFit[] = [];
    for (const { ref, name } of await storedLoras(library)) {
      const fit = await openLora(ref, 1)
        .then((lora) => model.checkLora(lora))
        .then(
          (note) => ({ problem: null, note }),
          (error: unknown) => ({ problem: StudioError.from(error).message, note: null }),
        );
      fits.push({ ref, name, ...fit });
    }
    return fits;
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

/** In a worker of its own, which ends with it. */
async function rateWithThreads(threads: number, signal: AbortSignal): Promise<number> {
  const worker = new Worker(new URL('./threads.worker.ts', import.meta.url), { type: 'module' });
  try {
    const ended = new Promise<never>((_, refuse) => {
      const end = () => {
        refuse(cancelled());
      };
      signal.addEventListener('abort', end);
      worker.addEventListener('error', end);
    });
    return await Promise.race([callsTo<ThreadsApi>(worker).rate(threads), ended]);
  } finally {
    worker.terminate();
  }
}

/** A LoRA of the library, by its ref or its name. */
async function openLora(named: string, weight: number): Promise<ModelLora> {
  const { ref, name, file, sha256 } = await storedLora(library, named);
  return { ref, name, file, sha256, strength: weight };
}

async function mergeLoras(model: LoadedModel, loras: readonly LoraUse[]): Promise<string[]> {
  const opened = await Promise.all(loras.map(({ lora, weight }) => openLora(lora, weight)));
  const leftOut = await model.useLoras(opened);
  const usedAt = Date.now();
  await Promise.all(opened.map(({ ref = '' }) => library.changeManifest(ref, { usedAt })));
  return leftOut;
}

void serve(new GenerationWorker(), self);
