/** The library of stored checkpoints: its interface for the page, and its descriptions of origins, files and transfers. */
import type { Addition } from '../../core/additions.ts';
import type { StudioErrorData } from '../../core/errors.ts';
import type { LanguageKind } from '../../core/language.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { ModelHashes } from '../../core/model_hashes.ts';

/** Where a checkpoint comes from. */
export type Origin =
  /** A Hugging Face repository; a null revision means `main`, resolved to a commit on inspection. */
  | { kind: 'hub'; repo: string; revision: string | null }
  /** The URL of a folder (ending in `/`, with model_index.json) or of one `.safetensors` file. */
  | { kind: 'url'; url: string };

export interface License {
  /** An SPDX id or the hub's own, such as `openrail++` or `other`; null if the repository names none. */
  id: string | null;
  /** URL of its text, or null. */
  link: string | null;
  /** Whether the person must accept it once before anything is fetched (none, `other` and use-restricted ones). */
  mustAccept: boolean;
}

export interface ListedFile {
  /** Relative to the checkpoint's folder, with forward slashes. */
  path: string;
  /** In bytes. */
  size: number;
  /** SHA-256 of the whole file, lower-case hex, if the origin gives it (the hub does for LFS files); else null. */
  sha256: string | null;
  /** The file's Git object id, if the origin gives it (the hub does for the others). */
  gitSha1?: string | undefined;
}

/** The files of a checkpoint at its origin; none was fetched. */
export interface Listing {
  /** `hub:<org>/<name>@<commit>` or `url:<address>`. */
  ref: string;
  name: string;
  origin: Origin;
  /** The pinned commit; null for plain addresses. */
  revision: string | null;
  license: License;
  /** Whether the hub requires an account with access, and so a token. */
  gated: boolean;
  files: ListedFile[];
}

export type StoredState =
  /** Complete, with every byte verified on arrival. */
  | 'complete'
  /** Being fetched now, by this tab or another. */
  | 'downloading'
  /** Started but not finished; `resume` continues after the last whole piece. */
  | 'paused'
  /** `verify` found wrong or missing bytes; `resume` refetches them. */
  | 'damaged';

/** A checkpoint in the library, or a LoRA, whose ref starts with `lora:`. */
export interface StoredCheckpoint {
  /** The listing's ref, with `#q8` or `#q4` if quantised; the name operations use. */
  ref: string;
  name: string;
  origin: Origin | { kind: 'import' };
  revision: string | null;
  license: License;
  /** What it makes; judged by its files if incomplete. */
  kind: 'image' | LanguageKind;
  variant: WeightVariant;
  state: StoredState;
  /** Stored bytes once complete, and so far. */
  bytes: number;
  storedBytes: number;
  /** SHA-256 of what is one file of weights, once known: of a LoRA, or a checkpoint of one file. */
  sha256?: string;
  /** Milliseconds since 1970; `usedAt` is null before the first use. */
  addedAt: number;
  usedAt: number | null;
  /** Why it stopped, unless on request. */
  error: StudioErrorData | null;
}

/** Progress of one download, import, verification or export. */
export interface TransferProgress {
  ref: string;
  /** Bytes done and in total; for a download, those from the network. */
  done: number;
  total: number;
  /** Measured over the last seconds; null until there is something to measure. */
  bytesPerSecond: number | null;
  secondsLeft: number | null;
}

/** What a header says of a file that is used beside a checkpoint. */
export interface AdditionFacts {
  kind: Addition;
  /** Of a LoRA: the families that it may be for, as people call them; none where nothing tells. */
  families: readonly string[];
  /** Why it will not work with the checkpoint that was asked for, as a sentence; null if nothing speaks against it. */
  problem: string | null;
}

export interface AdditionRequest {
  listing: Listing;
  /** Of the file, among the listing's. */
  path: string;
  token: string | null;
  /** `loraFamilies` of the checkpoint that it is wanted for; absent = not known. */
  wantedFor?: readonly string[] | undefined;
}

export interface SpaceReport {
  /** Bytes this page uses and may use according to the browser: a hint, not a promise. */
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
  /** Asks the origin what it has. `token`: a hub token, used for this call only. */
  look(origin: Origin, token: string | null): Promise<Listing>;
  /**
   * Fetches `paths` of the listing into the store and resolves once everything is there and verified. Resumes an earlier attempt, and
   * waits for another tab that is fetching the same. Rejects with `cancelled` after {@link pause}.
   */
  download(
    request: { listing: Listing; paths: string[]; variant: WeightVariant; token: string | null },
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /**
   * Like {@link download}, for one file of the listing as a LoRA or another addition, under the ref `lora:url:<address>` or
   * `lora:hub:<org>/<name>@<commit>/<path>`. Its header is read first: `checkpoint_unsupported` if it is none.
   */
  downloadAddition(
    request: { listing: Listing; path: string; token: string | null },
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /** What a file of the listing is that would be used beside a checkpoint, by its header; errors as of {@link downloadAddition}. Nothing is stored. */
  lookAtAddition(request: AdditionRequest): Promise<AdditionFacts>;
  /** Identifies a weight file on disk by its header. `checkpoint_unsupported` for a pickle, `checkpoint_damaged`. */
  kindOf(file: File): Promise<'checkpoint' | Addition>;
  /**
   * Stores a LoRA or another addition from disk under `lora:import:<name>`, its name without `.safetensors`. A file that is already here is not stored
   * again, and a different one of the same name becomes `<name> (2)`.
   */
  importAddition(file: File, onProgress: (progress: TransferProgress) => void): Promise<StoredCheckpoint>;
  /** Resumes a paused or damaged one, from what the store knows about it. */
  resume(
    ref: string,
    token: string | null,
    onProgress: (progress: TransferProgress) => void,
  ): Promise<StoredCheckpoint>;
  /** Stops its download, in any tab. What has arrived stays. */
  pause(ref: string): Promise<void>;
  list(): Promise<StoredCheckpoint[]>;
  /**
   * All hashes by which tools name the one file that it is; the first call reads it. Null for a checkpoint of several files, or one that
   * is stored quantised.
   */
  hashes(ref: string): Promise<ModelHashes | null>;
  remove(ref: string): Promise<void>;
  /** Verifies every byte; a wrong piece sets the state to `damaged` and is dropped, so that `resume` only fetches that. */
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
  /** Accepted licences, as `<ref>`s without variant. */
  acceptedLicenses(): Promise<string[]>;
  acceptLicense(ref: string): Promise<void>;
}
