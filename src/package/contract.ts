/**
 * What the package promises. It imports nothing, so that its types need nothing of ours; that our own types fit these is checked where
 * `instance.ts` implements them.
 */

export interface DarkroomOptions {
  /**
   * The folder that holds the package's files (`workers/`, `ort/`, `checkpoints/` …), on any origin that lets pages read it. By default the folder of
   * this module; a bundler moves the module and not the files, so then it has to be said. Means nothing in Node.
   */
  base?: string | URL;
  /** `auto` takes WebGPU where a hardware adapter exists, else the processor. In Node `auto` is the processor, and `webgpu` a headless Chromium. */
  backend?: 'auto' | 'webgpu' | 'wasm';
  /** How many threads compute on the processor; by default what is fastest on this machine, in Node all cores. */
  threads?: number;
  /**
   * Checkpoints by the names that operations call them: the address of a folder with a `manifest.json`, or the folder's files. The first one runs
   * what names none; without any that is the one that comes with the package.
   */
  checkpoints?: Record<string, string | URL | readonly CheckpointFile[]>;
  /** Servers on other machines for what is made there, such as ComfyUI's. Only in Node. */
  servers?: readonly Server[];
  /** Where runs are kept: nowhere, or in the origin's private file system, as Darkroom's page keeps them. */
  recordings?: false | 'opfs';
}

/** A server on another machine, or a service behind a key. */
export interface Server {
  /** Such as `comfyui`, `automatic1111`, `openai_images`. */
  engine: string;
  /** Such as `http://127.0.0.1:8188`. */
  address: string;
  /** Sent to this address, in a header, and found nowhere else. */
  key?: string | null;
  /** Such as `{ model: '…' }`. */
  settings?: Record<string, string>;
}

/** A file of a checkpoint's folder; `path` begins with the folder's name, as `webkitRelativePath` does. */
export interface CheckpointFile {
  path: string;
  file: Blob & { readonly name: string; readonly lastModified: number };
}

/** The same object as everywhere else in Darkroom; its JSON Schema is `schemas/operation.json`. Pictures are Blobs or data URLs. */
export interface Operation {
  /** Such as `image_generation`. */
  operation: string;
  /** Such as `stable_diffusion`. */
  config: string;
  parameters: Record<string, unknown>;
  /** A name of {@link DarkroomOptions.checkpoints}, or a ref such as `builtin:scenes` or `hub:org/name@commit`. */
  checkpoint?: string | null;
  checkpoints?: Record<string, string>;
  priority?: 'high' | 'normal' | 'low';
  record?: 'latents'[];
}

export interface Progress {
  /** Such as `load`, `sample`, `decode`. */
  stage: string;
  step: number;
  steps: number;
  /** Of the whole job, 0 to 1. */
  fraction: number;
  /** Null until there is something to measure. */
  secondsLeft: number | null;
}

export interface RunOptions {
  onProgress?: (progress: Progress) => void;
  /** Told what a person should know, as a sentence. */
  onNotice?: (sentence: string) => void;
  /** Shows the picture while it comes into being. A canvas that nothing was drawn on, a fresh one for each job. */
  preview?: HTMLCanvasElement;
  /**
   * Only the newest counts: a job that is asked for so cancels the one before it that was, and begins once no other came for `debounce`
   * milliseconds (250 where nothing is said).
   */
  latest?: boolean | { debounce: number };
  signal?: AbortSignal;
}

export interface ResultFile {
  /** Such as `input`, `config`, `output_image`. */
  type: string;
  filename: string;
  blob: Blob;
  sha256: string;
  /** Of a result, how it was made: parameters, seed, checkpoint, versions. */
  metadata: Record<string, unknown>;
}

export interface Result {
  /** Everything that was recorded of the run, in order. */
  files: ResultFile[];
  /** The pictures that were asked for. */
  pictures: Blob[];
  /** The run's `metadata.json`. */
  metadata: Blob;
  /** Makes the same again; null where nothing was drawn by chance. */
  seed: string | null;
  notices: string[];
  /** The run's name in the recordings; null where none are kept. */
  run: string | null;
}

export interface DarkroomJob {
  /** Rejects with a {@link DarkroomError}; `cancelled` for a job that was cancelled or that a newer one took the place of. */
  readonly result: Promise<Result>;
  cancel(): void;
}

/** What every rejection is. */
export interface DarkroomError extends Error {
  /** Such as `invalid_operation`, `does_not_fit`, `out_of_memory`, `cancelled`, `worker_failed`. */
  readonly code: string;
  /** Whether trying again can help: as it was, with something smaller, or not. */
  readonly retry: 'same' | 'smaller' | 'never';
}

export interface Device {
  backend: 'webgpu' | 'wasm';
  adapter: string;
  precision: 'f32' | 'f16';
  threads: number;
  /** Why it is not WebGPU, why not all cores compute, or what else a person should know, as a sentence. */
  note: string | null;
}

/** A checkpoint that operations can name. */
export interface StoredCheckpoint {
  ref: string;
  name: string;
  state: string;
  bytes: number | null;
  storedBytes: number | null;
  /** Why its download stopped. */
  error: string | null;
}

/** Where a checkpoint comes from: `org/name` on the Hugging Face hub, or an address. */
export type CheckpointOrigin = ({ repo: string; revision?: string } | { url: string }) & { token?: string };

export interface Checkpoints {
  list(): Promise<StoredCheckpoint[]>;
  /**
   * What a checkpoint at its origin is; fetches nothing but configs and headers. Where there are LoRAs or other additions in its place,
   * `pipeline_class` is null and `additions` says of each what it is, and whether it is for the family of `checkpoint`, a ref.
   */
  look(origin: CheckpointOrigin & { checkpoint?: string }): Promise<{
    ref: string;
    name: string;
    bytes: number;
    pipeline_class: string | null;
    additions?: { path: string; bytes: number; kind: string; families: readonly string[]; problem: string | null }[];
  }>;
  /** Begins to fetch it into the origin's storage, once and for all; how far it is stands in the list. */
  fetch(
    origin: CheckpointOrigin & { variant?: 'full' | 'q8' | 'q4'; accept_license?: boolean },
  ): Promise<{ ref: string }>;
  remove(ref: string): Promise<void>;
}

export interface Darkroom {
  /** What it runs on. Starts the engine. */
  device(): Promise<Device>;
  run(operation: Operation, options?: RunOptions): DarkroomJob;
  /** Brings to the device what an operation runs on, where that surely fits; its job then begins at once. */
  prepare(operation: Operation): Promise<void>;
  /** Frees what is on the device, unless a job runs. */
  unload(): Promise<void>;
  /** Of this origin. */
  readonly checkpoints: Checkpoints;
  /** Cancels every job and ends every worker; nothing can be asked of it afterwards. */
  dispose(): Promise<void>;
}
