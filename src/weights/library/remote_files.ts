/**
 * The files of a checkpoint at its origin, for inspection and planning: a few kilobytes of configurations and headers are read by range
 * requests, and nothing is stored.
 */
import { StudioError } from '../../core/errors.ts';
import type { Listing } from './library_api.ts';
import type { CheckpointFiles, Habits } from '../checkpoint_files.ts';
import { addressedFile } from './address.ts';
import { hubFile } from './hub.ts';
import { OriginFile } from './origin_file.ts';
import type { Address, Requests } from './requests.ts';
import { FileChanged } from './requests.ts';

/** Bytes of one read: most headers in one request. */
const BLOCK = 256 * 1024;
/** Cached blocks per file, so that a large file's header need not be read twice. */
const KEPT = 64;

/** Where a file of a listed checkpoint is. The token goes to the hub only. */
export function addressOf(
  { origin, revision }: Pick<Listing, 'origin' | 'revision'>,
  path: string,
  token: string | null,
): Address {
  return origin.kind === 'hub'
    ? { url: hubFile(origin.repo, revision ?? origin.revision ?? 'main', path), path, token }
    : { url: addressedFile(origin.url, path), path, token: null };
}

export class RemoteFiles implements CheckpointFiles {
  readonly habits: Habits = {};
  readonly prompts: string[] = [];
  readonly #requests: Requests;
  readonly #listing: Listing;
  readonly #token: string | null;
  readonly #blobs = new Map<string, RemoteBlob>();

  constructor(requests: Requests, listing: Listing, token: string | null) {
    this.#requests = requests;
    this.#listing = listing;
    this.#token = token;
  }

  get name(): string {
    return this.#listing.name;
  }

  get ref(): string {
    return this.#listing.ref;
  }

  has(path: string): boolean {
    return this.#listing.files.some((file) => file.path === path);
  }

  paths(): string[] {
    return this.#listing.files.map(({ path }) => path);
  }

  /** The files requested so far: once it was opened, those a run needs. */
  touched(): string[] {
    return [...this.#blobs.keys()];
  }

  blob(path: string): Promise<Blob> {
    const known = this.#blobs.get(path);
    if (known) {
      return Promise.resolve(known);
    }
    const listed = this.#listing.files.find((file) => file.path === path);
    if (!listed) {
      return Promise.reject(
        new StudioError(
          'checkpoint_incomplete',
          `"${this.name}" has no ${path} at its origin; choose another checkpoint.`,
        ),
      );
    }
    const address = addressOf(this.#listing, path, this.#token);
    const blob = new RemoteBlob(new RemoteBlocks(this.#requests, address, listed.size));
    this.#blobs.set(path, blob);
    return Promise.resolve(blob);
  }

  version(path: string): string | null {
    const file = this.#listing.files.find((listed) => listed.path === path);
    return file ? (file.sha256 ?? `${file.path}:${file.size}`) : null;
  }
}

/** A file's bytes by blocks, the last ones kept. */
class RemoteBlocks {
  readonly #requests: Requests;
  readonly #address: Address;
  readonly #blocks = new Map<number, Promise<Uint8Array<ArrayBuffer>>>();
  #version: string | null = null;

  constructor(
    requests: Requests,
    address: Address,
    readonly size: number,
  ) {
    this.#requests = requests;
    this.#address = address;
  }

  async read(begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(end - begin);
    for (let n = Math.floor(begin / BLOCK); n * BLOCK < end; n++) {
      const block = await this.#block(n);
      const from = Math.max(begin - n * BLOCK, 0);
      bytes.set(block.subarray(from, Math.min(end - n * BLOCK, block.length)), n * BLOCK + from - begin);
    }
    return bytes;
  }

  #block(n: number): Promise<Uint8Array<ArrayBuffer>> {
    const known = this.#blocks.get(n);
    if (known) {
      return known;
    }
    const block = this.#fetch(n);
    this.#blocks.set(n, block);
    block.catch(() => this.#blocks.delete(n));
    const [oldest] = this.#blocks.keys();
    if (this.#blocks.size > KEPT) {
      this.#blocks.delete(oldest);
    }
    return block;
  }

  async #fetch(n: number): Promise<Uint8Array<ArrayBuffer>> {
    const file = new OriginFile(this.#requests, this.#address, this.size, this.#version);
    try {
      const end = Math.min((n + 1) * BLOCK, this.size);
      const bytes = await file.read(n * BLOCK, end, new AbortController().signal, () => undefined);
      this.#version = file.version;
      return bytes;
    } catch (error) {
      throw error instanceof FileChanged
        ? new StudioError(
            'origin_unavailable',
            `${this.#address.path} is not the file any more that was listed; look the checkpoint up again.`,
          )
        : error;
    } finally {
      file.close();
    }
  }
}

class RemoteBlob extends Blob {
  readonly #blocks: RemoteBlocks;
  readonly #begin: number;
  readonly #end: number;

  constructor(blocks: RemoteBlocks, begin = 0, end = blocks.size) {
    super([]);
    this.#blocks = blocks;
    this.#begin = begin;
    this.#end = end;
  }

  override get size(): number {
    return this.#end - this.#begin;
  }

  override slice(begin = 0, end = this.size): Blob {
    const at = (position: number) =>
      this.#begin + (position < 0 ? Math.max(this.size + position, 0) : Math.min(position, this.size));
    return new RemoteBlob(this.#blocks, at(begin), Math.max(at(begin), at(end)));
  }

  override async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.#blocks.read(this.#begin, this.#end)).buffer;
  }

  override async text(): Promise<string> {
    return new TextDecoder().decode(await this.arrayBuffer());
  }

  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    let at = this.#begin;
    return new ReadableStream({
      pull: async (controller) => {
        if (at >= this.#end) {
          controller.close();
          return;
        }
        const end = Math.min((Math.floor(at / BLOCK) + 1) * BLOCK, this.#end);
        controller.enqueue(await this.#blocks.read(at, end));
        at = end;
      },
    });
  }
}
