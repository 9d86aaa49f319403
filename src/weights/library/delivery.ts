/**
 * Fetches a checkpoint's missing files, from its origin or from disk, and marks it complete once every byte of all of them is here and
 * verified.
 */
import { StudioError } from '../../core/errors.ts';
import type { WeightVariant } from '../../core/model.ts';
import { DiskFile } from './disk_file.ts';
import { FileWriter, WrongBytes } from './file_writer.ts';
import type { ByteSource } from './file_writer.ts';
import { OriginFile } from './origin_file.ts';
import { Pace } from './pace.ts';
import type { TransformMakers } from './piece_transform.ts';
import type { Manifest, ManifestFile } from './records.ts';
import { addressOf } from './remote_files.ts';
import { FileChanged } from './requests.ts';
import type { Requests } from './requests.ts';
import type { LibraryStore } from './store.ts';
import type { Clock } from './surroundings.ts';
import type { OnProgress } from './transfers.ts';

/** How many times a file may change while being fetched before giving up. */
const CHANGES = 2;
/** How many times it may arrive with wrong bytes. */
const WRONG = 1;

export class Delivery {
  readonly #store: LibraryStore;
  readonly #requests: Requests;
  readonly #clock: Clock;
  readonly #makers: TransformMakers | null;
  readonly #pieceBytes: number | undefined;

  /**
   * @param makers of variants; null if none can be made
   * @param pieceBytes smaller in tests only
   */
  constructor(
    store: LibraryStore,
    requests: Requests,
    clock: Clock,
    makers: TransformMakers | null,
    pieceBytes: number | undefined,
  ) {
    this.#store = store;
    this.#requests = requests;
    this.#clock = clock;
    this.#makers = makers;
    this.#pieceBytes = pieceBytes;
  }

  /**
   * From its origin.
   * @throws StudioError, also `checkpoint_incomplete` for what came from a folder
   */
  async fetch(manifest: Manifest, token: string | null, signal: AbortSignal, tell: OnProgress): Promise<void> {
    const { origin, revision, variant, imported } = manifest;
    if (origin.kind === 'import' || (imported && variant !== 'full')) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${manifest.name}" came from a folder, so it cannot be fetched; import that folder again.`,
      );
    }
    const at = { origin, revision };
    await this.#fill(
      manifest,
      variant,
      (file, version) => new OriginFile(this.#requests, addressOf(at, file.path, token), file.size, version),
      signal,
      tell,
    );
  }

  /** From files on disk, unchanged. */
  async copy(manifest: Manifest, fileOf: (path: string) => File, signal: AbortSignal, tell: OnProgress): Promise<void> {
    await this.#fill(manifest, null, ({ path }) => new DiskFile(fileOf(path), path), signal, tell);
  }

  /** @param variant how to store weights; null for files that are already in their final form */
  async #fill(
    manifest: Manifest,
    variant: WeightVariant | null,
    open: (file: ManifestFile, version: string | null) => ByteSource,
    signal: AbortSignal,
    tell: OnProgress,
  ): Promise<void> {
    const { ref } = manifest;
    const maker = variant === null || variant === 'full' ? null : (this.#makers?.[variant] ?? null);
    if (variant !== null && variant !== 'full' && !maker) {
      throw new StudioError(
        'checkpoint_unsupported',
        `Darkroom cannot store weights as ${variant}; download them in full.`,
      );
    }
    await this.#store.prepare();
    const writer = new FileWriter(this.#store, ref, maker, this.#pieceBytes);
    // Small files first, so that a wrong address or missing permission shows before gigabytes are fetched.
    const files = [...manifest.files].sort((a, b) => a.size - b.size);
    const total = () => files.reduce((sum, { size }) => sum + size, 0);
    const pace = new Pace(this.#clock, ref, total(), tell);
    for (let i = 0; i < files.length; i++) {
      let changes = 0;
      let wrong = 0;
      for (let isDone = false; !isDone;) {
        const file = files[i];
        try {
          await writer.write(file, (version) => open(file, version), signal, {
            begin: (count) => pace.begin(file.path, count),
            add: (count) => pace.add(file.path, count),
          });
          isDone = true;
        } catch (error) {
          if (!(error instanceof FileChanged || error instanceof WrongBytes)) {
            throw error;
          }
          await this.#store.discardFile(ref, file.path);
          pace.begin(file.path, 0);
          if (error instanceof WrongBytes) {
            wrong++;
          } else {
            changes++;
            files[i] = await this.#asItIsNow(manifest, file, error.size, signal);
          }
          if (wrong > WRONG || changes > CHANGES) {
            throw new StudioError(
              'checkpoint_damaged',
              wrong > WRONG
                ? `${file.path} of "${manifest.name}" arrived with wrong bytes; nothing of it was kept, resume to fetch it again, or look for another origin.`
                : `${file.path} of "${manifest.name}" keeps changing at its origin; look the checkpoint up again later.`,
              { retry: 'same' },
            );
          }
          pace.total = total();
        }
      }
    }
    const changed = manifest.files.map(({ path }) => files.find((file) => file.path === path) as ManifestFile);
    await this.#store.changeManifest(ref, { files: changed, complete: true, damaged: false, error: null });
    pace.finish();
  }

  /** A file that changed at a plain URL is taken as it is now; one with a known hash or commit is not. */
  async #asItIsNow(
    { ref, name, origin, revision }: Manifest,
    file: ManifestFile,
    told: number | null,
    signal: AbortSignal,
  ): Promise<ManifestFile> {
    const refusal = () =>
      new StudioError(
        'checkpoint_damaged',
        `${file.path} of "${name}" is not the file that was listed; look the checkpoint up again.`,
        { retry: 'same' },
      );
    if (origin.kind === 'import') {
      throw refusal();
    }
    const size = told ?? (await this.#requests.probe(addressOf({ origin, revision }, file.path, null), signal));
    if (size === file.size) {
      return file;
    }
    if (origin.kind === 'hub' || file.sha256 !== null || typeof size !== 'number') {
      throw refusal();
    }
    const now = { ...file, size };
    const manifest = await this.#store.manifest(ref);
    await this.#store.changeManifest(ref, {
      files: (manifest?.files ?? []).map((other) => (other.path === file.path ? now : other)),
    });
    return now;
  }
}
