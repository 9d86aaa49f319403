/** The page's client for the library of stored checkpoints. Its worker is started on first use. */
import * as Comlink from 'comlink';
import type { Addition } from '../core/additions.ts';
import type { WeightVariant } from '../core/model.ts';
import type { ModelHashes } from '../core/model_hashes.ts';
import type {
  AdditionFacts,
  AdditionRequest,
  LibraryApi,
  Listing,
  Origin,
  SpaceReport,
  StoredCheckpoint,
  TransferProgress,
} from '../weights/library/library_api.ts';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

type OnProgress = (progress: TransferProgress) => void;

/** Tabs tell each other here what changes in the library they share. */
export const LIBRARY_CHANNEL = 'darkroom:library';

/**
 * Transfers report progress, which proves the library is alive; but they are silent while another tab fetches the same, and while a slow
 * disk is read.
 */
const hours = () => 6 * 3_600_000;
const LONG = {
  download: hours,
  downloadAddition: hours,
  importAddition: hours,
  resume: hours,
  verify: hours,
  exportFolder: hours,
  hashes: hours,
  importFolder: hours,
};

/** Every method as in {@link LibraryApi}; listeners are plain functions. */
export class LibraryClient implements LibraryApi {
  readonly #make: () => WorkerLike;
  #worker: WorkerLink<LibraryApi> | null = null;

  constructor(make: () => WorkerLike) {
    this.#make = make;
  }

  look(origin: Origin, token: string | null): Promise<Listing> {
    return this.#link.call('look', origin, token);
  }

  download(
    request: { listing: Listing; paths: string[]; variant: WeightVariant; token: string | null },
    onProgress: OnProgress,
  ): Promise<StoredCheckpoint> {
    return this.#link.call('download', request, Comlink.proxy(onProgress));
  }

  resume(ref: string, token: string | null, onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#link.call('resume', ref, token, Comlink.proxy(onProgress));
  }

  downloadAddition(
    request: { listing: Listing; path: string; token: string | null },
    onProgress: OnProgress,
  ): Promise<StoredCheckpoint> {
    return this.#link.call('downloadAddition', request, Comlink.proxy(onProgress));
  }

  lookAtAddition(request: AdditionRequest): Promise<AdditionFacts> {
    return this.#link.call('lookAtAddition', request);
  }

  kindOf(file: File): Promise<'checkpoint' | Addition> {
    return this.#link.call('kindOf', file);
  }

  importAddition(file: File, onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#link.call('importAddition', file, Comlink.proxy(onProgress));
  }

  pause(ref: string): Promise<void> {
    return this.#link.call('pause', ref);
  }

  list(): Promise<StoredCheckpoint[]> {
    return this.#link.call('list');
  }

  hashes(ref: string): Promise<ModelHashes | null> {
    return this.#link.call('hashes', ref);
  }

  remove(ref: string): Promise<void> {
    return this.#link.call('remove', ref);
  }

  verify(ref: string, onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#link.call('verify', ref, Comlink.proxy(onProgress));
  }

  exportFolder(ref: string, folder: FileSystemDirectoryHandle, onProgress: OnProgress): Promise<void> {
    return this.#link.call('exportFolder', ref, folder, Comlink.proxy(onProgress));
  }

  importFolder(name: string, files: { path: string; file: File }[], onProgress: OnProgress): Promise<StoredCheckpoint> {
    return this.#link.call('importFolder', name, files, Comlink.proxy(onProgress));
  }

  space(): Promise<SpaceReport> {
    return this.#link.call('space');
  }

  acceptedLicenses(): Promise<string[]> {
    return this.#link.call('acceptedLicenses');
  }

  acceptLicense(ref: string): Promise<void> {
    return this.#link.call('acceptLicense', ref);
  }

  /**
   * Called when a checkpoint of the library changed, in whichever tab, and for the progress of transfers elsewhere.
   * @returns stops it
   */
  onChange(
    listener: (change: { type: 'changed' | 'progress'; ref: string; progress?: TransferProgress }) => void,
  ): () => void {
    const channel = new BroadcastChannel(LIBRARY_CHANNEL);
    channel.addEventListener('message', ({ data }: MessageEvent<unknown>) => {
      const { type, ref, progress } = (data ?? {}) as { type?: unknown; ref?: unknown; progress?: TransferProgress };
      if ((type === 'changed' || type === 'progress') && typeof ref === 'string') {
        listener({ type, ref, ...(progress ? { progress } : {}) });
      }
    });
    return () => channel.close();
  }

  /** Ends its worker, where there is one. */
  end(): void {
    this.#worker?.terminate();
  }

  get #link(): WorkerLink<LibraryApi> {
    if (!this.#worker || this.#worker.failure) {
      this.#worker = new WorkerLink<LibraryApi>('The library', this.#make(), { calls: LONG });
    }
    return this.#worker;
  }
}
