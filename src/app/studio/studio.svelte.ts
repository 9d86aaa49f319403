import { tick } from 'svelte';
import * as v from 'valibot';
import { BUILTIN_CHECKPOINTS, builtinOf, type BuiltinCheckpoint } from '../../core/builtin_checkpoints.ts';
import { StudioError } from '../../core/errors.ts';
import type { Delta, DeviceReport, Job } from '../../core/job.ts';
import type { Sketch } from '../../core/media.ts';
import type { CheckpointSummary, MemoryBudget } from '../../core/model.ts';
import type { Operation, OperationInput } from '../../core/operation.ts';
import { parseOperation } from '../../core/operation.ts';
import type { LostRun } from '../../recorder/recorder_api.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import type { QueueView } from '../../jobs/job_watchers.ts';
import { recogniseFile } from '../../media/registry.ts';
import type { Address } from '../address.ts';
import { Brought } from './brought.svelte.ts';
import { configFor, continued, planFor, rewritesWords } from './catalogue.ts';
import type { ConfigForm } from './config_form.svelte.ts';
import { Unseen, notify } from '../parts/attention.ts';
import { filesOfHandle, findFolder, type DiskHandle } from '../library/disk.svelte.ts';
import { Drafts } from './drafts.svelte.ts';
import { Form } from './form.svelte.ts';
import { isRewriting } from './rewriting_kept.ts';
import { Library } from '../library/library.svelte.ts';
import { Loras } from './loras.svelte.ts';
import { Making } from './making.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import { StartPicture } from './picture.svelte.ts';
import { duration, family, stageWords } from '../parts/progress.ts';
import { Queue } from '../queue/queue.svelte.ts';
import type { Rewriting } from './rewriting.svelte.ts';
import { Recordings } from '../recordings/recordings.svelte.ts';
import type { Run } from '../recordings/runs.ts';
import { fromJob, fromRecord, isWorthShowing, runs, wordOf } from '../recordings/runs.ts';
import { view } from '../parts/view.svelte.ts';

/** The newest, beside the picture; the recordings have all of them. */
const RECENT_RUNS = 18;

/** For the next visit. */
const keptSchema = v.object({
  /** What was open last, if it is stored or built in; null before anything was. */
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
  readonly loras: Loras;
  readonly making: Making;
  readonly recordings: Recordings;
  readonly drafts = new Drafts();
  /** What happens to the words of pictures; null until it was fetched, which it is when somebody uses it. */
  rewriting = $state.raw<Rewriting | null>(null);
  readonly brought = new Brought();
  /** The name of the video or sound that {@link brought} is about; null where it is about the starting picture. */
  recordingOfSettings = $state<string | null>(null);

  /** For the room of sketches, which takes it when it opens. */
  sketchToOpen: { sketch: Sketch; title: string } | null = null;

  phase = $state<'starting' | 'ready' | 'failed'>('starting');
  device = $state.raw<DeviceReport | null>(null);
  checkpoint = $state.raw<CheckpointSummary | null>(null);
  isOpening = $state(false);
  /** What of the checkpoints that come with the page was opened, by id. */
  builtin = $state.raw<Record<string, CheckpointSummary>>({});
  /** What is planned with; null until the engine is up. */
  budget = $state.raw<MemoryBudget | null>(null);
  /** The id of the folder on disk that is open, or null. */
  diskFolder = $state<string | null>(null);

  readonly queue: Queue;
  /** Pictures that were finished while nobody looked at this tab. */
  unseen = $state(0);

  /** The newest ones with results. */
  runs = $state.raw<Run[]>([]);
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
  readonly #unseen = new Unseen((count) => (this.unseen = count));
  /** How the jobs were when they were looked at last. */
  #seen: Record<string, Job> = {};
  #isWatching = false;

  constructor(address: Address, client: JobClient) {
    this.#address = address;
    this.#client = client;
    this.library = new Library(client, this);
    this.recordings = new Recordings(client.recordings, this, (run) => this.#forget(run));
    this.loras = new Loras(client, this.library, this.form);
    this.making = new Making(this.library);
    this.queue = new Queue(client, this);
    client.onChange((view) => this.#take(view));
    // What had happened before is no news.
    void client.queue().then(() => {
      this.#isWatching = true;
      this.#take(client.view);
    });
    client.rememberFolders(findFolder);
    client.rememberSecrets(async (name) => (await import('../engines/servers.svelte.ts')).keptKey(name));
    client.onEngine((device) => {
      this.device = device;
    });
    if (address.note !== null) {
      this.tell(address.note);
    }
    void client.queueLoss.then((loss) => {
      if (loss !== null) {
        this.tell(loss);
      }
    });
  }

  /** For rooms with a state of their own. */
  get client(): JobClient {
    return this.#client;
  }

  get running(): Job | null {
    return this.queue.running;
  }

  get waiting(): Job[] {
    return this.queue.waiting;
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
    if (!this.making.isPainting) {
      return this.#obstacleOfConfig();
    }
    if (this.isOpening) {
      return 'Opening the checkpoint …';
    }
    return this.config ? null : 'Choose a checkpoint first.';
  });

  /** Why the config that is chosen cannot run, or null when it can. */
  #obstacleOfConfig(): string | null {
    const { form, problem } = this.making;
    if (!form) {
      return problem ?? 'Getting ready …';
    }
    const missing = this.making.missingModel(form.course.steps);
    if (missing !== null) {
      return missing === 'speech' ? 'Get a voice first.' : 'Get a language model first.';
    }
    const classes = form.course.main.chunk.meta.needs.checkpoint;
    if (!classes) {
      return null;
    }
    if (this.isOpening) {
      return 'Opening the checkpoint …';
    }
    return this.checkpoint && classes.includes(this.checkpoint.pipelineClass)
      ? null
      : `Choose a checkpoint of the family ${classes.map(family).join(' or ')} first.`;
  }

  async start(): Promise<void> {
    this.phase = 'starting';
    void this.making.open();
    try {
      if (isRewriting()) {
        await this.openRewriting();
      }
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
      await this.#tellLost();
    } catch (error) {
      this.storageNote = StudioError.from(error).message;
    }
  }

  /**
   * Submits the form; false when something in it is wrong, which the fields then say.
   * @param forever whether it is submitted again whenever its picture is done
   */
  async generate({ forever } = { forever: false }): Promise<boolean> {
    const { form, checkpoint, config } = this;
    if (this.obstacle !== null) {
      this.announce(this.obstacle);
      return false;
    }
    this.alert = null;
    if (this.making.form) {
      return this.#generateConfig(this.making.form, forever);
    }
    if (!checkpoint || !config) {
      return false;
    }
    const loras = checkpoint.takesLoras ? this.loras.uses : [];
    const refs = loras.map(({ lora }) => lora);
    if (!form.isValid(this.picture.loaded ? 'image_transform' : 'image_generation', refs)) {
      return false;
    }
    await this.#run(async () => {
      const pictures = await this.picture.prepare(form.width.value, form.height.value);
      const operation = form.operation(config.id, checkpoint.ref, pictures, loras);
      return this.rewriting?.applyTo(operation) ?? operation;
    }, forever);
    return true;
  }

  async #generateConfig(form: ConfigForm, forever: boolean): Promise<boolean> {
    if (!form.isValid()) {
      return false;
    }
    const { steps, main } = form.course;
    await this.#run(() => {
      const checkpoint = main.chunk.meta.needs.checkpoint ? { checkpoint: this.checkpoint?.ref ?? null } : {};
      return { ...form.operation(), ...checkpoint, ...this.making.modelsOf(steps) };
    }, forever);
    return true;
  }

  /** Submits an operation, and tells the person where that fails. */
  async #run(operation: () => OperationInput | Promise<OperationInput>, forever = false): Promise<void> {
    try {
      const job = await this.submit(await operation());
      if (forever) {
        await this.queue.forever(job.id);
      }
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  async submit(input: OperationInput): Promise<Job> {
    const operation = parseOperation(input);
    const isOpen = this.checkpoint !== null && operation.checkpoint === this.checkpoint.ref;
    if (isOpen || operation.checkpoint === null) {
      const planned = planFor(operation, isOpen ? this.checkpoint : null, this.device);
      if (!planned.ok) {
        throw new StudioError('invalid_operation', planned.reasons[0]?.message ?? 'This cannot run here.');
      }
    }
    this.follows = true;
    const isAlone = this.running === null;
    const job = await this.#client.submit(operation);
    if (!isAlone) {
      this.announce(`Waiting in line, place ${this.waiting.length}.`);
    }
    return job;
  }

  cancel(id = this.running?.id): void {
    if (id !== undefined) {
      void this.queue.cancel(id);
    }
  }

  /** The folder on disk that a job waits for, if it was opened before and the browser can open it again. */
  folderOf(checkpoint: string): DiskHandle | null {
    return this.library.disk.folders.find(({ handle }) => `folder:${handle.name}` === checkpoint)?.handle ?? null;
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
  async openDisk(folder: DiskHandle): Promise<boolean> {
    const isOpen = await this.openFolder(() => filesOfHandle(folder));
    if (isOpen) {
      this.diskFolder = await this.library.disk.remember(folder);
    }
    return isOpen;
  }

  /**
   * Takes one weight file: a checkpoint is opened where it lies, a LoRA is stored and switched on.
   * @param handle by which the browser can open it again
   */
  async takeWeights(file: File, handle: FileSystemFileHandle | null = null): Promise<boolean> {
    this.alert = null;
    try {
      if ((await this.library.kindOf(file)) === 'lora') {
        await this.loras.add(file);
        return true;
      }
    } catch (error) {
      this.tell(StudioError.from(error).message);
      return false;
    }
    return handle ? this.openDisk(handle) : this.openFolder(() => [{ path: `${file.name}/${file.name}`, file }]);
  }

  async openBuiltin({ id }: BuiltinCheckpoint = BUILTIN_CHECKPOINTS[0]): Promise<boolean> {
    const isOpen = await this.#open(() => this.#client.openBuiltin(id));
    if (isOpen && this.checkpoint) {
      this.builtin = { ...this.builtin, [id]: this.checkpoint };
      this.#remember(this.checkpoint.ref);
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

  /** A video or a sound is no picture to start from, but may say how it was made. */
  async putPicture(blob: Blob, name: string): Promise<void> {
    const medium = (await recogniseFile(blob))?.medium;
    let refusal: StudioError | null = null;
    if (!medium?.readMetadata || medium.id === 'image') {
      try {
        await this.picture.put(blob, name);
        this.announce(`Starting from ${name}.`);
      } catch (error) {
        refusal = StudioError.from(error);
      }
    } else {
      refusal = new StudioError(
        'media_unreadable',
        `${name} is no picture to start from and does not say how it was made; drop it on the recordings to keep it.`,
      );
    }
    this.recordingOfSettings = null;
    await this.brought.look(blob);
    if (refusal && this.brought.reading) {
      this.recordingOfSettings = name;
      this.announce(`${name} says how it was made.`);
    } else if (refusal) {
      this.tell(refusal.message);
      await this.#lookAgain();
    }
  }

  /** At the picture that stays, after a file that was none. */
  async #lookAgain(): Promise<void> {
    const { loaded } = this.picture;
    if (loaded) {
      await this.brought.look(loaded.blob);
    } else {
      this.brought.forget();
    }
  }

  /** Takes over the settings that the starting picture brought along. The picture came out of them and is not what they start from. */
  useBrought(): void {
    this.brought.use(this.form, this.loras);
    if (this.recordingOfSettings === null) {
      this.picture.remove();
    }
    const outcome = this.brought.outcome(this.checkpoint?.name ?? null);
    this.announce(outcome ? [outcome.sentence, outcome.lost.join(', '), ...outcome.notes].join(' ') : '');
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

  /** Whether a model wrote this sketch, which is here, and has not mended it before. */
  canMend({ operation }: Run): boolean {
    return operation?.operation === 'code_generation' && operation.parameters.error === undefined;
  }

  /** Sends a sketch that failed back to the model that wrote it. */
  async mend({ operation }: Run, sketch: Sketch, error: { message: string; line: number | null }): Promise<void> {
    if (operation) {
      this.alert = null;
      const { parameters } = operation;
      await this.#run(() => ({ ...operation, parameters: { ...parameters, sketch: sketch.source, error } }));
    }
  }

  /** Goes to the room of sketches with this one. */
  openSketch(sketch: Sketch, title: string): void {
    this.sketchToOpen = { sketch, title };
    view.show('sketches');
  }

  async openRewriting(): Promise<void> {
    try {
      const { Rewriting } = await import('./rewriting.svelte.ts');
      this.rewriting ??= new Rewriting(this.making);
    } catch {
      this.tell('What rewrites words could not be loaded; check the connection and reload the page.');
    }
  }

  /** Opens a language model or a voice where it lies, for as long as the page is open. */
  async openLanguageFolder(files: FolderFile[]): Promise<void> {
    this.alert = null;
    try {
      const summary = await this.#client.language.openFolder(files);
      this.making.takeModel(summary);
      this.announce(`Opened ${summary.name}.`);
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  /** Brings back the settings of an earlier run, and the picture that it started from; a mask is painted anew. */
  async restore(run: Run): Promise<void> {
    if (run.operation && (await this.making.chooseConfig(run.operation.config))) {
      await this.#restoreConfig(run);
      return;
    }
    if (run.operation) {
      await this.#restoreRewriting(run.operation);
    }
    const { image } = run.parameters;
    // Its own checkpoint chooses the same by itself, and knows more of it than the names say; any other may choose something else.
    const isOther = run.checkpoint !== this.checkpoint?.name;
    this.form.restore({ ...(isOther ? { sampler: run.sampler, schedule: run.schedule } : {}), ...run.parameters });
    this.loras.restore(run.parameters.loras);
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

  async #restoreRewriting(operation: Operation): Promise<void> {
    if (this.rewriting || rewritesWords(operation.config)) {
      await this.openRewriting();
      this.rewriting?.restore(operation);
    }
  }

  async #restoreConfig({ id, operation }: Run): Promise<void> {
    try {
      await this.making.form?.restore(operation?.parameters ?? {}, (file) => this.entity(id, file));
      this.announce('These settings are in the form now.');
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  /** Runs what comes after a step of an earlier run, with what that step and those before it gave, as the person edited it. */
  async goOn(run: Run, step: string, written: Readonly<Record<string, string>>): Promise<void> {
    const { operation } = run;
    if (operation) {
      this.alert = null;
      await this.#run(() => continued(operation, step, written));
    }
  }

  /** Until each of them was made again or dismissed. */
  async #tellLost(): Promise<void> {
    const lost = await this.recordings.client.lost();
    if (lost.length > 0) {
      this.tell(
        `${runs(lost.length)} that you had recorded ${lost.length === 1 ? 'was' : 'were'} lost by the browser, which can happen when it is killed; the recordings say which, and make them again.`,
        { label: 'Look', run: () => view.show('recordings') },
      );
    }
  }

  /** Submits what a run was asked for that the browser has lost. */
  async makeAgain(run: LostRun): Promise<void> {
    if (!run.operation) {
      return;
    }
    try {
      await this.submit(run.operation);
      this.announce('It is being made again.');
      await this.recordings.forgetLost([run]);
    } catch (error) {
      this.tell(StudioError.from(error).message);
    }
  }

  /** Brings back the settings of a run that the browser has lost, without the picture that it started from. */
  useLost({ operation }: LostRun): void {
    if (operation) {
      this.form.restore(operation.parameters);
      this.loras.restore(operation.parameters.loras);
      this.announce('These settings are in the form now; give it the picture to start from.');
    }
  }

  show(run: Run): void {
    this.shown = run;
    this.follows = false;
  }

  /** The words of a job, told while they are written. @returns what ends it */
  deltas(job: string, listener: (delta: Delta) => void): () => void {
    return this.#client.deltas(job, listener);
  }

  entity(run: string, file: string): Promise<Blob> {
    return this.#client.entity(run, file);
  }

  async loadRuns(): Promise<void> {
    const records = await this.#client.runs({ limit: RECENT_RUNS });
    const loaded = records.map(fromRecord).filter(isWorthShowing);
    const newer = this.runs.filter((run) => !loaded.some((known) => known.id === run.id));
    this.runs = [...newer, ...loaded].slice(0, RECENT_RUNS);
  }

  async deleteRun(run: Run): Promise<void> {
    try {
      await this.#client.deleteRun(run.id);
      this.recordings.forget(run.id);
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

  /** What was open last, where it is still there; else the first of what comes with the page. */
  async #openFirst(): Promise<void> {
    const known = this.library.start();
    const { checkpoint: ref } = this.#kept.current;
    const builtin = ref === null ? null : builtinOf(ref);
    if (ref !== null && !builtin) {
      await known;
      const isStored = this.library.stored.some((one) => one.ref === ref && one.state === 'complete');
      if (isStored && (await this.#open(() => this.#client.openStored(ref)))) {
        return;
      }
    }
    await this.openBuiltin(builtin ?? undefined);
  }

  /** A run is gone. */
  #forget(id: string): void {
    if (this.runs.some((run) => run.id === id)) {
      this.runs = this.runs.filter((run) => run.id !== id);
    }
    if (this.shown?.id === id) {
      this.shown = null;
    }
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
      if (this.checkpoint?.lacks) {
        this.tell(this.checkpoint.lacks.join(' '));
      }
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

  #take(view: QueueView): void {
    this.queue.show(view);
    // After the first look only what changed is looked at: there may be a thousand.
    const changed = !this.#isWatching ? view.jobs : view.jobs.filter(({ id }) => view.changed.has(id));
    for (const job of changed) {
      const old = this.#seen[job.id];
      this.#seen[job.id] = job;
      if (!this.#isWatching) {
        continue;
      }
      if (job.state === 'running' && job.progress && job.progress.stage !== old?.progress?.stage) {
        this.announce(`${stageWords(job)}.`);
      }
      // A quick one may have ended before it was seen waiting.
      if (job.state !== (old?.state ?? 'pending')) {
        this.#onState(job);
      }
    }
  }

  #onState(job: Job): void {
    if (job.state === 'pending') {
      this.announce('Interrupted; it goes on when its turn comes.');
    } else if (job.state === 'running') {
      this.announce('Started.');
    } else if (job.state === 'completed') {
      this.#unseen.add();
      const run = fromJob(job);
      if (run) {
        this.runs = [run, ...this.runs].slice(0, RECENT_RUNS);
        this.shown = this.follows ? run : this.shown;
        const what =
          run.results.length > 0 ? `The ${wordOf(run.results[0])} is ready` : 'The words are ready to be edited';
        this.announce(`${what}${run.seconds === null ? '' : `, after ${duration(run.seconds)}`}.`);
      }
    } else if (job.state === 'cancelled') {
      this.announce('Cancelled.');
    } else if (job.state === 'failed' && job.error) {
      const { error, offer } = job;
      const again = error.retry === 'same' ? { label: 'Try again', run: () => void this.queue.repeat(job.id) } : null;
      const action = offer ? { label: offer.label, run: () => void this.queue.take(offer) } : again;
      this.tell(error.message, action);
    }
    const { notifies, state, running, waiting } = this.queue;
    const isDone = running === null && waiting.length === 0;
    if (isDone && notifies && state.runs === 'here') {
      void notify(job.state === 'completed' ? 'Your pictures are ready.' : 'All is done.');
    }
  }
}
