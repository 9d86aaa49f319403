/** The owner of the GPU: one per generation worker, served by Comlink. */
import type * as Comlink from 'comlink';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { StudioError } from '../src/core/errors.ts';
import { estimateRequest, fit, upscalingRequest } from '../src/core/fit.ts';
import { furtherCheckpoints, furtherKey } from '../src/core/further_checkpoints.ts';
import type { DeviceReport, EngineState, JobEvent, LedgerReport } from '../src/core/job.ts';
import type { LoraUse } from '../src/core/loras.ts';
import type {
  CheckpointSummary,
  Estimate,
  EstimateRequest,
  MemoryBudget,
  PromptSyntax,
  TokenCount,
} from '../src/core/model.ts';
import type { CheckedAddition } from '../src/core/additions.ts';
import { parseOperation } from '../src/core/operation.ts';
import { checkpointStep, plan, type Plan, type PlanResult } from '../src/core/plan.ts';
import { smallerThan, type Change } from '../src/core/smaller.ts';
import { entriesOf } from '../src/core/steps.ts';
import { mediumNamed } from '../src/media/registry.ts';
import { Engine, type EngineOptions } from '../src/engine/engine.ts';
import { deviceKey, IndexedRates, Speedometer, workloads } from '../src/engine/self_measurement.ts';
import { ThreadMeasurement, thisMachine } from '../src/engine/threads.ts';
import type { Circumstances } from '../src/models/family.ts';
import { memoryBudget } from '../src/models/latent_diffusion/estimate.ts';
import type { RecorderApi } from '../src/recorder/recorder_api.ts';
import type { CheckpointSource } from '../src/weights/checkpoint_source.ts';
import { storedAddition, storedAdditions } from '../src/weights/library/stored_additions.ts';
import { EventSender, callsTo } from './connection.ts';
import { earlierRun } from './earlier_run.ts';
import { Execution } from './execution.ts';
import type { ExecuteRequest, GenerationApi, JobPage, LoraFit, StartOptions } from './generation_api.ts';
import { givenPictures } from './given_files.ts';
import { GraphWork, useBlocks, type StepModel } from './graph_work.ts';
import { LanguageWork } from './language_work.ts';
import { OpenedModels } from './opened_models.ts';
import { library } from './source_files.ts';
import type { Prepared } from './step_context.ts';
import { useAdditions } from './used_additions.ts';
import { mergeLoras, openLora, requireLoras } from './used_loras.ts';
import './media_files.ts';

// As media_files.ts, for what only this worker does. Whoever needs it will retry and see the error.
void import('../src/media/video/writing.ts').catch(() => undefined);
void import('../src/core/noise_sources.ts').catch(() => undefined);

/**
 * On the processor a preparation runs the networks once only where that takes so many operations at most: a few seconds on two slow cores, for which a
 * job that starts meanwhile has to wait. In longer pictures, what the first run costs more (WebAssembly is compiled anew where it is hot) is lost.
 */
const PASS_OPERATIONS = 6e10;

/** What differs by where the owner lives. */
export interface GenerationSurroundings {
  /** Called when the GPU is lost: nothing can be done here any more. */
  resign: (error: StudioError) => void;
  /** Operations per second with so many threads, see `threads.ts`; null where nothing is measured. */
  rate: ((threads: number, signal: AbortSignal) => Promise<number>) | null;
  startEngine?: (options: EngineOptions) => Promise<Engine>;
}

export class GenerationOwner implements GenerationApi {
  readonly #surroundings: GenerationSurroundings;
  #engine: Engine | undefined;
  #recorder: Comlink.Remote<RecorderApi> | undefined;
  readonly #models = new OpenedModels(() => this.#budget);
  readonly #language = new LanguageWork((bytes) => this.#models.release(bytes));
  #canvas: OffscreenCanvas | null = null;
  #speedometer: Speedometer | undefined;
  /** As set by the person; null = a guess. */
  #memoryBytes: number | null = null;
  readonly #running = new Map<string, AbortController>();
  #preparation: { controller: AbortController; done: Promise<void> } | null = null;
  /** Set only if the processor computes and the number of threads is ours to choose. */
  #threads: ThreadMeasurement | null = null;

  constructor(surroundings: GenerationSurroundings) {
    this.#surroundings = surroundings;
  }

  async start({
    backend = 'auto',
    precision = 'auto',
    countLaunches = false,
    memoryBytes = null,
    threads = null,
    runtimeFiles,
    blocks = 'auto',
    recorder,
  }: StartOptions & { recorder: MessagePort }): Promise<DeviceReport> {
    this.#recorder = callsTo<RecorderApi>(recorder);
    this.#memoryBytes = memoryBytes;
    const { rate, resign, startEngine = (options) => Engine.start(options) } = this.#surroundings;
    this.#engine = await startEngine({ backend, precision, countLaunches, threads, runtimeFiles, blocks });
    if (this.#engine.provider === 'wasm' && threads === null && rate) {
      this.#threads = new ThreadMeasurement(thisMachine(), rate);
    }
    // Reported at once, busy or idle: a lost device means replacing this worker.
    void this.#engine.lost.then(resign);
    const { report, runtime } = this.#engine;
    const { web, common } = runtime.ort.env.versions;
    this.#speedometer = new Speedometer(deviceKey(report, web ?? common), new IndexedRates());
    return this.#engine.report;
  }

  async openCheckpoint(source: CheckpointSource): Promise<CheckpointSummary> {
    return (await this.#models.open(this.#started, source, null)).summary;
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
      const { run, isDone } = await earlierRun(request, this.#recording, events);
      if (isDone) {
        return { run };
      }
      await this.#stopPreparing();
      const prepared = await this.#prepare(request, page);
      const execution = new Execution(prepared, this.#recording, events, controller.signal, () => this.#canvas);
      return await execution.run(run, request.point);
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

  /** @throws StudioError if the operation is invalid or does not fit */
  async #plan({
    operation: asked,
    sources,
    point,
  }: Pick<ExecuteRequest, 'operation' | 'sources' | 'point'>): Promise<{ plan: Plan; models: Map<string, StepModel> }> {
    const operation = parseOperation(asked);
    const opened = await this.#models.openAll(this.#started, operation, sources);
    const summaries = summariesOf(opened);
    let result = plan(operation, catalogue, summaries, this.#started.report, point?.parameters);
    const models = new Map<string, StepModel>();
    /** The previous step's output. */
    let picture: { width: number; height: number; batch_size: number } | null = null;
    for (const step of result.ok ? result.plan.steps : []) {
      const found = step.checkpoint === null ? undefined : opened.get(step.id);
      if (!found || !result.ok) {
        continue;
      }
      const { summary } = found.model;
      const { steps, tiled_scale: tiled } = step.parameters;
      // What samples has the size that is asked for, unless tiles are as many as the picture needs.
      const given = typeof steps === 'number' && tiled === undefined ? null : await givenPictures(step.parameters);
      const request = estimateRequest(step, summary, given ?? picture);
      picture = request && { ...request, ...request.whole };
      const estimate =
        request && (await found.model.estimate(request, await this.#circumstances(found.source, summary)));
      // The plan is about the main step's checkpoint; another step's is judged in the same way.
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
      const model = fitted.ok ? await this.#models.open(this.#started, found.source, variant) : found.model;
      models.set(step.id, { model, variant, request: estimate?.request ?? request, estimate });
      for (const { ref } of furtherCheckpoints(catalogue.chunks[step.chunk].meta, step.parameters)) {
        const key = furtherKey(step.id, ref);
        const further = opened.get(key);
        if (further && request && result.ok) {
          const { source } = further;
          const asked = upscalingRequest(request, step.parameters);
          const estimate = await further.model.estimate(
            asked,
            await this.#circumstances(source, further.model.summary),
          );
          const fits = fit(result.plan, further.model.summary, estimate, 'warn');
          result = fits.ok ? result : fits;
          const model = await this.#models.open(this.#started, source, 'full');
          models.set(key, { model, variant: 'full', request: asked, estimate });
        }
      }
    }
    if (!result.ok) {
      const [{ code }] = result.reasons;
      throw new StudioError(code, result.reasons.map(({ message }) => message).join(' '), {
        retry: code === 'does_not_fit' ? 'smaller' : 'never',
      });
    }
    for (const { id, parameters } of result.plan.steps) {
      const found = models.get(id);
      if (found) {
        await requireLoras(found.model, parameters);
      }
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
            hold: (model) => this.#models.hold(model, models),
            useAdditions,
          });
    const { jobId, inscribes } = request;
    return { jobId, plan, graph, language: this.#language.client, inscribes, page };
  }

  engineState(): Promise<EngineState> {
    const prepared = this.#models.onDevice;
    return Promise.resolve({
      device: this.#started.report,
      isBusy: this.#running.size > 0,
      prepared: prepared ? { checkpoint: prepared.summary.ref, networks: [...prepared.onDevice] } : null,
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
      await this.#models.releaseAll();
    }
  }

  /** Waits for the network being loaded, since two must not be loaded at once. */
  async #stopPreparing(): Promise<void> {
    this.#preparation?.controller.abort();
    await this.#preparation?.done.catch(() => undefined);
  }

  async #bring(request: Pick<ExecuteRequest, 'operation' | 'sources' | 'point'>, signal: AbortSignal): Promise<void> {
    // What stands against recording is said when something is recorded.
    this.#recording.storage().catch(() => undefined);
    const { plan: planned, models } = await this.#plan(request);
    const step = checkpointStep(planned);
    const found = step && models.get(step.id);
    const chosen = found?.estimate?.variants.find(({ variant }) => variant === found.variant);
    // Exceeding the guessed memory is left to a job, whose failure somebody sees.
    if (!step || !found?.request || !chosen || chosen.misfit !== null || signal.aborted) {
      return;
    }
    this.#models.expect(found.model, chosen.memory.peak);
    useBlocks(found);
    await this.#models.hold(found.model, models);
    const { loras } = step.parameters;
    await mergeLoras(found.model, Array.isArray(loras) ? (loras as LoraUse[]) : []);
    await found.model.prepare(found.request, signal, this.#mayRun(found));
    for (const { medium } of Object.values(catalogue.chunks[step.chunk].meta.outputs)) {
      await mediumNamed(medium)?.warmUp?.();
    }
    for (const { model, request: asked } of models.values()) {
      if (model !== found.model && asked && !signal.aborted && this.#models.fitsBeside(model)) {
        await this.#models.hold(model, models);
        await model.prepare(asked, signal, false);
      }
    }
  }

  async makeRoom(bytes: number): Promise<void> {
    await this.#stopPreparing();
    if (this.#running.size === 0) {
      await this.#models.release(bytes);
    }
  }

  /** Whether a preparation runs the networks once: one step, with words and decoding. */
  #mayRun({ request, estimate }: StepModel): boolean {
    const { flops = null } = estimate ?? {};
    const pass = request && flops ? flops.total - (request.steps - 1) * flops.step : Infinity;
    return this.#started.provider === 'webgpu' || pass <= PASS_OPERATIONS;
  }

  /** The other half of {@link OpenedModels.release}. */
  async #makeRoomFor({ model, variant, estimate }: StepModel): Promise<void> {
    const chosen = estimate?.variants.find((one) => one.variant === variant);
    const bytes = chosen?.memory.peak ?? model.summary.memoryBytes;
    this.#models.expect(model, bytes);
    // An engine that does not answer is gone, and its memory free.
    await this.#language.client.release(Math.max(0, this.#budget.bytes - bytes)).catch(() => undefined);
  }

  async smaller({ operation, sources, point, stage }: Parameters<GenerationApi['smaller']>[0]): Promise<Change | null> {
    const asked = parseOperation(operation);
    const opened = await this.#models.openAll(this.#started, asked, sources);
    const summaries = summariesOf(opened);
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
    // As close to the same picture as a smaller one can be.
    const seed = point && 'seed' in step.parameters ? { seed: step.parameters.seed } : {};
    return chosen && { ...chosen, parameters: { ...seed, ...chosen.parameters } };
  }

  async estimate(source: CheckpointSource, request: EstimateRequest): Promise<Estimate> {
    this.#threads?.stir();
    const model = await this.#models.open(this.#started, source, null);
    // A measurement beside a running job would be wrong.
    if (this.#running.size === 0) {
      const { report } = this.#started;
      const precisions = report.precision === 'f16' ? (['f16', 'f32'] as const) : (['f32'] as const);
      await this.#speed.measured(precisions, workloads(this.#started));
    }
    return model.estimate(request, await this.#circumstances(source, model.summary));
  }

  async countTokens(source: CheckpointSource, prompt: string, syntax: PromptSyntax): Promise<TokenCount[]> {
    const model = await this.#models.open(this.#started, source, null);
    return 'countTokens' in model ? (model.countTokens?.(prompt, syntax) ?? []) : [];
  }

  async checkLoras(source: CheckpointSource): Promise<LoraFit[]> {
    const model = await this.#models.open(this.#started, source, null);
    if (!model.summary.takesLoras) {
      return [];
    }
    const fits: LoraFit[] = [];
    for (const { ref, name } of await storedAdditions(library, 'lora')) {
      const fit = await openLora({ lora: ref, weight: 1 })
        .then((lora) => model.checkLora(lora))
        .then(
          (note) => ({ problem: null, note }),
          (error: unknown) => ({ problem: StudioError.from(error).message, note: null }),
        );
      fits.push({ ref, name, ...fit });
    }
    return fits;
  }

  async checkAdditions(source: CheckpointSource, kind: CheckedAddition): Promise<Omit<LoraFit, 'note'>[]> {
    const model = await this.#models.open(this.#started, source, null);
    const fits: Omit<LoraFit, 'note'>[] = [];
    for (const { ref, name } of model.checkAddition ? await storedAdditions(library, kind) : []) {
      const problem = await storedAddition(library, kind, ref)
        .then((addition) => model.checkAddition?.(kind, addition))
        .then(
          () => null,
          (error: unknown) => StudioError.from(error).message,
        );
      fits.push({ ref, name, problem });
    }
    return fits;
  }

  planWith(memoryBytes: number | null): Promise<MemoryBudget> {
    this.#memoryBytes = memoryBytes;
    return Promise.resolve(this.#budget);
  }

  get #budget(): MemoryBudget {
    const { deviceMemory } = (globalThis.navigator ?? {}) as { deviceMemory?: number };
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

function summariesOf(opened: ReadonlyMap<string, { model: { summary: CheckpointSummary } }>) {
  return (step: string, further?: string) =>
    opened.get(further === undefined ? step : furtherKey(step, further))?.model.summary ?? null;
}
