import { StudioError } from '../../core/errors.ts';
import { additionOf, type Addition } from '../../core/additions.ts';
import { loraName } from '../../core/loras.ts';
import type { Estimate, EstimateRequest } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import { folderSource } from '../../jobs/folder_source.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import type { LibraryClient } from '../../jobs/library.ts';
import type {
  AdditionFacts,
  Listing,
  Origin,
  SpaceReport,
  StoredCheckpoint,
  TransferProgress,
} from '../../weights/library/library_api.ts';
import { Disk, pickFolder } from './disk.svelte.ts';
import type { Inquiry } from './inquiry.svelte.ts';
import { KeptSecret } from '../parts/kept_secret.svelte.ts';
import type { Transfer, TransferKind } from './transfer.ts';
import { transferSentence } from './transfer.ts';
import { t } from '../messages/messages.svelte.ts';
import type { Told } from '../parts/told.svelte.ts';
import { view } from '../parts/view.svelte.ts';

/** Checkpoints stored in this browser, being fetched, and being inquired about. */
export class Library {
  readonly token = new KeptSecret('hub-token');
  readonly disk = new Disk();

  stored = $state.raw<StoredCheckpoint[]>([]);
  /** A sentence if the store cannot be read, else null. */
  note = $state<string | null>(null);
  space = $state.raw<SpaceReport | null>(null);
  /** The browser's answer to the request for persistent storage. */
  persistAnswer = $state<string | null>(null);
  /** The current inquiry; null if there is none. */
  inquiry = $state.raw<Inquiry | null>(null);
  /** Number of recorded pictures by each checkpoint, by ref. */
  pictures = $state.raw<Readonly<Record<string, number>>>({});
  /** Refs without variant. */
  acceptedLicenses = $state.raw<string[]>([]);

  /** Results of checks and exports, by ref. */
  #outcomes = $state<Record<string, string>>({});
  /** This tab's transfers, by ref (imports by the folder's name), and other tabs' progress. */
  #here = $state<Record<string, Transfer>>({});
  #elsewhere = $state<Record<string, TransferProgress>>({});

  readonly #client: JobClient;
  readonly #library: LibraryClient;
  readonly #told: Told;
  #isStarted = false;

  constructor(client: JobClient, told: Told) {
    this.#client = client;
    this.#library = client.library;
    this.#told = told;
  }

  /** What paints. */
  readonly checkpoints = $derived(this.stored.filter(({ ref, kind }) => additionOf(ref) === null && kind === 'image'));
  /** Language models and voices. */
  readonly languages = $derived(this.stored.filter(({ kind }) => kind !== 'image'));
  /** What is used beside checkpoints. */
  readonly additions = $derived(this.stored.filter(({ ref }) => additionOf(ref) !== null));
  readonly loras = $derived(this.stored.filter(({ ref }) => additionOf(ref) === 'lora'));
  readonly storedBytes = $derived(this.stored.reduce((sum, { storedBytes }) => sum + storedBytes, 0));

  /** A short line about transfers here, for the masthead; null if there are none. */
  readonly news = $derived.by(() => {
    const [first, ...others] = Object.values(this.#here);
    if (!first) {
      return null;
    }
    const news = transferSentence(first);
    return others.length === 0 ? news : t('{first}, and {n} more', { first: news, n: others.length });
  });

  /** Transfers not listed yet. */
  readonly arriving = $derived(
    Object.entries(this.#here)
      .filter(([key]) => !this.stored.some(({ ref }) => ref === key))
      .map(([, transfer]) => transfer),
  );

  /** Reads what is stored, then follows the changes of this and other tabs. */
  async start(): Promise<void> {
    if (!this.#isStarted) {
      this.#isStarted = true;
      this.#library.onChange(({ type, ref, progress }) => {
        if (type === 'progress' && progress) {
          this.#elsewhere[ref] = progress;
        } else {
          delete this.#elsewhere[ref];
          void this.refresh();
        }
      });
    }
    await Promise.all([this.refresh(), this.disk.restore(), this.token.restore()]);
  }

  async refresh(): Promise<void> {
    try {
      const [stored, accepted, space] = await Promise.all([
        this.#library.list(),
        this.#library.acceptedLicenses(),
        this.#library.space(),
      ]);
      this.stored = stored.sort((a, b) => (b.usedAt ?? b.addedAt) - (a.usedAt ?? a.addedAt));
      this.acceptedLicenses = accepted;
      this.space = space;
      this.note = null;
    } catch (error) {
      this.note = StudioError.from(error).message;
    }
  }

  /** Recounts from the recordings; until then the last number is shown. */
  async countPictures(): Promise<void> {
    try {
      const pictures: Record<string, number> = {};
      for (const run of await this.#client.recordings.find({ limit: Number.MAX_SAFE_INTEGER })) {
        pictures[run.checkpoint] = (pictures[run.checkpoint] ?? 0) + run.results;
      }
      this.pictures = pictures;
    } catch {
      // Unreadable recordings are reported where they are listed.
    }
  }

  /** The transfer of a stored one, by this tab or another; null if there is none. */
  transferOf(checkpoint: StoredCheckpoint): Transfer | null {
    const here = this.#here[checkpoint.ref];
    if (here) {
      return here;
    }
    if (checkpoint.state !== 'downloading') {
      return null;
    }
    const { ref, name, storedBytes, bytes } = checkpoint;
    const seen = { ref, done: storedBytes, total: bytes, bytesPerSecond: null, secondsLeft: null };
    return { kind: 'download', name, progress: this.#elsewhere[ref] ?? seen };
  }

  /** The result of the last check or export in this visit, or null. */
  outcomeOf({ ref }: StoredCheckpoint): string | null {
    return this.#outcomes[ref] ?? null;
  }

  /** Whether this tab does it, so closing the tab ends it. */
  isHere(checkpoint: StoredCheckpoint): boolean {
    return checkpoint.ref in this.#here;
  }

  /** Asks an origin what it has; the answer appears in {@link inquiry}. Nothing is stored. */
  async ask(origin: Origin): Promise<void> {
    const { Inquiry } = await import('./inquiry.svelte.ts');
    const inquiry = new Inquiry(this.#client, origin, this.token.current);
    this.inquiry = inquiry;
    this.#told.announce('Looking …');
    await inquiry.start();
    if (this.inquiry === inquiry) {
      this.#told.announce(inquiry.error ?? `Found ${inquiry.name}.`);
    }
  }

  /** What a run with an open checkpoint would need, as of {@link JobClient.estimate}. */
  estimate(ref: string, request: EstimateRequest): Promise<Estimate> {
    return this.#client.estimate(ref, request);
  }

  /** Fetches the subject of the inquiry, and ends it. */
  async download(inquiry: Inquiry): Promise<void> {
    const { listing, token, variant } = inquiry;
    if (!listing) {
      return;
    }
    this.inquiry = null;
    const { ref, name } = inquiry.stored;
    await this.#transfer('download', ref, name, async (onProgress) => {
      if (listing.license.mustAccept) {
        await this.#library.acceptLicense(listing.ref);
      }
      await this.#library.download({ listing, paths: inquiry.paths, variant, token }, onProgress);
      this.#told.announce(`${name} is stored.`);
    });
  }

  /** Resumes a paused one, or refetches what is damaged. */
  async resume(checkpoint: StoredCheckpoint): Promise<void> {
    await this.#transfer('download', checkpoint.ref, checkpoint.name, async (onProgress) => {
      await this.#library.resume(checkpoint.ref, this.token.current, onProgress);
      this.#told.announce(`${checkpoint.name} is stored.`);
    });
  }

  /** Stops its transfer, in any tab. */
  async pause(checkpoint: StoredCheckpoint): Promise<void> {
    await this.#attempt(async () => {
      await this.#library.pause(checkpoint.ref);
      this.#told.announce('Stopped.');
    });
  }

  async remove(checkpoint: StoredCheckpoint): Promise<void> {
    await this.#attempt(async () => {
      await this.#library.remove(checkpoint.ref);
      this.#told.announce(`Deleted ${checkpoint.name}.`);
    });
  }

  async verify(checkpoint: StoredCheckpoint): Promise<void> {
    await this.#transfer('verify', checkpoint.ref, checkpoint.name, async (onProgress) => {
      const { state } = await this.#library.verify(checkpoint.ref, onProgress);
      if (state === 'complete') {
        this.#conclude(checkpoint, 'Verified just now: every byte is as it should be.');
      } else {
        this.#told.announce(`${checkpoint.name} is damaged.`);
      }
    });
  }

  async exportTo(checkpoint: StoredCheckpoint): Promise<void> {
    await this.#attempt(async () => {
      const folder = await pickFolder('readwrite');
      if (folder) {
        await this.#transfer('export', checkpoint.ref, checkpoint.name, async (onProgress) => {
          await this.#library.exportFolder(checkpoint.ref, folder, onProgress);
          this.#conclude(checkpoint, `Exported to the folder "${folder.name}".`);
        });
      }
    });
  }

  /** @param list finds the files */
  async importFolder(list: () => FolderFile[] | Promise<FolderFile[]>): Promise<void> {
    await this.#attempt(async () => {
      const source = folderSource(await list());
      if (source.kind === 'folder') {
        await this.#transfer('import', source.name, source.name, async (onProgress) => {
          await this.#library.importFolder(source.name, source.files, onProgress);
          this.#told.announce(`${source.name} is stored.`);
        });
      }
    });
  }

  /** Stores weight files from the disk: a checkpoint's together, or an addition. */
  async importFiles(files: File[]): Promise<void> {
    await this.#attempt(async () => {
      if (files.length === 1 && (await this.#library.kindOf(files[0])) !== 'checkpoint') {
        await this.importAddition(files[0]);
      } else {
        await this.importFolder(() => files.map((file) => ({ path: file.name, file })));
      }
    });
  }

  /** Identifies a weight file on disk. @throws StudioError */
  kindOf(file: File): Promise<'checkpoint' | Addition> {
    return this.#library.kindOf(file);
  }

  /** @returns null if it failed, which was reported */
  async importAddition(file: File): Promise<StoredCheckpoint | null> {
    const name = loraName(file.name);
    let stored: StoredCheckpoint | null = null;
    await this.#transfer('import', name, name, async (onProgress) => {
      stored = await this.#library.importAddition(file, onProgress);
      this.#told.announce(`${stored.name} is stored.`);
    });
    return stored;
  }

  /** Files at an origin that could be additions. Nothing is stored. @throws StudioError */
  async lookForLoras(origin: Origin): Promise<Listing> {
    const listing = await this.#library.look(origin, this.token.current);
    return { ...listing, files: listing.files.filter(({ path }) => /\.safetensors$/i.test(path)) };
  }

  /**
   * What one of the listing's files is, and for whom, before it is fetched.
   * @param wantedFor families of the checkpoint that is open
   * @throws StudioError
   */
  lookAtAddition(listing: Listing, path: string, wantedFor?: readonly string[]): Promise<AdditionFacts> {
    return this.#library.lookAtAddition({ listing, path, token: this.token.current, wantedFor });
  }

  /** @param path of the LoRA among the listing's files */
  async downloadAddition(listing: Listing, path: string): Promise<void> {
    const name = loraName(path);
    await this.#transfer('download', `lora:${listing.ref}/${path}`, name, async (onProgress) => {
      if (listing.license.mustAccept) {
        await this.#library.acceptLicense(listing.ref);
      }
      await this.#library.downloadAddition({ listing, path, token: this.token.current }, onProgress);
      this.#told.announce(`${name} is stored.`);
    });
  }

  /** Requests persistent storage and reports the browser's answer. */
  async persist(): Promise<void> {
    // Absent outside secure contexts.
    const storage = (navigator as { storage?: StorageManager }).storage;
    const promised = (await storage?.persist().catch(() => false)) ?? false;
    this.persistAnswer = promised
      ? 'The browser promised to keep it.'
      : 'The browser did not promise it now; it often does for pages that are installed, bookmarked or used a lot, so ask again later.';
    await this.refresh();
  }

  #conclude({ ref }: StoredCheckpoint, outcome: string): void {
    this.#outcomes[ref] = outcome;
    this.#told.announce(outcome);
  }

  async #transfer(
    kind: TransferKind,
    key: string,
    name: string,
    work: (onProgress: (progress: TransferProgress) => void) => Promise<void>,
  ): Promise<void> {
    let at = key;
    delete this.#outcomes[key];
    this.#here[at] = { kind, name, progress: null };
    await this.#attempt(
      () =>
        work((progress) => {
          const transfer = this.#here[at];
          if (!transfer) {
            return;
          }
          transfer.progress = progress;
          // A folder's content is only known once it is read.
          if (progress.ref !== at) {
            delete this.#here[at];
            at = progress.ref;
            this.#here[at] = transfer;
          }
        }),
      () => at,
    );
    delete this.#here[at];
  }

  /**
   * Reports a failure; a pause is none.
   * @param ref of the checkpoint whose card shows it if the library is open
   */
  async #attempt(work: () => Promise<void>, ref: () => string | null = () => null): Promise<void> {
    let failure: StudioError | null = null;
    try {
      await work();
    } catch (error) {
      failure = StudioError.from(error);
    }
    await this.refresh();
    if (failure && failure.code !== 'cancelled') {
      const isOnCard = this.stored.some((one) => one.ref === ref() && one.error?.message === failure.message);
      if (isOnCard && view.current === 'library') {
        this.#told.announce(failure.message);
      } else {
        this.#told.tell(failure.message);
      }
    }
  }
}
