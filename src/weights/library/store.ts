/**
 * The library's records and pieces in the database. A piece and its record are written together, so everything a record names exists; a
 * manifest is only `complete` after all files are, so readers need not check anything else.
 */
import { StudioError } from '../../core/errors.ts';
import type { Witness } from '../../storage/witness.ts';
import type { KeyValues } from './key_values.ts';
import { LibraryWitness } from './library_witness.ts';
import { keyOf, parseFileRecord, parseForeign, parseLicenses, parseManifest } from './records.ts';
import type { FileRecord, Manifest } from './records.ts';

/** One entry of the list: a manifest, or what is known of one written by another version. */
export type Listed =
  { ref: string; manifest: Manifest } | { ref: string; manifest: null; name: string; addedAt: number };

export class LibraryStore {
  readonly #values: KeyValues;
  readonly #witness: LibraryWitness | null;

  /** @param witness null for readers, and if nothing is written */
  constructor(values: KeyValues, witness: Witness | null = null) {
    this.#values = values;
    this.#witness = witness && new LibraryWitness(witness, this.#values);
  }

  /** Called before a checkpoint is fetched. */
  prepare(): Promise<void> {
    return this.#values.prepare();
  }

  async list(): Promise<Listed[]> {
    await this.#witness?.restored;
    const prefix = keyOf.manifest('');
    const keys = await this.#values.keys(prefix);
    const values = await this.#values.read(keys);
    return keys.flatMap((key, i): Listed[] => {
      const ref = key.slice(prefix.length);
      const manifest = parseManifest(values[i]);
      if (manifest?.ref === ref) {
        return [{ ref, manifest }];
      }
      // Removed between the two reads.
      return values[i] === undefined ? [] : [{ ref, manifest: null, ...parseForeign(values[i]) }];
    });
  }

  /** Null if there is none this version can read. */
  async manifest(ref: string): Promise<Manifest | null> {
    const [value] = await this.#values.read([keyOf.manifest(ref)]);
    return parseManifest(value);
  }

  /** The checkpoint `ref`, if usable. @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` */
  async complete(ref: string): Promise<Manifest> {
    const manifest = await this.manifest(ref);
    if (manifest?.complete) {
      return manifest;
    }
    throw manifest?.damaged
      ? new StudioError('checkpoint_damaged', `"${manifest.name}" has damaged bytes; repair it in the library first.`)
      : new StudioError(
          'checkpoint_incomplete',
          manifest
            ? `"${manifest.name}" is not completely here yet; resume its download in the library first.`
            : `The checkpoint "${ref}" is not in the library; download it first.`,
        );
  }

  async writeManifest(manifest: Manifest): Promise<void> {
    await this.#values.write([[keyOf.manifest(manifest.ref), manifest]]);
    this.#witness?.look();
  }

  /** Changes an existing one; does nothing otherwise. */
  async changeManifest(ref: string, change: Partial<Manifest>): Promise<void> {
    await this.#values.update(keyOf.manifest(ref), (value) => {
      const manifest = parseManifest(value);
      return manifest ? { ...manifest, ...change } : undefined;
    });
    this.#witness?.look();
  }

  /** One record per path; null for missing or invalid ones. */
  async files(ref: string, paths: readonly string[]): Promise<(FileRecord | null)[]> {
    const values = await this.#values.read(paths.map((path) => keyOf.file(ref, path)));
    return values.map(parseFileRecord);
  }

  async file(ref: string, path: string): Promise<FileRecord | null> {
    return (await this.files(ref, [path]))[0];
  }

  /** Writes the record and, if there is one, its new piece. */
  writeFile(ref: string, path: string, record: FileRecord, piece?: { n: number; content: Blob }): Promise<void> {
    return this.#values.write([
      ...(piece ? [[keyOf.piece(ref, path, piece.n), piece.content] as const] : []),
      [keyOf.file(ref, path), record],
    ]);
  }

  /** A file's pieces; null if one is missing or is no Blob. */
  async pieces(ref: string, path: string, numbers: readonly number[]): Promise<(Blob | null)[]> {
    const values = await this.#values.read(numbers.map((n) => keyOf.piece(ref, path, n)));
    return values.map((value) => (value instanceof Blob ? value : null));
  }

  /** Drops wrong pieces and marks record and manifest accordingly. */
  async dropPieces(
    manifest: Manifest,
    path: string,
    record: FileRecord,
    numbers: readonly number[],
  ): Promise<Manifest> {
    const damaged = { ...manifest, complete: false, damaged: true };
    const missing = [...new Set([...record.missing, ...numbers])].sort((a, b) => a - b);
    await this.#values.write(
      [
        [keyOf.file(manifest.ref, path), { ...record, missing }],
        [keyOf.manifest(manifest.ref), damaged],
      ],
      numbers.map((n) => keyOf.piece(manifest.ref, path, n)),
    );
    return damaged;
  }

  /** Deletes what is stored of one file. */
  async discardFile(ref: string, path: string): Promise<void> {
    const prefix = `piece/${ref}/${path}/`;
    const pieces = (await this.#values.keys(prefix)).filter((key) => /^[0-9]+$/.test(key.slice(prefix.length)));
    await this.#values.write([], [keyOf.file(ref, path), keyOf.header(ref, path), ...pieces]);
  }

  /** Removes the checkpoint with everything that belongs to it, atomically. */
  async remove(ref: string): Promise<void> {
    // One URL can be a prefix of another, whose keys then share that prefix.
    const others = (await this.list()).map((one) => one.ref).filter((other) => other.startsWith(`${ref}/`));
    const keys: string[] = [];
    for (const kind of ['file', 'header', 'piece']) {
      const found = await this.#values.keys(`${kind}/${ref}/`);
      keys.push(...found.filter((key) => !others.some((other) => key.startsWith(`${kind}/${other}/`))));
    }
    await this.#witness?.dismiss(ref);
    await this.#values.write([], [keyOf.manifest(ref), ...keys]);
    this.#witness?.look();
  }

  async header(ref: string, path: string): Promise<Uint8Array<ArrayBuffer> | null> {
    const [value] = await this.#values.read([keyOf.header(ref, path)]);
    return value instanceof Uint8Array ? new Uint8Array(value) : null;
  }

  writeHeader(ref: string, path: string, header: Uint8Array): Promise<void> {
    return this.#values.write([[keyOf.header(ref, path), header]]);
  }

  async licenses(): Promise<string[]> {
    await this.#witness?.restored;
    const [value] = await this.#values.read([keyOf.licenses]);
    return parseLicenses(value);
  }

  async acceptLicense(ref: string): Promise<void> {
    await this.#values.update(keyOf.licenses, (value) => [...new Set([...parseLicenses(value), ref])]);
    this.#witness?.look();
  }
}
