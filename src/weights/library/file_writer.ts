/**
 * Brings one file of a checkpoint into the store piece by piece: reads, hashes, transforms if the variant requires it, and writes it with
 * its record. Whatever stops it, what was written is valid and the next attempt continues after it.
 */
import { createSHA256, type IHasher } from 'hash-wasm';
import { StudioError, cancelled } from '../../core/errors.ts';
import { hex } from '../checkpoint_files.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength } from '../safetensors.ts';
import { layoutSize } from './piece_transform.ts';
import type { PieceTransform, TransformMaker } from './piece_transform.ts';
import { SCHEMA_VERSION } from './records.ts';
import type { FileRecord, ManifestFile } from './records.ts';
import { FileChanged } from './requests.ts';
import type { LibraryStore } from './store.ts';

export const PIECE_BYTES = 16 * 2 ** 20;

/** Where a file's bytes come from: an origin, or a file on disk. */
export interface ByteSource {
  /** The source's version of the file, once something was read. */
  readonly version: string | null;
  /** @throws FileChanged, StudioError */
  read(
    begin: number,
    end: number,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<Uint8Array<ArrayBuffer>>;
  close(): void;
}

/** All bytes are there but do not match the origin's hash. */
export class WrongBytes extends Error {}

export class FileWriter {
  readonly #store: LibraryStore;
  readonly #ref: string;
  readonly #maker: TransformMaker | null;
  readonly #pieceBytes: number;

  /**
   * @param maker of the variant, or null for files as they come
   * @param pieceBytes smaller in tests only
   */
  constructor(store: LibraryStore, ref: string, maker: TransformMaker | null, pieceBytes = PIECE_BYTES) {
    this.#store = store;
    this.#ref = ref;
    this.#maker = maker;
    this.#pieceBytes = pieceBytes;
  }

  /**
   * @param open opens the source, given the version of the stored bytes
   * @param onBytes receives the number of bytes already there, then of each addition
   * @throws FileChanged and WrongBytes if nothing of the file is usable any more; StudioError
   */
  async write(
    file: ManifestFile,
    open: (version: string | null) => ByteSource,
    signal: AbortSignal,
    onBytes: { begin(count: number): void; add(count: number): void },
  ): Promise<void> {
    const { path, size } = file;
    let record = await this.#usable(file);
    if (record?.done && record.missing.length === 0) {
      onBytes.begin(size);
      return;
    }
    const source = open(record?.version ?? null);
    try {
      const transformed = await this.#transform(file, record, source, signal);
      const transform = transformed?.transform ?? null;
      const cuts = transform?.cuts ?? evenCuts(size, this.#pieceBytes);
      const begins = (n: number) => (n === 0 ? 0 : cuts[n - 1]);
      if (record && (record.pieces.length > cuts.length || record.transformed !== (transform !== null))) {
        await this.#store.discardFile(this.#ref, path);
        record = null;
      }
      record ??= {
        schema_version: SCHEMA_VERSION,
        size,
        sha256: file.sha256,
        version: null,
        transformed: transform !== null,
        storedSize: transform ? layoutSize(transform) : size,
        pieces: [],
        missing: [],
        hashState: null,
        digest: null,
        done: false,
      };
      onBytes.begin(begins(record.pieces.length) - record.missing.reduce((sum, n) => sum + cuts[n] - begins(n), 0));

      // Pieces dropped by a verification must come back unchanged.
      for (const n of [...record.missing]) {
        const bytes = await source.read(begins(n), cuts[n], signal, (count) => onBytes.add(count));
        const piece = transform ? transform.apply(n, bytes) : bytes;
        if ((await sha256(piece)) !== record.pieces[n].sha256) {
          throw new FileChanged(null);
        }
        record = { ...record, missing: record.missing.filter((other) => other !== n) };
        await this.#store.writeFile(this.#ref, path, record, { n, content: new Blob([piece]) });
      }
      if (record.done) {
        return;
      }

      const hasher = await this.#hasher(path, record);
      for (let n = record.pieces.length; n < cuts.length; n++) {
        const bytes = await source.read(begins(n), cuts[n], signal, (count) => onBytes.add(count));
        if (n === 0) {
          checkStart(path, bytes, size);
        }
        // The transform was derived from a header read earlier, which must be the same.
        if (transformed && !beginsWith(transformed.header.subarray(begins(n)), bytes)) {
          throw new WrongBytes();
        }
        hasher.update(bytes);
        const state = new Uint8Array(hasher.save());
        const isLast = n === cuts.length - 1;
        const digest = isLast ? await this.#digest(file, hasher, bytes) : null;
        const piece = transform ? transform.apply(n, bytes) : bytes;
        if (signal.aborted) {
          throw cancelled();
        }
        record = {
          ...record,
          version: source.version,
          pieces: [...record.pieces, { length: piece.length, sha256: await sha256(piece) }],
          hashState: isLast ? null : state,
          digest,
          done: isLast,
        };
        await this.#store.writeFile(this.#ref, path, record, { n, content: new Blob([piece]) });
      }
      if (cuts.length === 0) {
        const digest = await this.#digest(file, hasher, new Uint8Array());
        await this.#store.writeFile(this.#ref, path, { ...record, digest, done: true });
      }
    } finally {
      source.close();
    }
  }

  /** The file's record, if it is about this file and can be resumed. */
  async #usable(file: ManifestFile): Promise<FileRecord | null> {
    const record = await this.#store.file(this.#ref, file.path);
    if (!record) {
      return null;
    }
    const isSame = record.size === file.size && (record.sha256 === file.sha256 || record.digest === file.sha256);
    if (isSame) {
      return this.#withoutTornPiece(file.path, record);
    }
    await this.#store.discardFile(this.#ref, file.path);
    return null;
  }

  /**
   * A checkpoint was once found damaged after tabs had been killed while it arrived, so the last piece of what was broken off is checked. A torn
   * one counts as missing.
   */
  async #withoutTornPiece(path: string, record: FileRecord): Promise<FileRecord> {
    const last = record.pieces.length - 1;
    if (last < 0 || record.missing.includes(last)) {
      return record;
    }
    const [piece] = await this.#store.pieces(this.#ref, path, [last]);
    return (await isWhole(piece, record.pieces[last])) ? record : { ...record, missing: [...record.missing, last] };
  }

  async #transform(
    { path, size }: ManifestFile,
    record: FileRecord | null,
    source: ByteSource,
    signal: AbortSignal,
  ): Promise<{ header: Uint8Array<ArrayBuffer>; transform: PieceTransform } | null> {
    if (!this.#maker || !path.endsWith('.safetensors') || record?.transformed === false) {
      return null;
    }
    const stored = await this.#store.header(this.#ref, path);
    const header = stored ?? (await this.#readHeader(path, size, source, signal));
    const transform = this.#maker(path, header, size);
    if (transform && !stored) {
      await this.#store.writeHeader(this.#ref, path, header);
    }
    return transform && { header, transform };
  }

  async #readHeader(
    path: string,
    size: number,
    source: ByteSource,
    signal: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const ignore = () => undefined;
    const length = safetensorsHeaderLength(await source.read(0, Math.min(8, size), signal, ignore), size, path);
    return source.read(0, 8 + length, signal, ignore);
  }

  /** The state of the whole file's hash after the stored pieces. */
  async #hasher(path: string, record: FileRecord): Promise<IHasher> {
    const hasher = (await createSHA256()).init();
    if (record.pieces.length === 0) {
      return hasher;
    }
    try {
      return hasher.load(record.hashState as Uint8Array);
    } catch {
      // Written by another version of hash-wasm. It can be recomputed from the pieces, unless they were transformed.
    }
    if (record.transformed) {
      throw new FileChanged(null);
    }
    hasher.init();
    for (const [n, { length }] of record.pieces.entries()) {
      const [piece] = await this.#store.pieces(this.#ref, path, [n]);
      if (piece?.size !== length) {
        throw new FileChanged(null);
      }
      hasher.update(new Uint8Array(await piece.arrayBuffer()));
    }
    return hasher;
  }

  /** @param last the bytes of the last piece */
  async #digest(file: ManifestFile, hasher: IHasher, last: Uint8Array<ArrayBuffer>): Promise<string> {
    const digest = hasher.digest();
    if (file.sha256 !== null && digest !== file.sha256) {
      throw new WrongBytes();
    }
    if (file.gitSha1 !== undefined && last.length === file.size && (await gitSha1(last)) !== file.gitSha1) {
      throw new WrongBytes();
    }
    return digest;
  }
}

/** Whether one is a prefix of the other. */
function beginsWith(one: Uint8Array, other: Uint8Array): boolean {
  const length = Math.min(one.length, other.length);
  for (let i = 0; i < length; i++) {
    if (one[i] !== other[i]) {
      return false;
    }
  }
  return true;
}

export function evenCuts(size: number, pieceBytes = PIECE_BYTES): number[] {
  return Array.from({ length: Math.ceil(size / pieceBytes) }, (_, n) => Math.min((n + 1) * pieceBytes, size));
}

/** Refuses files that cannot contain weights before gigabytes are fetched. */
function checkStart(path: string, bytes: Uint8Array, size: number): void {
  if (!path.endsWith('.safetensors')) {
    return;
  }
  if (/^\s*(<!doctype|<html|<\?xml)/i.test(new TextDecoder('latin1').decode(bytes.subarray(0, 64)))) {
    throw new StudioError(
      'origin_unavailable',
      `A web page came instead of ${path}; check the address, and whether this network asks you to sign in first.`,
    );
  }
  const end = 8 + safetensorsHeaderLength(bytes.subarray(0, 8), size, path);
  if (end <= bytes.length) {
    parseSafetensorsHeader(bytes.subarray(8, end), size, path);
  }
}

export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
}

/** Whether a stored piece is what its record says; false for one that is gone or cannot be read. */
export async function isWhole(piece: Blob | null, expected: FileRecord['pieces'][number]): Promise<boolean> {
  // A Blob whose file is gone rejects.
  const bytes = await piece?.arrayBuffer().catch(() => null);
  return bytes?.byteLength === expected.length && (await sha256(new Uint8Array(bytes))) === expected.sha256;
}

/** SHA-256 of a file on disk, streamed; lower-case hex. */
export async function digestOf(file: Blob): Promise<string> {
  const hasher = await createSHA256();
  const reader = file.stream().getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    hasher.update(part.value);
  }
  return hasher.digest('hex');
}

/** The Git object id of this content. */
async function gitSha1(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const head = new TextEncoder().encode(`blob ${bytes.length}\0`);
  const object = new Uint8Array(head.length + bytes.length);
  object.set(head);
  object.set(bytes, head.length);
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-1', object)));
}
