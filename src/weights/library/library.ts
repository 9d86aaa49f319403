/**
 * The library: checkpoints from the hub, a URL or a folder. Transfers resume where they stopped, and a checkpoint is only trusted once
 * every byte is verified. A lock per checkpoint allows one transfer at a time across all tabs.
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { StudioErrorData } from '../../core/errors.ts';
import { isLanguageLayout, readLanguageConfig } from '../../core/language.ts';
import { additionOf, additionPlace, type Addition } from '../../core/additions.ts';
import { loraName } from '../../core/loras.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { ModelHashes } from '../../core/model_hashes.ts';
import type {
  AdditionFacts,
  AdditionRequest,
  LibraryApi,
  Listing,
  Origin,
  SpaceReport,
  StoredCheckpoint,
} from './library_api.ts';
import type { Witness } from '../../storage/witness.ts';
import { lookAtAddress } from './address.ts';
import { Delivery } from './delivery.ts';
import { readFolder, writeFolder } from './exported_folder.ts';
import type { FolderFile } from './exported_folder.ts';
import { hashesOf } from '../fingerprint.ts';
import { familiesOfLora } from '../lora.ts';
import { otherFamily } from '../lora_families.ts';
import { digestOf, isWhole } from './file_writer.ts';
import { additionIn, requireAddition } from './addition_kinds.ts';
import { lookAtHub, refusePickle, requireWeights } from './hub.ts';
import type { KeyValues } from './key_values.ts';
import { extended, fromDisk, fromListing } from './manifests.ts';
import { Pace } from './pace.ts';
import type { TransformMakers } from './piece_transform.ts';
import { isPath, listingSchema, variantSchema } from './records.ts';
import type { FileRecord, Manifest, ManifestFile } from './records.ts';
import { RemoteFiles } from './remote_files.ts';
import { Requests } from './requests.ts';
import { LibraryStore } from './store.ts';
import type { Listed } from './store.ts';
import { StoredFiles } from './stored_files.ts';
import type { Channel, Clock, Locks, Network, StorageEstimate } from './surroundings.ts';
import { Transfers, stopped } from './transfers.ts';
import type { OnProgress } from './transfers.ts';

export interface Surroundings {
  values: KeyValues;
  /** Also records what is stored, to notice an emptied database; null if there is none. */
  witness: Witness | null;
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

const requestSchema = v.object({
  listing: listingSchema,
  paths: v.pipe(v.array(v.string()), v.minLength(1)),
  variant: variantSchema,
  token: v.nullable(v.string()),
});

const WEIGHTS = /\.(safetensors|gguf)$/i;

export class Library implements LibraryApi {
  readonly #around: Surroundings;
  readonly #store: LibraryStore;
  readonly #requests: Requests;
  readonly #transfers: Transfers;
  readonly #delivery: Delivery;

  constructor(around: Surroundings) {
    const { values, witness, network, clock, locks, channel, makers, pieceBytes } = around;
    this.#around = around;
    this.#store = new LibraryStore(values, witness);
    this.#requests = new Requests(network, clock);
    this.#transfers = new Transfers(locks, channel);
    this.#delivery = new Delivery(this.#store, this.#requests, clock, makers, pieceBytes);
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
      const manifest = known
        ? extended(known, listing, files)
        : fromListing(ref, listing, variant, files, this.#around.clock.now());
      if (!known?.complete || !manifest.complete) {
        await this.#store.writeManifest(manifest);
        this.#changed(ref);
        await this.#delivery.fetch(manifest, token, signal, tell);
      }
    });
  }

  async downloadAddition(
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
    const place = additionPlace(listing, path);
    // What is here is not asked again what it is.
    const here = (await this.#store.list()).find(({ ref }) => additionOf(ref) !== null && ref.endsWith(`:${place}`));
    const kind =
      additionOf(here?.ref ?? '') ??
      (await requireAddition(await new RemoteFiles(this.#requests, listing, token).blob(path), path));
    const addition = { ...listing, ref: `${kind}:${place}`, name: nameOf(listing, path) };
    return this.#transfer(addition.ref, onProgress, async (signal, tell) => {
      const known = await this.#store.manifest(addition.ref);
      const manifest = known
        ? extended(known, addition, files)
        : fromListing(addition.ref, addition, 'full', files, this.#around.clock.now());
      if (!known?.complete || !manifest.complete) {
        await this.#store.writeManifest(manifest);
        this.#changed(addition.ref);
        await this.#delivery.fetch(manifest, token, signal, tell);
      }
    });
  }

  async lookAtAddition({ listing, path, token, wantedFor = [] }: AdditionRequest): Promise<AdditionFacts> {
    const blob = await new RemoteFiles(this.#requests, listing, token).blob(path);
    const kind = await requireAddition(blob, path);
    const families = kind === 'lora' ? await familiesOfLora(blob, path) : [];
    const other = otherFamily(families, wantedFor);
    return { kind, families, problem: other && `The LoRA ${loraName(path)} ${other}.` };
  }

  async kindOf(file: File): Promise<'checkpoint' | Addition> {
    refusePickle(file.name);
    // Additions only come as safetensors.
    return /\.safetensors$/i.test(file.name) ? ((await additionIn(file, file.name)) ?? 'checkpoint') : 'checkpoint';
  }

  async importAddition(file: File, onProgress: OnProgress): Promise<StoredCheckpoint> {
    refusePickle(file.name);
    const kind = await requireAddition(file, file.name);
    const digest = await digestOf(file);
    const others = (await this.#store.list()).flatMap(({ ref, manifest }) =>
      additionOf(ref) === kind && manifest ? [manifest] : [],
    );
    const same = others.find(({ complete, files }) => complete && files[0]?.sha256 === digest);
    if (same) {
      return this.#describe({ ref: same.ref, manifest: same }, false);
    }
    // Another file of that name is another one of its kind.
    const stem = loraName(file.name).replace(/#/g, '_') || kind;
    const isTaken = (name: string) => others.some((one) => one.name === name && one.files[0]?.sha256 !== digest);
    let name = stem;
    for (let n = 2; isTaken(name); n++) {
      name = `${stem} (${n})`;
    }
    const ref = `${kind}:import:${name}`;
    const path = isPath(file.name) ? file.name : `${name}.safetensors`;
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      const known = await this.#store.manifest(ref);
      const manifest = fromDisk(
        ref,
        name,
        [{ path, size: file.size, sha256: digest }],
        null,
        known?.addedAt ?? this.#around.clock.now(),
      );
      await this.#store.writeManifest(manifest);
      this.#changed(ref);
      await this.#delivery.copy(manifest, () => file, signal, tell);
    });
  }

  async hashes(ref: string): Promise<ModelHashes | null> {
    const files = await StoredFiles.open(this.#store, ref, this.#around.makers);
    const [path, ...others] = files.paths().filter((one) => WEIGHTS.test(one));
    return path === undefined || others.length > 0 || files.sha256(path) === null ? null : hashesOf(files, path);
  }

  async resume(ref: string, token: string | null, onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#transfer(ref, onProgress, async (signal, tell) => {
      const manifest = await this.#known(ref);
      if (!manifest.complete) {
        await this.#store.writeManifest({ ...manifest, error: null });
        this.#changed(ref);
        await this.#delivery.fetch(manifest, token, signal, tell);
      }
    });
  }

  async pause(ref: string): Promise<void> {
    await this.#transfers.pause(ref);
  }

  async list(): Promise<StoredCheckpoint[]> {
    const [entries, isUnderWay] = await Promise.all([this.#store.list(), this.#transfers.underWay()]);
    return Promise.all(entries.map((entry) => this.#describe(entry, isUnderWay(entry.ref))));
  }

  async remove(ref: string): Promise<void> {
    await this.#transfers.pause(ref, () => this.#store.remove(ref));
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
        // Without hashes there is no telling whether the stored bytes belong to these files.
        await this.#store.remove(ref);
      }
      const manifest = fromDisk(ref, name, listed, card, known?.addedAt ?? this.#around.clock.now());
      await this.#store.writeManifest(manifest);
      this.#changed(ref);
      await this.#delivery.copy(manifest, (path) => disk.get(path) as File, signal, tell);
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

  /** A valid request and the files it names. */
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

  /** @throws StudioError `checkpoint_incomplete` if it is not in the library */
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

  async #wrongPieces(
    ref: string,
    path: string,
    record: FileRecord,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<number[]> {
    const wrong: number[] = [];
    for (const [n, expected] of record.pieces.entries()) {
      if (signal.aborted) {
        throw stopped();
      }
      if (!record.missing.includes(n)) {
        const [piece] = await this.#store.pieces(ref, path, [n]);
        if (!(await isWhole(piece, expected))) {
          wrong.push(n);
        }
      }
      onBytes(expected.length);
    }
    return wrong;
  }

  /** Runs `work` as the only transfer of this checkpoint across all tabs, and returns its state afterwards. */
  async #transfer(
    ref: string,
    onProgress: OnProgress,
    work: (signal: AbortSignal, tell: OnProgress) => Promise<void>,
  ): Promise<StoredCheckpoint> {
    try {
      return await this.#transfers.run(ref, onProgress, async (signal, tell) => {
        this.#changed(ref);
        await work(signal, tell);
        const manifest = await this.#known(ref);
        return this.#describe({ ref, manifest }, false);
      });
    } catch (error) {
      const failure = StudioError.from(error);
      if (failure.code !== 'cancelled') {
        await this.#note(ref, failure);
      }
      throw failure;
    } finally {
      this.#changed(ref);
    }
  }

  /** Stores why an unfinished one stopped. If a full disk has no room for that, it shows as paused without a reason. */
  async #note(ref: string, failure: StudioError): Promise<void> {
    try {
      const manifest = await this.#store.manifest(ref);
      if (manifest && !manifest.complete) {
        await this.#store.changeManifest(ref, { error: errorData(failure) });
      }
    } catch {
      // The failure itself is reported anyway.
    }
  }

  async #describe(entry: Listed, isUnderWay: boolean): Promise<StoredCheckpoint> {
    const { ref, manifest } = entry;
    if (!manifest) {
      return {
        ref,
        name: entry.name || ref,
        origin: { kind: 'import' },
        revision: null,
        license: { id: null, link: null, mustAccept: false },
        kind: 'image',
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
    const [weights, ...others] = manifest.files.flatMap(({ path }, i) => (WEIGHTS.test(path) ? [records[i]] : []));
    const digest = others.length === 0 ? weights?.digest : null;
    return {
      ref,
      name,
      origin,
      revision,
      license,
      kind: await this.#kindOf(manifest, records),
      variant,
      state: complete ? 'complete' : isUnderWay ? 'downloading' : damaged ? 'damaged' : 'paused',
      bytes: manifest.files.reduce((sum, { size }, i) => sum + (records[i]?.storedSize ?? size), 0),
      storedBytes: records.reduce((sum, record) => sum + there(record), 0),
      addedAt,
      usedAt,
      error,
      ...(digest ? { sha256: digest } : {}),
    };
  }

  /** Determined by the layout, and by config.json once it has arrived. */
  async #kindOf({ ref, files }: Manifest, records: (FileRecord | null)[]): Promise<StoredCheckpoint['kind']> {
    const paths = files.map(({ path }) => path);
    if (!isLanguageLayout(paths)) {
      return 'image';
    }
    const record = records[paths.indexOf('config.json')];
    if (!record?.done) {
      return paths.includes('generation_config.json') ? 'text' : 'speech';
    }
    try {
      const pieces = await this.#store.pieces(ref, 'config.json', [...record.pieces.keys()]);
      const config: unknown = JSON.parse(await new Blob(pieces.filter((piece) => piece !== null)).text());
      return readLanguageConfig(config)?.kind ?? 'image';
    } catch {
      // Opening it will say what it is.
      return 'text';
    }
  }

  #changed(ref: string): void {
    this.#around.channel.post({ type: 'changed', ref });
  }
}

/** A manifest this version cannot read is listed, can be removed or refetched, and affects nothing else. */
const FOREIGN: StudioErrorData = {
  code: 'checkpoint_incomplete',
  message: 'This checkpoint was stored by another version of Darkroom; download it again, what is still good is kept.',
  retry: 'same',
};

/** Folders of diffusers call every network's weights the same, so the repository's name says more. */
function nameOf(listing: Listing, path: string): string {
  const name = loraName(path);
  return /^(?:diffusion_pytorch_model|model)(?:\.(?:fp16|bf16))?$/.test(name) ? loraName(listing.name) : name;
}

/** Without its cause, which is for the console and could contain anything. */
function errorData(error: StudioError): StudioErrorData {
  const { code, message, retry } = error;
  return { code, message, retry };
}
