import { tick } from 'svelte';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import type { DeviceReport, Job } from '../core/job.ts';
import type { CheckpointSummary, MemoryBudget } from '../core/model.ts';
import type { OperationInput } from '../core/operation.ts';
import { parseOperation } from '../core/operation.ts';
import type { JobClient } from '../jobs/client.ts';
import type { FolderFile } from '../jobs/folder_source.ts';
import type { Address } from './address.ts';
import { Brought } from './brought.svelte.ts';
import { configFor, planFor } from './catalogue.ts';
import { filesOfHandle } from './disk.svelte.ts';
import { Form } from './form.svelte.ts';
import { Library } from './library.svelte.ts';
import { Persisted } from './persisted.svelte.ts';
import { StartPicture } from './picture.svelte.ts';
import { duration, stageWords } from './progress.ts';
import type { Run } from './runs.ts';
import { fromJob, fromRecord } from './runs.ts';

const BUILTIN = 'shapes';
const RUNS_AT_ONCE = 48;

/** For the next visit. */
const keptSchema = v.object({
  /** What was open last, if it is stored; null for the built-in one. */
  checkpoint: v.fallback(v.nullable(v.string()), null),
  /** What somebody says to plan with, in bytes. */
  memory: v.fallback(v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1))), null),
  /** Whether pictures hold how they were made. */
  inscribes: v.fallback(v.boolean(), true),
});

export interface Alert {
  message: string;
  action: { label: string; run: () => void } | null;
}

/** The page's state: what runs, what was made, what is open, and what a person has to be told. */
export class Studio {
  readonly picture = new StartPicture();
  readonly form = new Form(() => !this.picture.mask.isEmpty);
  readonly library: Library;
  readonly brought = new Brought();

  phase = $state<'starting' | 'ready' | 'failed'>('starting');
  device = $state.raw<DeviceReport | null>(null);
  checkpoint = $state.raw<CheckpointSummary | null>(null);
  isOpening = $state(false);
  /** What comes with the page, once it was opened. */
  builtin = $state.raw<CheckpointSummary | null>(null);
  /** What is planned with; null until the engine is up. */
  budget = $state.raw<MemoryBudget | null>(null);
  /** The id of the folder on disk that is open, or null. */
  diskFolder = $state<string | null>(null);

  jobs = $state.raw<Job[]>([]);
  readonly running = $derived(this.jobs.find((job) => job.state === 'running') ?? null);
  readonly waiting = $derived(this.jobs.filter((job) => job.state === 'pending'));

  runs = $state.raw<Run[]>([]);
  hasMoreRuns = $state(false);
  /** The run on show; what is being made comes before it while `follows`. */
  shown = $state.raw<Run | null>(null);
  /** Whether the stage follows the work, and not somebody who looks at an earlier run. */
  follows = $state(true);

  alert = $state.raw<Alert | null>(null);
  /** Read out politely by screen readers. */
  announcement = $state('');
  /** One sentence about where recordings go, when there is something to say. */
  storageNote = $state<string | null>(null);

  readonly #address: Address;
  readonly #client: JobClient;
  readonly #kept = new Persisted('darkroom.studio', keptSchema);

  constructor(address: Address, client: JobClient) {
    this.#address = address;
    this.#client = client;
    this.library = new Library(client, this);
    client.onChange((jobs) => this.#take(jobs));
    client.onEngine((device) => {
      this.device = device;
    });
    if (address.note !== null) {
      this.tell(address.note);
    }
  }

  readonly config = $derived(this.checkpoint && configFor(this.checkpoint));

  /** Why Generate cannot be pressed, or null when it can. */
  readonly obstacle = $derived.by(() => {
    if (this.phase === 'starting') {
      return 'Getting ready …';
    }
    if (this.phase === 'failed') {
      return 'Darkroom could not start.';
    }
    if (this.isOpening) {
      return 'Opening the checkpoint …';
    }
    return this.config ? null : 'Choose a checkpoint first.';
  });

  async start(): Promise<void> {
    this.phase = 'starting';
    try {
      this.device = await this.#client.start({ backend: this.#address.backend, inscribes: this.inscribes });
      this.phase = 'ready';
      this.budget = await this.#client.planWith(this.#kept.current.memory);
      await this.#openFirst();
    } catch (error) {
      this.phase = 'failed';
      this.tell(StudioError.from(error).message);
    }
    try {
      this.storageNote = (await this.#client.storage()).note;
      await this.loadRuns();
    } catch (error) {
      this.storageNote = StudioError.from(error).message;
    }
  }

  /** Submits the form; false when something in it is wrong, which the fields then say. */
  async generate(): Promise<boolean> {
    const { form, checkpoint, config } = this;
    if (this.obstacle !== null || !checkpoint || !config) {
      this.announce(this.obstacle ?? '');
      return false;
    }
    this.alert = null;
    if (!form.isValid(this.picture.loaded ? 'image_transform' : 'image_generation')) {
      return false;
    }
    try {
      const pictures = await this.picture.prepare(form.width.value, form.height.value);
      this.submit(form.operation(config.id, checkpoint.ref, pictures));
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
    return true;
  }

  submit(input: OperationInput): void {
    const operation = parseOperation(input);
    if (this.checkpoint && operation.checkpoint === this.checkpoint.ref) {
      const planned = planFor(operation, this.checkpoint, this.device);
      if (!planned.ok) {
        throw new StudioError('invalid_operation', planned.reasons[0]?.message ?? 'This cannot run here.');
      }
    }
    this.follows = true;
    const isAlone = this.running === null;
    this.#client.submit(operation);
    if (!isAlone) {
      this.announce(`Waiting in line, place ${this.waiting.length}.`);
    }
  }

  cancel(id = this.running?.id): void {
    if (id !== undefined) {
      void this.#client.cancel(id);
    }
  }

  watch(canvas: OffscreenCanvas): void {
    // Without a preview the picture still comes; an engine that ended says so elsewhere.
    this.#client.watch(canvas).catch(() => undefined);
  }

  /**
   * Opening resolves with false when it failed, which the person was told.
   * @param list finds the files; a dropped folder that cannot be read is told like a checkpoint that cannot
   */
  openFolder(list: () => FolderFile[] | Promise<FolderFile[]>): Promise<boolean> {
    this.alert = null;
    return this.#open(async () => this.#client.openFolder(await list()));
  }

  /** As {@link openFolder}, and from then on it is listed in the library. */
  async openDisk(folder: FileSystemDirectoryHandle): Promise<boolean> {
    const isOpen = await this.openFolder(() => filesOfHandle(folder));
    if (isOpen) {
      this.diskFolder = await this.library.disk.remember(folder);
    }
    return isOpen;
  }

  async openBuiltin(): Promise<boolean> {
    const isOpen = await this.#open(() => this.#client.openBuiltin(BUILTIN));
    if (isOpen) {
      this.builtin = this.checkpoint;
      this.#remember(null);
    }
    return isOpen;
  }

  /** @param ref of a complete one in the library */
  async openStored(ref: string): Promise<boolean> {
    this.alert = null;
    const isOpen = await this.#open(() => this.#client.openStored(ref));
    if (isOpen) {
      this.#remember(ref);
    }
    return isOpen;
  }

  async putPicture(blob: Blob, name: string): Promise<void> {
    try {
      await this.picture.put(blob, name);
      this.announce(`Starting from ${name}.`);
      await this.brought.look(blob);
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  /** Takes over the settings that the starting picture brought along. The picture came out of them and is not what they start from. */
  useBrought(): void {
    this.brought.use(this.form, this.checkpoint?.name ?? null);
    this.picture.remove();
    this.announce(this.brought.outcome ?? '');
  }

  /** Whether pictures are recorded, and leave the page, with how they were made written into them. */
  get inscribes(): boolean {
    return this.#kept.current.inscribes;
  }

  inscribe(isOn: boolean): void {
    this.#kept.current.inscribes = isOn;
    this.#kept.keep();
    this.#client.inscribe(isOn);
  }

  /** What is recorded beside a picture; null where that is lost. */
  async madeHow(run: string, file: string): Promise<Record<string, unknown> | null> {
    const { entities } = await this.#client.run(run);
    return entities.find(({ filename }) => filename === file)?.metadata ?? null;
  }

  /** Brings back the settings of an earlier run, and the picture that it started from; a mask is painted anew. */
  async restore(run: Run): Promise<void> {
    const { image } = run.parameters;
    this.form.restore(run.parameters);
    this.picture.remove();
    try {
      if (image instanceof Blob) {
        await this.picture.put(image, 'Starting picture');
      } else if (typeof image === 'string') {
        await this.picture.put(await this.entity(run.id, image), image);
      }
      this.announce('These settings are in the form now.');
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  show(run: Run): void {
    this.shown = run;
    this.follows = false;
  }

  entity(run: string, file: string): Promise<Blob> {
    return this.#client.entity(run, file);
  }

  async loadRuns(before?: string): Promise<void> {
    const records = await this.#client.runs({ limit: RUNS_AT_ONCE, ...(before === undefined ? {} : { before }) });
    const loaded = records.map(fromRecord).filter((run) => run.pictures.length > 0);
    this.runs = [...this.runs, ...loaded.filter((run) => !this.runs.some((known) => known.id === run.id))];
    this.hasMoreRuns = records.length === RUNS_AT_ONCE;
  }

  async deleteRun(run: Run): Promise<void> {
    try {
      await this.#client.deleteRun(run.id);
      this.runs = this.runs.filter((other) => other.id !== run.id);
      if (this.shown?.id === run.id) {
        this.shown = null;
      }
      this.announce('Deleted.');
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  tell(message: string, action: Alert['action'] = null): void {
    this.alert = { message, action };
  }

  announce(message: string): void {
    // The same text twice would not be read out twice.
    this.announcement = '';
    void tick().then(() => (this.announcement = message));
  }

  /** @param bytes of memory to plan with from now on; null = a guess */
  async planWith(bytes: number | null): Promise<void> {
    try {
      this.budget = await this.#client.planWith(bytes);
      this.#kept.current.memory = bytes;
      this.#kept.keep();
      await this.library.inquiry?.reckon();
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  /** What was open last, where it is still stored; else what comes with the page. */
  async #openFirst(): Promise<void> {
    const known = this.library.start();
    const { checkpoint: ref } = this.#kept.current;
    if (ref !== null) {
      await known;
      const isStored = this.library.stored.some((one) => one.ref === ref && one.state === 'complete');
      if (isStored && (await this.#open(() => this.#client.openStored(ref)))) {
        return;
      }
    }
    await this.openBuiltin();
  }

  #remember(ref: string | null): void {
    this.#kept.current.checkpoint = ref;
    this.#kept.keep();
  }

  async #open(open: () => Promise<CheckpointSummary>): Promise<boolean> {
    this.isOpening = true;
    try {
      this.#use(await open());
      this.announce(`Opened ${this.checkpoint?.name}.`);
      return true;
    } catch (error) {
      this.tell(StudioError.from(error).message);
      return false;
    } finally {
      this.isOpening = false;
    }
  }

  #use(checkpoint: CheckpointSummary): void {
    this.checkpoint = checkpoint;
    this.diskFolder = null;
    if (this.config) {
      this.form.suggest(this.config.suggestions);
    }
  }

  #take(jobs: Job[]): void {
    const before = this.jobs;
    this.jobs = jobs;
    for (const job of jobs) {
      const old = before.find(({ id }) => id === job.id);
      if (job.state === 'running' && job.progress && job.progress.stage !== old?.progress?.stage) {
        this.announce(`${stageWords(job.progress)}.`);
      }
      if (job.state !== old?.state && old?.state !== undefined) {
        this.#onState(job);
      }
    }
  }

  #onState(job: Job): void {
    if (job.state === 'running') {
      this.announce('Started.');
    } else if (job.state === 'completed') {
      const run = fromJob(job);
      if (run) {
        this.runs = [run, ...this.runs];
        this.shown = this.follows ? run : this.shown;
        this.announce(`The picture is ready${run.seconds === null ? '' : `, after ${duration(run.seconds)}`}.`);
      }
    } else if (job.state === 'cancelled') {
      this.announce('Cancelled.');
    } else if (job.state === 'failed' && job.error) {
      const action = job.error.retry === 'same' ? { label: 'Try again', run: () => this.submit(job.operation) } : null;
      this.tell(job.error.message, action);
    }
  }
}
