import {
  BUILTIN_CHECKPOINTS,
  builtinOf,
  defaultCheckpoint,
  type BuiltinCheckpoint,
} from '../../core/builtin_checkpoints.ts';
import { StudioError } from '../../core/errors.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import { largestOf, type FolderFile } from '../../jobs/folder_source.ts';
import type { DiskHandle } from '../library/disk.svelte.ts';
import type { Library } from '../library/library.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';
import { configFor } from './catalogue.ts';

/** What is kept for the next visit. */
export interface Kept {
  /** `checkpoint`: the ref of the stored or built-in one that was open last; null before any was. */
  current: { checkpoint: string | null };
  keep(): void;
}

/** The turn of what opens by itself. */
const AT_START = 0;

/** The checkpoint that is open. Opening one resolves with false where it failed, which the person is told. */
export class Opened {
  checkpoint = $state.raw<CheckpointSummary | null>(null);
  /** How many are being opened: a person may choose one while another is on its way. */
  #pending = $state(0);
  /** The place in line of the one that is open, and of the one that was asked for last; {@link AT_START} stands before all that a person asks for. */
  #turn = { open: AT_START - 1, asked: AT_START };
  /** What of the checkpoints that come with the page was opened, by id. */
  builtin = $state.raw<Record<string, CheckpointSummary>>({});
  /** The id of the folder on disk that is open, or null. */
  diskFolder = $state<string | null>(null);

  get isOpening(): boolean {
    return this.#pending > 0;
  }

  readonly config = $derived(this.checkpoint && configFor(this.checkpoint));

  /** What comes with the page in place of what is open, where that is none of these classes; null where it is, or nothing comes. */
  standIn(classes: readonly string[]): (BuiltinCheckpoint & { ref: string }) | null {
    const ref = defaultCheckpoint(classes);
    const builtin = builtinOf(ref);
    const isOpen = this.checkpoint !== null && classes.includes(this.checkpoint.pipelineClass);
    return !isOpen && builtin && classes.includes(builtin.pipelineClass) ? { ...builtin, ref } : null;
  }

  readonly #client: JobClient;
  readonly #library: Library;
  readonly #told: Told;
  readonly #kept: Kept;
  readonly #onOpen: (isAtStart: boolean) => void;

  constructor(client: JobClient, library: Library, told: Told, kept: Kept, onOpen: (isAtStart: boolean) => void) {
    this.#client = client;
    this.#library = library;
    this.#told = told;
    this.#kept = kept;
    this.#onOpen = onOpen;
  }

  /** Opens what was open last, where it is still there; else the first of what comes with the page. What a person opened meanwhile stays open. */
  async openLast(): Promise<void> {
    const known = this.#library.start();
    const { checkpoint: ref } = this.#kept.current;
    const builtin = ref === null ? null : builtinOf(ref);
    if (ref !== null && !builtin) {
      await known;
      const isStored = this.#library.stored.some((one) => one.ref === ref && one.state === 'complete');
      if (isStored && (await this.#open(() => this.#client.openStored(ref), AT_START)) !== null) {
        return;
      }
    }
    await this.#openBuiltin(builtin ?? undefined, AT_START);
  }

  /** @param list finds the files; a dropped folder that cannot be read is told like a checkpoint that cannot */
  async openFolder(list: () => FolderFile[] | Promise<FolderFile[]>): Promise<boolean> {
    this.#told.alert = null;
    return (await this.#open(async () => this.#client.openFolder(await list()))) !== null;
  }

  /** As {@link openFolder}, and from then on it is listed in the library. */
  async openDisk(folder: DiskHandle, beside: FileSystemFileHandle[] = []): Promise<boolean> {
    this.#told.alert = null;
    const opened = await this.#open(async () => {
      const { filesOfHandle } = await import('../library/disk_files.ts');
      return this.#client.openFolder(await filesOfHandle(folder, beside));
    });
    if (opened) {
      const id = await this.#library.disk.remember(folder, beside);
      this.diskFolder = this.checkpoint === opened ? id : this.diskFolder;
    }
    return opened !== null;
  }

  /**
   * Opens a checkpoint's files where they lie.
   * @param handles by which the browser can open them again, in the same order; empty where it cannot
   */
  openFiles(files: File[], handles: FileSystemFileHandle[]): Promise<boolean> {
    const first = largestOf(files);
    const beside = handles.filter((_, i) => i !== first);
    return handles[first]
      ? this.openDisk(handles[first], beside)
      : this.openFolder(() => files.map((file) => ({ path: file.name, file })));
  }

  openBuiltin(checkpoint?: BuiltinCheckpoint): Promise<boolean> {
    return this.#openBuiltin(checkpoint);
  }

  async #openBuiltin({ id }: BuiltinCheckpoint = BUILTIN_CHECKPOINTS[0], turn?: number): Promise<boolean> {
    const opened = await this.#open(() => this.#client.openBuiltin(id), turn);
    if (opened) {
      this.builtin = { ...this.builtin, [id]: opened };
      this.#remember(opened);
    }
    return opened !== null;
  }

  /** @param ref of a complete one in the library */
  async openStored(ref: string): Promise<boolean> {
    this.#told.alert = null;
    const opened = await this.#open(() => this.#client.openStored(ref));
    if (opened) {
      this.#remember(opened);
    }
    return opened !== null;
  }

  #remember(opened: CheckpointSummary): void {
    if (this.checkpoint === opened) {
      this.#kept.current.checkpoint = opened.ref;
      this.#kept.keep();
    }
  }

  /** The one that was asked for last is open in the end, however long each takes. @returns null where it failed, which was told */
  async #open(open: () => Promise<CheckpointSummary>, turn = ++this.#turn.asked): Promise<CheckpointSummary | null> {
    this.#pending += 1;
    try {
      const checkpoint = await open();
      if (turn > this.#turn.open) {
        this.#turn.open = turn;
        this.checkpoint = checkpoint;
        this.diskFolder = null;
        this.#onOpen(turn === AT_START);
        this.#told.announce(`Opened ${checkpoint.name}.`);
        if (checkpoint.lacks) {
          this.#told.tell(checkpoint.lacks.join(' '));
        }
      }
      return checkpoint;
    } catch (error) {
      this.#told.tell(StudioError.from(error).message);
      return null;
    } finally {
      this.#pending -= 1;
    }
  }
}
