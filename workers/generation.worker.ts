/** The generation worker: the only place that holds the GPU. One owner class, served by Comlink. */
import type * as Comlink from 'comlink';
import { StudioError } from '../src/core/errors.ts';
import type { DeviceReport, JobEvent, LedgerReport } from '../src/core/job.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, MemoryBudget, WeightVariant } from '../src/core/model.ts';
import type { LoraUse } from '../src/core/loras.ts';
import { parseOperation } from '../src/core/operation.ts';
import { estimateRequest, fit, plan } from '../src/core/plan.ts';
import { smallerThan, type Change } from '../src/core/smaller.ts';
import { Engine } from '../src/engine/engine.ts';
import { deviceKey, IndexedRates, Speedometer, workloads } from '../src/engine/self_measurement.ts';
import { openModel, type Circumstances, type LoadedModel, type ModelLora } from '../src/models/family.ts';
import { memoryBudget } from '../src/models/latent_diffusion/estimate.ts';
import { catalogue } from '../src/pipelines/catalogue.ts';
import { storedLora, storedLoras } from '../src/weights/library/stored_loras.ts';
import { EventSender, callsTo, resign, serve } from './connection.ts';
import { Execution, type Prepared } from './execution.ts';
import type {
  CheckpointSource,
  ExecuteRequest,
  GenerationApi,
  LoraFit,
  RecorderApi,
  StartOptions,
} from './protocol.ts';
import { filesOf, library } from './source_files.ts';

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

  async execute(request: ExecuteRequest, onEvent: (event: JobEvent) => void): Promise<{ run: string }> {
    const events = new EventSender(onEvent);
    events.send({
      type: 'progress',
      progress: { stage: 'load', step: 0, steps: 0, fraction: 0, secondsLeft: null },
    });
    const controller = new AbortController();
    this.#running.set(request.jobId, controller);
    try {
      const prepared = await this.#prepare(request);
      const execution = new Execution(prepared, this.#recording, events, controller.signal, () => this.#canvas);
      return await execution.run(request.run, request.point);
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

  async #prepare({ operation: asked, source, inscribes, point }: ExecuteRequest): Promise<Prepared> {
    const operation = parseOperation(asked);
    const opened = await this.#open(source, null);
    const { summary } = opened;
    let result = plan(operation, catalogue, summary, this.#started.report, point?.parameters);
    const request = result.ok ? estimateRequest(result.plan, summary) : null;
    const estimate = request && (await opened.estimate(request, await this.#circumstances(source, summary)));
    if (result.ok && estimate) {
      result = fit(result.plan, summary, estimate, 'warn');
    }
    if (!result.ok) {
      const [{ code }] = result.reasons;
      throw new StudioError(code, result.reasons.map(({ message }) => message).join(' '), {
        retry: code === 'does_not_fit' ? 'smaller' : 'never',
      });
    }
    const model = await this.#open(source, result.plan.variant);
    // Only here, where no other job runs, may a model be released.
    if (this.#held !== model) {
      await this.#held?.release();
      this.#held = model;
    }
    const load = request ? await model.toLoad({ ...request, weights: result.plan.variant }) : new Map<string, number>();
    return {
      plan: result.plan,
      model,
      engine: this.#started,
      estimate,
      load,
      speedometer: this.#speed,
      mergeLoras: (loras) => mergeLoras(model, loras),
      inscribes,
    };
  }

  async smaller({ operation, source, point, stage }: Parameters<GenerationApi['smaller']>[0]): Promise<Change | null> {
    const opened = await this.#open(source, null);
    const { summary } = opened;
    const planned = plan(parseOperation(operation), catalogue, summary, null, point?.parameters);
    const request = planned.ok ? estimateRequest(planned.plan, summary) : null;
    if (!planned.ok || !request) {
      return null;
    }
    const circumstances = await this.#circumstances(source, summary);
    const estimate = await opened.estimate(request, circumstances);
    const fitted = fit(planned.plan, summary, estimate, 'warn');
    const { id, parameters } = planned.plan.chunks.find((chunk) => typeof chunk.parameters.steps === 'number') ?? {
      id: '',
      parameters: {},
    };
    const { entries = {} } = catalogue.chunks[id].parameters as { entries?: Record<string, unknown> };
    const changes = smallerThan({
      known: new Set(Object.keys(entries)),
      stage,
      request,
      estimate,
      checkpoint: summary,
      variant: fitted.ok ? fitted.plan.variant : (summary.variants.at(-1) ?? 'full'),
    });
    let chosen = changes.at(0) ?? null;
    for (const change of changes) {
      const { recommended } = await opened.estimate({ ...request, ...change.parameters }, circumstances);
      if (recommended !== null) {
        chosen = change;
        break;
      }
    }
    // The same picture, as far as a smaller one can be that.
    const seed = point && 'seed' in parameters ? { seed: parameters.seed } : {};
    return chosen && { ...chosen, parameters: { ...seed, ...chosen.parameters } };
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

  async checkLoras(source: CheckpointSource): Promise<LoraFit[]> {
    const model = await this.#open(source, null);
    if (!model.summary.takesLoras) {
      return [];
    }
    const fits: LoraFit[] = [];
    for (const { ref, name } of await storedLoras(library)) {
      const problem = await openLora(ref, 1)
        .then((lora) => model.checkLora(lora))
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

/** A LoRA of the library, by its ref or its name. */
async function openLora(named: string, weight: number): Promise<ModelLora> {
  const { ref, name, file, sha256 } = await storedLora(library, named);
  return { ref, name, file, sha256, strength: weight };
}

async function mergeLoras(model: LoadedModel, loras: readonly LoraUse[]): Promise<void> {
  const opened = await Promise.all(loras.map(({ lora, weight }) => openLora(lora, weight)));
  await model.useLoras(opened);
  const usedAt = Date.now();
  await Promise.all(opened.map(({ ref = '' }) => library.changeManifest(ref, { usedAt })));
}

void serve(new GenerationWorker(), self);
