/**
 * The library: checkpoints that are brought here once, from the hub, an address or a folder, go on where they stopped, and are trusted
 * only when every byte was verified. One transfer per checkpoint at a time, over all tabs, by a lock of its name.
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { StudioErrorData } from '../../core/errors.ts';
import { isLoraRef, loraName } from '../../core/loras.ts';
import type { WeightVariant } from '../../core/model.ts';
import type {
  LibraryApi,
  Listing,
  Origin,
  SpaceReport,
  StoredCheckpoint,
  TransferProgress,
} from '../../../workers/protocol.ts';
import { isLora, requireLora } from '../lora.ts';
import { lookAtAddress } from './address.ts';
import { readFolder, writeFolder } from './exported_folder.ts';
import type { Card, FolderFile } from './exported_folder.ts';
import { FileWriter, WrongBytes, digestOf, sha256 } from './file_writer.ts';
import type { ByteSource } from './file_writer.ts';
import { lookAtHub, refusePickle, requireWeights } from './hub.ts';
import type { KeyValues } from './key_values.ts';
import { storageError } from './key_values.ts';
import { OriginFile } from './origin_file.ts';
import { Pace } from './pace.ts';
import type { TransformMakers } from './piece_transform.ts';
import { SCHEMA_VERSION, isPath, listingSchema, variantSchema } from './records.ts';
import type { FileRecord, Manifest, ManifestFile } from './records.ts';
import { RemoteFiles, addressOf } from './remote_files.ts';
import { FileChanged, Requests } from './requests.ts';
import { LibraryStore } from './store.ts';
import type { Listed } from './store.ts';
import { StoredFiles } from './stored_files.ts';
import type { Channel, Clock, Locks, Network, StorageEstimate } from './surroundings.ts';

export interface Surroundings {
  values: KeyValues;
  network: Network;
  clock: Clock;
  locks: Locks;
  channel: Channel;
  storage: StorageEstimate;
  /** Null where no variants can be made. */
  makers: TransformMakers | null;
  /** Smaller in tests only. */
  pieceBytes?: number;
}

type OnProgress = (progress: TransferProgress) => void;

/** A file may change that often while it is fetched before it is given up. */
const CHANGES = 2;
/** And arrive with wrong bytes that often. */
const WRONG = 1;

const requestSchema = v.object({
  listing: listingSchema,
  paths: v.pipe(v.array(v.string()), v.minLength(1)),
  variant: variantSchema,
  token: v.nullable(v.string()),
});

/** A transfer of this tab. */
interface Transfer {
  readonly ref: string;
  readonly abort: AbortController;
  readonly onProgress: OnProgress;
}

export class Library implements LibraryApi {
  readonly #around: Surroundings;
  readonly #store: LibraryStore;
  readonly #requests: Requests;
  readonly #transfers = new Set<Transfer>();

  constructor(around: Surroundings) {
    this.#around = around;
    this.#store = new LibraryStore(around.values);
    this.#requests = new Requests(around.network, around.clock);
    around.channel.listen((message) => {
      for (const transfer of this.#of(message.ref)) {
        if (message.type === 'pause') {
          transfer.abort.abort();
        } else if (message.type === 'progress') {
          // Another tab holds the lock, so ours is waiting for it.
          transfer.onProgress(message.progress);
        }
      }
    });
  }

  look(origin: Origin, token: string | null): Promise<Listing> {
    const { signal } = new AbortController();
    return origin.kind === 'hub'
      ? lookAtHub(this.#requests, origin, token, signal)
      : lookAtAddress(this.#requests, origin, signal);
  }

  async download(
    request: { listing: Listing; paths: string[]; variant: WeightVariant; token: string | null },
    onProgress: OnProgress,
  ): Promise<StoredCheckpoint> {
    const { listing, files, variant, token } = await this.#requested(request);
    const ref = variant === 'full' ? listing.ref : `${listing.ref}#${variant}`;
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      const known = await this.#store.manifest(ref);
      const manifest = known ? extended(known, listing, files) : this.#begun(ref, listing, variant, files);
      if (!known?.complete || !manifest.complete) {
        await this.#store.writeManifest(manifest);
        this.#changed(ref);
        await this.#fetch(manifest, token, signal, tell);
      }
    });
  }

  async downloadLora(
    request: { listing: Listing; path: string; token: string | null },
    onProgress: OnProgress,
  ): Promise<StoredCheckpoint> {
    const { path, token } = request;
    const { listing, files } = await this.#requested({
      listing: request.listing,
      paths: [path],
      variant: 'full',
      token,
    });
    const of = listing.origin.kind === 'hub' ? `${listing.ref}/${path}` : listing.ref;
    const lora = { ...listing, ref: `lora:${of}`, name: loraName(path) };
    return this.#transfer(lora.ref, onProgress, async (signal, tell) => {
      const known = await this.#store.manifest(lora.ref);
      const manifest = known ? extended(known, lora, files) : this.#begun(lora.ref, lora, 'full', files);
      if (!known?.complete || !manifest.complete) {
        await requireLora(await new RemoteFiles(this.#requests, listing, token).blob(path), path);
        await this.#store.writeManifest(manifest);
        this.#changed(lora.ref);
        await this.#fetch(manifest, token, signal, tell);
      }
    });
  }

  async kindOf(file: File): Promise<'checkpoint' | 'lora'> {
    refusePickle(file.name);
    return (await isLora(file, file.name)) ? 'lora' : 'checkpoint';
  }

  async importLora(file: File, onProgress: OnProgress): Promise<StoredCheckpoint> {
    refusePickle(file.name);
    await requireLora(file, file.name);
    const digest = await digestOf(file);
    const loras = (await this.#store.list()).flatMap(({ ref, manifest }) =>
      isLoraRef(ref) && manifest ? [manifest] : [],
    );
    const same = loras.find(({ complete, files }) => complete && files[0]?.sha256 === digest);
    if (same) {
      return this.#describe({ ref: same.ref, manifest: same }, new Set());
    }
    // Another file of that name is another LoRA.
    const stem = loraName(file.name).replace(/#/g, '_') || 'lora';
    const isTaken = (name: string) => loras.some((one) => one.name === name && one.files[0]?.sha256 !== digest);
    let name = stem;
    for (let n = 2; isTaken(name); n++) {
      name = `${stem} (${n})`;
    }
    const ref = `lora:import:${name}`;
    const path = isPath(file.name) ? file.name : `${name}.safetensors`;
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      const known = await this.#store.manifest(ref);
      const manifest = this.#imported(ref, name, [{ path, size: file.size, sha256: digest }], null, known);
      await this.#store.writeManifest(manifest);
      this.#changed(ref);
      await this.#fill(manifest, null, () => new DiskFile(file, path), signal, tell);
    });
  }

  async resume(ref: string, token: string | null, onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      const manifest = await this.#known(ref);
      if (!manifest.complete) {
        await this.#store.writeManifest({ ...manifest, error: null });
        this.#changed(ref);
        await this.#fetch(manifest, token, signal, tell);
      }
    });
  }

  async pause(ref: string): Promise<void> {
    this.#of(ref).forEach(({ abort }) => abort.abort());
    this.#around.channel.post({ type: 'pause', ref });
    // Whoever is at it has stopped when the lock can be had.
    await this.#around.locks.hold(lockOf(ref), new AbortController().signal, () => Promise.resolve());
  }

  async list(): Promise<StoredCheckpoint[]> {
    const [entries, held] = await Promise.all([this.#store.list(), this.#around.locks.held()]);
    return Promise.all(entries.map((entry) => this.#describe(entry, held)));
  }

  async remove(ref: string): Promise<void> {
    await this.pause(ref);
    await this.#around.locks.hold(lockOf(ref), new AbortController().signal, () => this.#store.remove(ref));
    this.#changed(ref);
  }

  async verify(ref: string, onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      let manifest = await this.#known(ref);
      const paths = manifest.files.map(({ path }) => path);
      const records = await this.#store.files(ref, paths);
      const sizes = records.map((record) => record?.pieces.reduce((sum, { length }) => sum + length, 0) ?? 0);
      const pace = new Pace(
        this.#around.clock,
        ref,
        sizes.reduce((sum, size) => sum + size, 0),
        tell,
      );
      for (const [i, path] of paths.entries()) {
        const record = records[i];
        pace.begin(path, 0);
        if (record) {
          const wrong = await this.#wrongPieces(ref, path, record, signal, (count) => pace.add(path, count));
          if (wrong.length > 0) {
            manifest = await this.#store.dropPieces(manifest, path, record, wrong);
            this.#changed(ref);
          }
        } else if (manifest.complete) {
          manifest = { ...manifest, complete: false, damaged: true };
          await this.#store.writeManifest(manifest);
        }
      }
      pace.finish();
    });
  }

  async exportFolder(ref: string, folder: FileSystemDirectoryHandle, onProgress: OnProgress): Promise<void> {
    await this.#transfer(ref, onProgress, async (signal, tell) => {
      const manifest = await this.#store.complete(ref);
      const files = await StoredFiles.open(this.#store, ref, this.#around.makers);
      const records = await this.#store.files(ref, files.paths());
      const expected = new Map(
        files.paths().flatMap((path, i): [string, string][] => {
          const record = records[i];
          return record?.digest && !record.transformed ? [[path, record.digest]] : [];
        }),
      );
      const total = records.reduce((sum, record) => sum + (record?.storedSize ?? 0), 0);
      const pace = new Pace(this.#around.clock, ref, total, tell);
      await writeFolder(manifest, files, expected, folder, signal, (path, count) => pace.add(path, count));
      pace.finish();
    });
  }

  async importFolder(name: string, files: FolderFile[], onProgress: OnProgress): Promise<StoredCheckpoint> {
    const { card, files: found } = await readFolder(name, files);
    const paths = card ? card.files.map(({ path }) => path) : found.map(({ path }) => path).filter(isPath);
    requireWeights(`The folder "${name}"`, paths);
    const disk = new Map(found.map(({ path, file }) => [path, file]));
    const listed: ManifestFile[] =
      card?.files ?? paths.map((path) => ({ path, size: disk.get(path)?.size ?? 0, sha256: null }));
    const ref = card ? card.ref : `import:${name.replace(/[#/\\]/g, '_')}`;
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      const known = await this.#store.manifest(ref);
      if (known?.complete && card) {
        return;
      }
      if (!card) {
        // Without hashes nothing tells whether what is there is of these files.
        await this.#store.remove(ref);
      }
      const manifest = this.#imported(ref, name, listed, card, known);
      await this.#store.writeManifest(manifest);
      this.#changed(ref);
      await this.#fill(manifest, null, (file) => new DiskFile(disk.get(file.path) as File, file.path), signal, tell);
    });
  }

  async space(): Promise<SpaceReport> {
    try {
      const { usage, quota } = await this.#around.storage.estimate();
      return { usage: usage ?? null, quota: quota ?? null, persisted: await this.#around.storage.persisted() };
    } catch {
      return { usage: null, quota: null, persisted: false };
    }
  }

  acceptedLicenses(): Promise<string[]> {
    return this.#store.licenses();
  }

  acceptLicense(ref: string): Promise<void> {
    return this.#store.acceptLicense(ref.replace(/#.*$/, ''));
  }

  /** A request that can be carried out, and the files that it names. */
  async #requested(request: { listing: Listing; paths: string[]; variant: WeightVariant; token: string | null }) {
    const parsed = v.safeParse(requestSchema, request);
    if (!parsed.success) {
      throw new StudioError(
        'invalid_operation',
        `This download does not say what to fetch (${parsed.issues[0].message}); look the checkpoint up again.`,
      );
    }
    const { listing, paths, variant, token } = parsed.output;
    const files = [...new Set(paths)].map((path) => {
      const file = listing.files.find((listed) => listed.path === path);
      if (!file) {
        throw new StudioError('checkpoint_incomplete', `${listing.name} has no ${path}; look it up again.`);
      }
      return file;
    });
    if (listing.license.mustAccept && !(await this.#store.licenses()).includes(listing.ref)) {
      throw new StudioError(
        'invalid_operation',
        `The licence of ${listing.name} (${listing.license.id ?? 'none is stated'}) has to be accepted before it is downloaded; read it and accept it first.`,
      );
    }
    return { listing, files, variant, token };
  }

  #begun(ref: string, listing: Listing, variant: WeightVariant, files: ManifestFile[]): Manifest {
    const { name, origin, revision, license } = listing;
    return {
      schema_version: SCHEMA_VERSION,
      ref,
      name,
      origin,
      revision,
      license,
      variant,
      files,
      addedAt: this.#around.clock.now(),
      usedAt: null,
      complete: false,
      damaged: false,
      imported: false,
      error: null,
    };
  }

  /** Of files from the disk. */
  #imported(ref: string, name: string, files: ManifestFile[], card: Card | null, known: Manifest | null): Manifest {
    return {
      schema_version: SCHEMA_VERSION,
      ref,
      name: card?.name ?? name,
      origin: card?.origin ?? { kind: 'import' },
      revision: card?.revision ?? null,
      license: card?.license ?? { id: null, link: null, mustAccept: false },
      variant: card?.variant ?? 'full',
      files,
      addedAt: known?.addedAt ?? this.#around.clock.now(),
      usedAt: null,
      complete: false,
      damaged: false,
      imported: true,
      error: null,
    };
  }

  /** @throws StudioError `checkpoint_incomplete` when it is not in the library */
  async #known(ref: string): Promise<Manifest> {
    const manifest = await this.#store.manifest(ref);
    if (!manifest) {
      const isForeign = (await this.#store.list()).some((entry) => entry.ref === ref);
      throw new StudioError(
        'checkpoint_incomplete',
        isForeign ? FOREIGN.message : `The checkpoint "${ref}" is not in the library; download it first.`,
      );
    }
    return manifest;
  }

  async #fetch(manifest: Manifest, token: string | null, signal: AbortSignal, tell: OnProgress): Promise<void> {
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

  /**
   * Brings what is missing of a checkpoint's files and marks it complete.
   * @param variant how weights are kept, or null for files that are already as they will be
   */
  async #fill(
    manifest: Manifest,
    variant: WeightVariant | null,
    open: (file: ManifestFile, version: string | null) => ByteSource,
    signal: AbortSignal,
    tell: OnProgress,
  ): Promise<void> {
    const { ref } = manifest;
    const maker = variant === null || variant === 'full' ? null : (this.#around.makers?.[variant] ?? null);
    if (variant !== null && variant !== 'full' && !maker) {
      throw new StudioError(
        'checkpoint_unsupported',
        `Darkroom cannot store weights as ${variant}; download them in full.`,
      );
    }
    const writer = new FileWriter(this.#store, ref, maker, this.#around.pieceBytes);
    // Small ones first: a wrong address or a missing right shows before gigabytes are fetched.
    const files = [...manifest.files].sort((a, b) => a.size - b.size);
    const total = () => files.reduce((sum, { size }) => sum + size, 0);
    const pace = new Pace(this.#around.clock, ref, total(), tell);
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

  /** A file that changed at an address is taken as it is now; one whose hash or commit is known is not. */
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

  async #wrongPieces(
    ref: string,
    path: string,
    record: FileRecord,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<number[]> {
    const wrong: number[] = [];
    for (const [n, { length, sha256: expected }] of record.pieces.entries()) {
      if (signal.aborted) {
        throw stopped();
      }
      if (!record.missing.includes(n)) {
        const [piece] = await this.#store.pieces(ref, path, [n]);
        // A Blob whose file is gone from the disk rejects.
        const bytes = await piece?.arrayBuffer().catch(() => null);
        if (bytes?.byteLength !== length || (await sha256(new Uint8Array(bytes))) !== expected) {
          wrong.push(n);
        }
      }
      onBytes(length);
    }
    return wrong;
  }

  /** Runs `work` as the only transfer of this checkpoint over all tabs. */
  async #transfer(
    ref: string,
    onProgress: OnProgress,
    work: (signal: AbortSignal, tell: OnProgress) => Promise<void>,
  ): Promise<StoredCheckpoint> {
    const transfer: Transfer = { ref, abort: new AbortController(), onProgress };
    const { signal } = transfer.abort;
    const tell = (progress: TransferProgress) => {
      onProgress(progress);
      this.#around.channel.post({ type: 'progress', ref, progress });
    };
    this.#transfers.add(transfer);
    try {
      return await this.#around.locks.hold(lockOf(ref), signal, async () => {
        this.#changed(ref);
        await work(signal, tell);
        const manifest = await this.#known(ref);
        return this.#describe({ ref, manifest }, new Set());
      });
    } catch (error) {
      const failure = signal.aborted ? stopped() : asStudioError(error);
      if (failure.code !== 'cancelled') {
        await this.#note(ref, failure);
      }
      throw failure;
    } finally {
      this.#transfers.delete(transfer);
      this.#changed(ref);
    }
  }

  /** Keeps why an unfinished one stopped. A full disk may have no room for that either; it then shows as paused without a reason. */
  async #note(ref: string, failure: StudioError): Promise<void> {
    try {
      const manifest = await this.#store.manifest(ref);
      if (manifest && !manifest.complete) {
        await this.#store.changeManifest(ref, { error: errorData(failure) });
      }
    } catch {
      // The failure itself is told in any case.
    }
  }

  async #describe(entry: Listed, held: ReadonlySet<string>): Promise<StoredCheckpoint> {
    const { ref, manifest } = entry;
    if (!manifest) {
      return {
        ref,
        name: entry.name || ref,
        origin: { kind: 'import' },
        revision: null,
        license: { id: null, link: null, mustAccept: false },
        variant: 'full',
        state: 'damaged',
        bytes: 0,
        storedBytes: 0,
        addedAt: entry.addedAt,
        usedAt: null,
        error: FOREIGN,
      };
    }
    const { name, origin, revision, license, variant, addedAt, usedAt, complete, damaged, error } = manifest;
    const records = await this.#store.files(
      ref,
      manifest.files.map(({ path }) => path),
    );
    const there = (record: FileRecord | null) =>
      record?.pieces.reduce((sum, { length }, n) => sum + (record.missing.includes(n) ? 0 : length), 0) ?? 0;
    return {
      ref,
      name,
      origin,
      revision,
      license,
      variant,
      state: complete ? 'complete' : held.has(lockOf(ref)) ? 'downloading' : damaged ? 'damaged' : 'paused',
      bytes: manifest.files.reduce((sum, { size }, i) => sum + (records[i]?.storedSize ?? size), 0),
      storedBytes: records.reduce((sum, record) => sum + there(record), 0),
      addedAt,
      usedAt,
      error,
      ...(isLoraRef(ref) && records[0]?.digest ? { sha256: records[0].digest } : {}),
    };
  }

  #of(ref: string): Transfer[] {
    return [...this.#transfers].filter((transfer) => transfer.ref === ref);
  }

  #changed(ref: string): void {
    this.#around.channel.post({ type: 'changed', ref });
  }
}

/** A manifest that this version cannot read is shown, can be removed or fetched anew, and stops nothing else. */
const FOREIGN: StudioErrorData = {
  code: 'checkpoint_incomplete',
  message: 'This checkpoint was stored by another version of Darkroom; download it again, what is still good is kept.',
  retry: 'same',
};

/** A file on disk as a source of bytes. */
class DiskFile implements ByteSource {
  readonly version = null;
  readonly #file: File;
  readonly #path: string;

  constructor(file: File, path: string) {
    this.#file = file;
    this.#path = path;
  }

  async read(
    begin: number,
    end: number,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (signal.aborted) {
      throw stopped();
    }
    try {
      const bytes = new Uint8Array(await this.#file.slice(begin, end).arrayBuffer());
      onBytes(bytes.length);
      return bytes;
    } catch (cause) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${this.#path} could not be read; if its disk was removed, put it back and import the folder again.`,
        { retry: 'same', cause },
      );
    }
  }

  close(): void {
    // Nothing is held open.
  }
}

/** What is there of one checkpoint, with more files than before or newly listed ones. */
function extended(manifest: Manifest, listing: Listing, files: ManifestFile[]): Manifest {
  const same = (a: ManifestFile, b: ManifestFile) => a.path === b.path && a.size === b.size && a.sha256 === b.sha256;
  const kept = manifest.files.filter(({ path }) => !files.some((file) => file.path === path));
  const complete = manifest.complete && files.every((file) => manifest.files.some((known) => same(known, file)));
  const { name, origin, revision, license } = listing;
  return complete
    ? manifest
    : { ...manifest, name, origin, revision, license, files: [...kept, ...files], complete: false, error: null };
}

function lockOf(ref: string): string {
  return `darkroom:library:${ref}`;
}

function stopped(): StudioError {
  return new StudioError('cancelled', 'The transfer was paused; what has arrived is kept.', { retry: 'same' });
}

function asStudioError(error: unknown): StudioError {
  if (error instanceof StudioError) {
    return error;
  }
  return error instanceof DOMException ? storageError(error) : StudioError.from(error);
}

/** Without its cause, which is for the console and could hold anything. */
function errorData(error: StudioError): StudioErrorData {
  const { code, message, retry } = error;
  return { code, message, retry };
}
