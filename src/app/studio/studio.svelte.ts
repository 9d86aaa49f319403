import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { UPSCALER } from '../../core/builtin_checkpoints.ts';
import type { Delta, DeviceReport, Job, SoundPiece } from '../../core/job.ts';
import type { Sketch } from '../../core/media.ts';
import type { MemoryBudget } from '../../core/model.ts';
import { parseOperation, type Operation, type OperationInput } from '../../core/operation.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import type { LostRun } from '../../recorder/recorder_api.ts';
import type { Address } from '../address.ts';
import type { DiskHandle } from '../library/disk.svelte.ts';
import { Library } from '../library/library.svelte.ts';
import { Persisted } from '../parts/persisted.svelte.ts';
import { Told } from '../parts/told.svelte.ts';
import { view } from '../parts/view.svelte.ts';
import { JobNews } from '../queue/news.svelte.ts';
import { Queue } from '../queue/queue.svelte.ts';
import { Recordings } from '../recordings/recordings.svelte.ts';
import { runs, type Run } from '../recordings/runs.ts';
import { continued, familyOf, planFor } from './catalogue.ts';
import type { ConfigForm } from './config_form.svelte.ts';
import { Drafts } from './drafts.svelte.ts';
import { Form } from './form.svelte.ts';
import type { Guides } from './guides.svelte.ts';
import { Loras } from './loras.svelte.ts';
import { Making } from './making.svelte.ts';
import { NewestRuns } from './newest.svelte.ts';
import { Opened } from './opened.svelte.ts';
import { StartPicture } from './picture.svelte.ts';
import { Restoring } from './restoring.svelte.ts';
import type { Rewriting } from './rewriting.svelte.ts';
import type { Plots } from './plots.svelte.ts';
import { hasPlots } from './plots_kept.ts';
import { isRewriting } from './rewriting_kept.ts';

/** For the next visit. */
const keptSchema = v.object({
  /** What was open last, if it is stored or built in; null before anything was. */
  checkpoint: v.fallback(v.nullable(v.string()), null),
  /** What somebody says to plan with, in bytes. */
  memory: v.fallback(v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1))), null),
  /** Whether pictures hold how they were made. */
  inscribes: v.fallback(v.boolean(), true),
});

/** The page's state, and what a person does with all of it. */
export class Studio {
  readonly told = new Told();
  readonly picture = new StartPicture();
  readonly form = new Form(() => !this.picture.mask.isEmpty);
  readonly library: Library;
  readonly opened: Opened;
  readonly loras: Loras;
  readonly making: Making;
  readonly recordings: Recordings;
  readonly newest: NewestRuns;
  readonly restoring: Restoring;
  readonly queue: Queue;
  readonly news: JobNews;
  readonly drafts = new Drafts();
  /** What happens to the words of pictures; null until it was fetched, which it is when somebody uses it. */
  rewriting = $state.raw<Rewriting | null>(null);
  /** What guides pictures beside the words; null until somebody uses it, as above. */
  guides = $state.raw<Guides | null>(null);
  /** Pictures of one operation beside each other; null until somebody makes such a plot, or comes back to one. */
  plots = $state.raw<Plots | null>(null);
  /** For the room of sketches, which takes it when it opens. */
  sketchToOpen: { sketch: Sketch; title: string } | null = null;

  phase = $state<'starting' | 'ready' | 'failed'>('starting');
  device = $state.raw<DeviceReport | null>(null);
  /** What is planned with; null until the engine is up. */
  budget = $state.raw<MemoryBudget | null>(null);
  /** One sentence about where recordings go, when there is something to say. */
  storageNote = $state<string | null>(null);

  readonly #address: Address;
  readonly #client: JobClient;
  readonly #kept = new Persisted('darkroom.studio', keptSchema);

  constructor(address: Address, client: JobClient) {
    this.#address = address;
    this.#client = client;
    this.library = new Library(client, this.told);
    this.opened = new Opened(client, this.library, this.told, this.#kept, (isAtStart) => this.#suggest(isAtStart));
    this.newest = new NewestRuns(client);
    this.recordings = new Recordings(client.recordings, this.told, (run) => this.newest.forget(run));
    this.loras = new Loras(client, this.library, this.form);
    this.making = new Making(this.library);
    this.restoring = new Restoring(this, client, this.told);
    this.queue = new Queue(client, this.told, (operation) => this.submit(operation));
    this.news = new JobNews(this.queue, this.told, (job) => this.newest.add(job));
    client.onChange((view) => {
      this.queue.show(view);
      this.news.take(view);
    });
    void client.queue().then(() => {
      this.queue.show(client.view);
      this.news.begin(client.view);
    });
    client.rememberFolders(async (name) => (await import('../library/disk_files.ts')).findFolder(name));
    client.rememberSecrets(async (name) => (await import('../engines/servers.svelte.ts')).keptKey(name));
    client.onEngine((device) => {
      this.device = device;
    });
    if (address.note !== null) {
      this.told.tell(address.note);
    }
    void client.queueLoss.then((loss) => {
      if (loss !== null) {
        this.told.tell(loss);
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
    if (this.opened.isOpening) {
      return 'Opening the checkpoint …';
    }
    return this.opened.config ? null : 'Choose a checkpoint first.';
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
    if (!classes || this.opened.standIn(classes)) {
      return null;
    }
    if (this.opened.isOpening) {
      return 'Opening the checkpoint …';
    }
    return this.opened.checkpoint && classes.includes(this.opened.checkpoint.pipelineClass)
      ? null
      : `Choose a checkpoint of ${familyOf(form.course)} first: open its folder, or get one, under Library.`;
  }

  async start(): Promise<void> {
    this.phase = 'starting';
    void this.making.open();
    try {
      if (isRewriting()) {
        await this.openRewriting();
      }
      if (hasPlots()) {
        await this.openPlots();
      }
      const { memory } = this.#kept.current;
      this.device = await this.#client.start({ ...this.#address, inscribes: this.inscribes, memoryBytes: memory });
      this.phase = 'ready';
      // Not what was kept: code may have set something else meanwhile.
      this.budget = await this.#client.budget();
      await this.opened.openLast();
    } catch (error) {
      this.phase = 'failed';
      this.told.tell(StudioError.from(error).message);
    }
    try {
      this.storageNote = (await this.#client.storage()).note;
      await this.newest.load();
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
    if (this.obstacle !== null) {
      this.told.announce(this.obstacle);
      return false;
    }
    this.told.alert = null;
    if (this.making.form) {
      return this.#generateConfig(this.making.form, forever);
    }
    const compose = this.composed();
    if (!compose) {
      return false;
    }
    await this.#run(compose, forever);
    return true;
  }

  /** What makes an operation of the form of pictures; null when something in it is wrong, which the fields then say. */
  composed(): (() => Promise<OperationInput>) | null {
    const { form } = this;
    const { checkpoint, config } = this.opened;
    if (!checkpoint || !config) {
      return null;
    }
    const loras = checkpoint.takesLoras ? this.loras.uses : [];
    const refs = loras.map(({ lora }) => lora);
    const { guides, picture } = this;
    const isInTiles = picture.loaded !== null && guides?.tiles.isUsed(!picture.mask.isEmpty) === true;
    const isValid = form.isValid(this.picture.loaded ? 'image_transform' : 'image_generation', refs);
    if (guides?.isValid(checkpoint, isInTiles) === false || !isValid) {
      return null;
    }
    return async () => {
      const pictures = await picture.prepare(form.width.value, form.height.value, isInTiles ? 'whole' : form.framing);
      const asked = form.operation(config.id, checkpoint.ref, pictures, loras);
      const operation = guides?.applyTo(asked, checkpoint, isInTiles) ?? asked;
      return this.rewriting?.applyTo(operation) ?? operation;
    };
  }

  async #generateConfig(form: ConfigForm, forever: boolean): Promise<boolean> {
    if (!form.isValid()) {
      return false;
    }
    const { steps, main } = form.course;
    await this.#run(() => {
      const classes = main.chunk.meta.needs.checkpoint;
      const ref = classes && (this.opened.standIn(classes)?.ref ?? this.opened.checkpoint?.ref ?? null);
      const checkpoint = classes ? { checkpoint: ref } : {};
      return { ...form.operation(), ...checkpoint, ...this.making.modelsOf(steps) };
    }, forever);
    return true;
  }

  /** Submits an operation, and tells the person where that fails. */
  async #run(operation: () => OperationInput | Promise<OperationInput>, forever = false): Promise<void> {
    await this.told.report(async () => {
      const job = await this.submit(await operation());
      if (forever) {
        await this.queue.forever(job.id);
      }
    });
  }

  async submit(input: OperationInput): Promise<Job> {
    const operation = this.#judged(parseOperation(input));
    this.newest.follows = true;
    const isAlone = this.running === null;
    const job = await this.#client.submit(operation);
    if (!isAlone) {
      this.told.announce(`Waiting in line, place ${this.waiting.length}.`);
    }
    return job;
  }

  /** Submits those operations all or none, each under an id of its own. */
  async submitAll(asked: readonly { id: string; operation: Operation }[]): Promise<void> {
    const judged = asked.map(({ id, operation }) => ({ id, operation: this.#judged(operation) }));
    this.newest.follows = true;
    for (const { id, operation } of judged) {
      await this.#client.submit(operation, id);
    }
  }

  /** @throws StudioError `invalid_operation` for what certainly cannot run */
  #judged(operation: Operation): Operation {
    const { checkpoint } = this.opened;
    const isOpen = checkpoint !== null && operation.checkpoint === checkpoint.ref;
    if (isOpen || operation.checkpoint === null) {
      const planned = planFor(operation, isOpen ? checkpoint : null, this.device);
      if (!planned.ok) {
        throw new StudioError('invalid_operation', planned.reasons[0]?.message ?? 'This cannot run here.');
      }
    }
    return operation;
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
   * Takes weight files: those of a checkpoint are opened where they lie, additions are stored and switched on.
   * @param handles by which the browser can open them again, in the same order
   */
  async takeWeights(files: File[], handles: FileSystemFileHandle[] = []): Promise<boolean> {
    let isCheckpoint = false;
    const isDone = await this.told.attempt(async () => {
      const kinds = await Promise.all(files.map((file) => this.library.kindOf(file)));
      isCheckpoint = kinds.includes('checkpoint');
      for (const [i, file] of isCheckpoint ? [] : files.entries()) {
        if (kinds[i] === 'lora') {
          await this.loras.add(file);
        } else {
          await (await this.openGuides()).addFile(file);
        }
      }
    });
    return isDone && isCheckpoint ? this.opened.openFiles(files, handles) : isDone;
  }

  /** Makes somebody's own workflow what is made next. */
  async takeWorkflow(file: File): Promise<void> {
    await this.told.attempt(async () => {
      const { workflowIn } = await import('../engines/dropped_workflow.ts');
      const workflow = await workflowIn(file);
      await this.making.chooseConfig('own_workflow');
      if (this.making.way?.config.id !== 'own_workflow') {
        throw new StudioError(
          'invalid_operation',
          'This is a workflow of ComfyUI; enter a ComfyUI server under "Engines", then drop it again.',
        );
      }
      await this.making.form?.restore({ workflow }, () =>
        Promise.reject(new Error('a workflow names no recorded file')),
      );
    });
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
      this.told.alert = null;
      const { parameters } = operation;
      await this.#run(() => ({ ...operation, parameters: { ...parameters, sketch: sketch.source, error } }));
    }
  }

  /** Goes to the room of sketches with this one. */
  openSketch(sketch: Sketch, title: string): void {
    this.sketchToOpen = { sketch, title };
    view.show('sketches');
  }

  async openPlots(): Promise<Plots> {
    const { Plots } = await import('./plots.svelte.ts');
    return (this.plots ??= new Plots(this, this.#client));
  }

  async openGuides(): Promise<Guides> {
    const { Guides } = await import('./guides.svelte.ts');
    return (this.guides ??= new Guides(this.#client, this.library, this.form));
  }

  async openRewriting(): Promise<void> {
    try {
      const { Rewriting } = await import('./rewriting.svelte.ts');
      this.rewriting ??= new Rewriting(this.making);
    } catch {
      this.told.tell('What rewrites words could not be loaded; check the connection and reload the page.');
    }
  }

  /** Opens a language model or a voice where it lies, for as long as the page is open. */
  async openLanguageFolder(files: FolderFile[]): Promise<void> {
    await this.told.attempt(async () => {
      const summary = await this.#client.language.openFolder(files);
      this.making.takeModel(summary);
      this.told.announce(`Opened ${summary.name}.`);
    });
  }

  /** Runs what comes after a step of an earlier run, with what that step and those before it gave, as the person edited it. */
  async goOn(run: Run, step: string, written: Readonly<Record<string, string>>): Promise<void> {
    const { operation } = run;
    if (operation) {
      this.told.alert = null;
      await this.#run(() => continued(operation, step, written));
    }
  }

  /** Until each of them was made again or dismissed. */
  async #tellLost(): Promise<void> {
    const lost = await this.recordings.client.lost();
    if (lost.length > 0) {
      this.told.tell(
        `${runs(lost.length)} that you had recorded ${lost.length === 1 ? 'was' : 'were'} lost by the browser, which can happen when it is killed; the recordings say which, and make them again.`,
        { label: 'Look', run: () => view.show('recordings') },
      );
    }
  }

  /** Submits what a run was asked for that the browser has lost. */
  async makeAgain(run: LostRun): Promise<void> {
    const { operation } = run;
    if (operation) {
      await this.told.report(async () => {
        await this.submit(operation);
        this.told.announce('It is being made again.');
        await this.recordings.forgetLost([run]);
      });
    }
  }

  /** The words of a job, told while they are written. @returns what ends it */
  deltas(job: string, listener: (delta: Delta) => void): () => void {
    return this.#client.deltas(job, listener);
  }

  /** The run of a job that is at work or completed. Not by signals, which still have their old values while a component is taken away. */
  runGoingOn(job: string): string | null {
    const found = this.#client.view.jobs.find(({ id }) => id === job);
    return found?.state === 'running' || found?.state === 'completed' ? found.run : null;
  }

  /** The sound of a job, told while it is made. @returns what ends it */
  sounds(job: string, listener: (piece: SoundPiece) => void): () => void {
    return this.#client.sounds(job, listener);
  }

  entity(run: string, file: string): Promise<Blob> {
    return this.#client.entity(run, file);
  }

  /** Enlarges a recorded picture with the upscaler that comes with the page. */
  async upscale(run: Run, file: string): Promise<void> {
    this.told.alert = null;
    const image = await this.entity(run.id, file);
    await this.#run(() => ({
      operation: 'image_upscale',
      config: 'image_upscale',
      checkpoint: UPSCALER,
      parameters: { image },
    }));
  }

  async deleteRun(run: Run): Promise<void> {
    await this.told.report(async () => {
      await this.#client.deleteRun(run.id);
      this.recordings.forget(run.id);
      this.told.announce('Deleted.');
    });
  }

  /** @param bytes of memory to plan with from now on; null = a guess */
  async planWith(bytes: number | null): Promise<void> {
    await this.told.report(async () => {
      this.budget = await this.#client.planWith(bytes);
      this.#kept.current.memory = bytes;
      this.#kept.keep();
      await this.library.inquiry?.reckon();
    });
  }

  /** What the config of the checkpoint that was just opened suggests. */
  #suggest(isAtStart: boolean): void {
    const { config, checkpoint } = this.opened;
    if (config) {
      this.form.suggest(config.suggestions);
    }
    // What somebody chose while the last checkpoint was opening stays.
    if (!isAtStart || !this.making.isChosen) {
      void this.making.follow(checkpoint?.pipelineClass ?? '', config !== null);
    }
  }
}
