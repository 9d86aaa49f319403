import { BUILTIN_CHECKPOINTS, builtinOf, type BuiltinCheckpoint } from '../../core/builtin_checkpoints.ts';
import { StudioError } from '../../core/errors.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import { filesOfHandle, type DiskHandle } from '../library/disk.svelte.ts';
import type { Library } from '../library/library.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';
import { configFor } from './catalogue.ts';

/** What is kept for the next visit. */
export interface Kept {
  /** `checkpoint`: the ref of the stored or built-in one that was open last; null before any was. */
  current: { checkpoint: string | null };
  keep(): void;
}

/** The checkpoint that is open. Opening one resolves with false where it failed, which the person is told. */
export class Opened {
  checkpoint = $state.raw<CheckpointSummary | null>(null);
  isOpening = $state(false);
  /** What of the checkpoints that come with the page was opened, by id. */
  builtin = $state.raw<Record<string, CheckpointSummary>>({});
  /** The id of the folder on disk that is open, or null. */
  diskFolder = $state<string | null>(null);

  readonly config = $derived(this.checkpoint && configFor(this.checkpoint));

  readonly #client: JobClient;
  readonly #library: Library;
  readonly #told: Told;
  readonly #kept: Kept;
  readonly #onOpen: () => void;

  constructor(client: JobClient, library: Library, told: Told, kept: Kept, onOpen: () => void) {
    this.#client = client;
    this.#library = library;
    this.#told = told;
    this.#kept = kept;
    this.#onOpen = onOpen;
  }

  /** Opens what was open last, where it is still there; else the first of what comes with the page. */
  async openLast(): Promise<void> {
    const known = this.#library.start();
    const { checkpoint: ref } = this.#kept.current;
    const builtin = ref === null ? null : builtinOf(ref);
    if (ref !== null && !builtin) {
      await known;
      const isStored = this.#library.stored.some((one) => one.ref === ref && one.state === 'complete');
      if (isStored && (await this.#open(() => this.#client.openStored(ref)))) {
        return;
      }
    }
    await this.openBuiltin(builtin ?? undefined);
  }

  /** @param list finds the files; a dropped folder that cannot be read is told like a checkpoint that cannot */
  openFolder(list: () => FolderFile[] | Promise<FolderFile[]>): Promise<boolean> {
    this.#told.alert = null;
    return this.#open(async () => this.#client.openFolder(await list()));
  }

  /** As {@link openFolder}, and from then on it is listed in the library. */
  async openDisk(folder: DiskHandle): Promise<boolean> {
    const isOpen = await this.openFolder(() => filesOfHandle(folder));
    if (isOpen) {
      this.diskFolder = await this.#library.disk.remember(folder);
    }
    return isOpen;
  }

  /**
   * Opens a checkpoint of one file where it lies.
   * @param handle by which the browser can open it again
   */
  openFile(file: File, handle: FileSystemFileHandle | null): Promise<boolean> {
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
    this.#told.alert = null;
    const isOpen = await this.#open(() => this.#client.openStored(ref));
    if (isOpen) {
      this.#remember(ref);
    }
    return isOpen;
  }

  #remember(ref: string): void {
    this.#kept.current.checkpoint = ref;
    this.#kept.keep();
  }

  async #open(open: () => Promise<CheckpointSummary>): Promise<boolean> {
    this.isOpening = true;
    try {
      const checkpoint = await open();
      this.checkpoint = checkpoint;
      this.diskFolder = null;
      this.#onOpen();
      this.#told.announce(`Opened ${checkpoint.name}.`);
      if (checkpoint.lacks) {
        this.#told.tell(checkpoint.lacks.join(' '));
      }
      return true;
    } catch (error) {
      this.#told.tell(StudioError.from(error).message);
      return false;
    } finally {
      this.isOpening = false;
    }
  }
}
