/** What the library of stored checkpoints does for the page: its interface, and what it says of origins, files and transfers. */
import type { StudioErrorData } from '../../core/errors.ts';
import type { LanguageKind } from '../../core/language.ts';
import type { WeightVariant } from '../../core/model.ts';

/** Where a checkpoint can be had. */
export type Origin =
  /** A Hugging Face repository; a revision of null is its `main`, which a look resolves to a commit. */
  | { kind: 'hub'; repo: string; revision: string | null }
  /** The address of a folder (it ends in `/` and holds model_index.json) or of one `.safetensors` file. */
  | { kind: 'url'; url: string };

export interface License {
  /** SPDX id or the hub's own, such as `openrail++` or `other`; null where the repository names none. */
  id: string | null;
  /** Where its text is, as an address, or null. */
  link: string | null;
  /** Whether the person has to accept it here, once, before anything is fetched (none, `other` and use-restricted ones). */
  mustAccept: boolean;
}

export interface ListedFile {
  /** Relative to the checkpoint's folder, with forward slashes. */
  path: string;
  /** In bytes. */
  size: number;
  /** Of the whole file, lower-case hex, where the origin says it (the hub does for LFS files); else null. */
  sha256: string | null;
  /** What Git calls the file, where the origin says it (the hub does for the others). */
  gitSha1?: string | undefined;
}

/** The files of a checkpoint at its origin; nothing of them was fetched. */
export interface Listing {
  /** `hub:<org>/<name>@<commit>` or `url:<address>`. */
  ref: string;
  name: string;
  origin: Origin;
  /** The pinned commit; null for plain addresses. */
  revision: string | null;
  license: License;
  /** The hub asks for an account that was granted access; a token is needed. */
  gated: boolean;
  files: ListedFile[];
}

export type StoredState =
  /** All there, and every byte was verified when it arrived. */
  | 'complete'
  /** Being fetched now, by this tab or another. */
  | 'downloading'
  /** Begun and not finished; `resume` goes on from the last whole piece. */
  | 'paused'
  /** `verify` found wrong or missing bytes; `resume` fetches them anew. */
  | 'damaged';

/** A checkpoint in the library, or a LoRA, whose ref begins with `lora:`. */
export interface StoredCheckpoint {
  /** The listing's ref, with `#q8` or `#q4` when quantised. Operations name it so. */
  ref: string;
  name: string;
  origin: Origin | { kind: 'import' };
  revision: string | null;
  license: License;
  /** What it makes; of one that is not complete what its files look like. */
  kind: 'image' | LanguageKind;
  variant: WeightVariant;
  state: StoredState;
  /** Bytes that will lie in the store when it is complete, and those there now. */
  bytes: number;
  storedBytes: number;
  /** Of a LoRA's file, once it is known. */
  sha256?: string;
  /** Milliseconds since 1970; `usedAt` is null before the first use. */
  addedAt: number;
  usedAt: number | null;
  /** Why it stopped, when it did not by request. */
  error: StudioErrorData | null;
}

/** Of one download, import, verification or export. */
export interface TransferProgress {
  ref: string;
  /** Bytes done and in all; of a download those from the network. */
  done: number;
  total: number;
  /** Measured over the last seconds; null before there is something to measure. */
  bytesPerSecond: number | null;
  secondsLeft: number | null;
}

export interface SpaceReport {
  /** Bytes that the browser says this page uses and may use: a hint, never a promise. */
  usage: number | null;
  quota: number | null;
  /** Whether the browser promised not to evict what is stored. */
  persisted: boolean;
}

/**
 * The owner of the library: one per library worker. Errors: `invalid_operation` (a malformed name), `origin_unavailable` (not found, gated,
 * offline, refused), `checkpoint_damaged` (a wrong byte), `checkpoint_unsupported`, `storage_full`, `storage_unavailable`, `cancelled` (paused).
 */
export interface LibraryApi {
  /** Asks the origin what there is. `token`: a hub token, held for this call only. */
  look(origin: Origin, token: string | null): Promise<Listing>;
  /**
   * Fetches `paths` of the listing into the store and resolves when all of it is there and verified. Goes on where an earlier attempt stopped. While
   * another tab fetches the same, waits for it. Rejects with `cancelled` after {@link pause}.
   */
  download(
    request: { listing: Listing; paths: string[]; variant: WeightVariant; token: string | null },
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /**
   * Fetches one file of the listing as a LoRA, under the ref `lora:url:<address>` or `lora:hub:<org>/<name>@<commit>/<path>`; else as
   * {@link download}. What the file is is read from its header first: `checkpoint_unsupported` for one that is no LoRA.
   */
  downloadLora(
    request: { listing: Listing; path: string; token: string | null },
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /** What a weight file from the disk is, by its header. `checkpoint_unsupported` for a pickle, `checkpoint_damaged`. */
  kindOf(file: File): Promise<'checkpoint' | 'lora'>;
  /**
   * Stores a LoRA file from the disk under `lora:import:<name>`, its name without `.safetensors`; one that is here already is not
   * stored again, and another one of the same name becomes `<name> (2)`.
   */
  importLora(file: File, onProgress: (progress: TransferProgress) => void): Promise<StoredCheckpoint>;
  /** Goes on with a stored one that is paused or damaged, from what the store knows of it. */
  resume(
    ref: string,
    token: string | null,
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /** Stops its download, in whichever tab it runs. What has arrived stays. */
  pause(ref: string): Promise<void>;
  list(): Promise<StoredCheckpoint[]>;
  remove(ref: string): Promise<void>;
  /** Reads every byte and compares; a wrong piece makes the state `damaged` and is dropped, so that `resume` fetches just it. */
  verify(ref: string, onProgress: (progress: TransferProgress) => void): Promise<StoredCheckpoint>;
  /** Writes a complete one into a folder of its name within `folder`, as plain files and a `darkroom.json` that {@link importFolder} verifies by. */
  exportFolder(
    ref: string,
    folder: FileSystemDirectoryHandle,
    onProgress: (progress: TransferProgress) => void,
  ): Promise<void>;
  /** Stores what {@link exportFolder} wrote, or any diffusers folder, so that it is there without the disk. */
  importFolder(
    name: string,
    files: { path: string; file: File }[],
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  space(): Promise<SpaceReport>;
  /** Licences that were accepted here, as `<ref>`s without variant. */
  acceptedLicenses(): Promise<string[]>;
  acceptLicense(ref: string): Promise<void>;
}
