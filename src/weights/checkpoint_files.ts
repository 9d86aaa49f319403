/**
 * The files of a checkpoint, in a folder opened from disk or served with the page.
 * Paths are relative to the checkpoint's own folder, with forward slashes (`unet/config.json`).
 */
import { StudioError } from '../core/errors.ts';

/** A checkpoint's preferred settings; our manifests have them, diffusers folders do not. */
export interface Habits {
  width?: number;
  height?: number;
  steps?: number;
  guidance_scale?: number;
  /** See `CheckpointSummary`. */
  upscale?: number;
}

export interface CheckpointFiles {
  /** Names the checkpoint for people and recordings. */
  readonly name: string;
  readonly ref: string;
  readonly habits: Habits;
  /** Prompts that it does well. */
  readonly prompts: string[];
  has(path: string): boolean;
  paths(): string[];
  /** The file's bytes, not read into memory if the browser can avoid it. Throws `checkpoint_incomplete`. */
  blob(path: string): Promise<Blob>;
  /** A token that changes with the file's content, as far as can be told without reading it; null = always read it. */
  version(path: string): string | null;
  /** The file's SHA-256, if known without reading it. */
  sha256?(path: string): string | null;
}

/** Files picked or dropped by the person, read in place as their tensors are needed. */
export class FolderFiles implements CheckpointFiles {
  readonly #files: Map<string, File>;

  constructor(
    readonly name: string,
    files: { path: string; file: File }[],
  ) {
    this.#files = new Map(files.map(({ path, file }) => [path, file]));
  }

  readonly habits: Habits = {};
  readonly prompts: string[] = [];

  get ref(): string {
    return `folder:${this.name}`;
  }

  has(path: string): boolean {
    return this.#files.has(path);
  }

  paths(): string[] {
    return [...this.#files.keys()];
  }

  blob(path: string): Promise<Blob> {
    const file = this.#files.get(path);
    return file ? Promise.resolve(file) : Promise.reject(missing(this.name, path));
  }

  version(path: string): string | null {
    const file = this.#files.get(path);
    return file ? `${this.name}/${path}:${file.size}:${file.lastModified}` : null;
  }
}

interface Manifest {
  name: string;
  default?: Habits;
  prompts?: string[];
  files: { path: string; size: number; sha256: string }[];
}

/** A checkpoint folder served from the page's own origin, listed by its `manifest.json`; each file is verified once. */
export class ServedFiles implements CheckpointFiles {
  readonly #blobs = new Map<string, Promise<Blob>>();

  private constructor(
    readonly ref: string,
    readonly base: URL,
    readonly manifest: Manifest,
  ) {}

  static async open(ref: string, base: URL): Promise<ServedFiles> {
    const response = await fetchFile(new URL('manifest.json', base), 'manifest.json');
    try {
      return new ServedFiles(ref, base, (await response.json()) as Manifest);
    } catch (cause) {
      throw new StudioError('checkpoint_damaged', `The list of files of "${ref}" is not readable; reload the page.`, {
        cause,
      });
    }
  }

  get name(): string {
    return this.manifest.name;
  }

  get habits(): Habits {
    return this.manifest.default ?? {};
  }

  get prompts(): string[] {
    return this.manifest.prompts ?? [];
  }

  has(path: string): boolean {
    return this.manifest.files.some((file) => file.path === path);
  }

  paths(): string[] {
    return this.manifest.files.map((file) => file.path);
  }

  blob(path: string): Promise<Blob> {
    let blob = this.#blobs.get(path);
    if (!blob) {
      blob = this.#fetch(path);
      this.#blobs.set(path, blob);
      blob.catch(() => this.#blobs.delete(path));
    }
    return blob;
  }

  version(path: string): string | null {
    return this.manifest.files.find((file) => file.path === path)?.sha256 ?? null;
  }

  /** Each file is verified against it before use. */
  sha256(path: string): string | null {
    return this.version(path);
  }

  async #fetch(path: string): Promise<Blob> {
    const listed = this.manifest.files.find((file) => file.path === path);
    if (!listed) {
      throw missing(this.name, path);
    }
    const bytes = await (await fetchFile(new URL(path, this.base), path)).arrayBuffer();
    const digest = hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
    if (digest !== listed.sha256) {
      throw new StudioError(
        'checkpoint_damaged',
        `${path} of "${this.name}" arrived damaged; reload the page to fetch it again.`,
        {
          retry: 'same',
        },
      );
    }
    return new Blob([bytes]);
  }
}

async function fetchFile(url: URL, path: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch (cause) {
    throw new StudioError(
      'checkpoint_incomplete',
      `${path} could not be fetched; check the connection and try again.`,
      {
        retry: 'same',
        cause,
      },
    );
  }
  if (!response.ok) {
    throw new StudioError(
      'checkpoint_incomplete',
      `${path} could not be fetched (HTTP ${response.status}); reload the page.`,
      {
        retry: 'same',
      },
    );
  }
  return response;
}

function missing(name: string, path: string): StudioError {
  return new StudioError(
    'checkpoint_incomplete',
    `The folder "${name}" has no ${path}; open the whole checkpoint folder, the one that holds model_index.json.`,
  );
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
