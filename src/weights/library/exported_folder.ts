/** A checkpoint as a plain folder with a `darkroom.json`, which describes it and the hashes of its files. */
import { createSHA256 } from 'hash-wasm';
import * as v from 'valibot';
import { ADDITIONS } from '../../core/additions.ts';
import { INDEX, MODULAR_INDEX } from '../../core/checkpoint_indexes.ts';
import { StudioError, cancelled } from '../../core/errors.ts';
import type { CheckpointFiles } from '../checkpoint_files.ts';
import { licenseSchema, listedFileSchema, originSchema, variantSchema } from './records.ts';
import type { Manifest, ManifestFile } from './records.ts';

export const CARD = 'darkroom.json';

const REF = new RegExp(`^((${Object.keys(ADDITIONS).join('|')}):)?(hub|url|import):.`);

const cardSchema = v.object({
  darkroom_library: v.literal(1),
  ref: v.pipe(v.string(), v.regex(REF)),
  name: v.string(),
  origin: v.union([originSchema, v.object({ kind: v.literal('import') })]),
  revision: v.nullable(v.string()),
  license: licenseSchema,
  variant: variantSchema,
  files: v.pipe(v.array(listedFileSchema), v.minLength(1)),
});

export type Card = v.InferOutput<typeof cardSchema>;

export interface FolderFile {
  /** Relative to the checkpoint's folder. */
  path: string;
  file: File;
}

/**
 * Writes the files in the form they are read here, verifying each hash on the way, then the card.
 * @param expected SHA-256 of each file, if known
 * @returns the folder's name within `parent`
 * @throws StudioError `checkpoint_damaged`, `storage_full`, `storage_unavailable`, `cancelled`
 */
export async function writeFolder(
  manifest: Manifest,
  files: CheckpointFiles,
  expected: ReadonlyMap<string, string>,
  parent: FileSystemDirectoryHandle,
  signal: AbortSignal,
  onBytes: (path: string, count: number) => void,
): Promise<string> {
  const name = folderName(manifest);
  try {
    const folder = await parent.getDirectoryHandle(name, { create: true });
    const listed: ManifestFile[] = [];
    for (const path of files.paths()) {
      listed.push(await writeFile(folder, path, await files.blob(path), expected.get(path), signal, onBytes));
    }
    const { ref, origin, revision, license, variant } = manifest;
    const card: Card = {
      darkroom_library: 1,
      ref,
      name: manifest.name,
      origin,
      revision,
      license,
      variant,
      files: listed,
    };
    // Last, so that an unfinished folder has no card.
    await writeFile(folder, CARD, new Blob([`${JSON.stringify(card, null, 2)}\n`]), undefined, signal, () => undefined);
    return name;
  } catch (error) {
    throw folderError(error, parent.name);
  }
}

/**
 * The checkpoint in a folder: its files, by relative path, and its card if it has one.
 * @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged`
 */
export async function readFolder(
  name: string,
  files: FolderFile[],
): Promise<{ card: Card | null; files: FolderFile[] }> {
  const depth = (path: string) => path.split('/').length;
  const root = (marker: string) =>
    files
      .filter(({ path }) => path.split('/').at(-1) === marker)
      .sort((a, b) => depth(a.path) - depth(b.path))[0]
      ?.path.slice(0, -marker.length);
  const base = root(CARD) ?? root(INDEX) ?? root(MODULAR_INDEX) ?? '';
  const inside = files
    .filter(({ path }) => path.startsWith(base) && !/(^|\/)(\.|Thumbs\.db$)/.test(path))
    .map(({ path, file }) => ({ path: path.slice(base.length), file }));
  const described = inside.find(({ path }) => path === CARD);
  const others = inside.filter(({ path }) => path !== CARD);
  if (!described) {
    if (others.length === 0) {
      throw new StudioError(
        'checkpoint_incomplete',
        `The folder "${name}" is empty; choose the folder of a checkpoint.`,
      );
    }
    return { card: null, files: others };
  }
  let card: Card;
  try {
    card = v.parse(cardSchema, JSON.parse(await described.file.text()));
  } catch (cause) {
    throw new StudioError(
      'checkpoint_damaged',
      `The ${CARD} of "${name}" cannot be read; export the checkpoint again, or delete that file to import the folder as it is.`,
      { cause },
    );
  }
  for (const { path, size } of card.files) {
    const found = others.find((other) => other.path === path);
    if (found?.file.size !== size) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${path} is ${found ? 'not whole' : 'missing'} in the folder "${name}"; export the checkpoint again.`,
      );
    }
  }
  return { card, files: others };
}

async function writeFile(
  folder: FileSystemDirectoryHandle,
  path: string,
  content: Blob,
  expected: string | undefined,
  signal: AbortSignal,
  onBytes: (path: string, count: number) => void,
): Promise<ManifestFile> {
  const parts = path.split('/');
  let place = folder;
  for (const part of parts.slice(0, -1)) {
    place = await place.getDirectoryHandle(part, { create: true });
  }
  const handle = await place.getFileHandle(parts.at(-1) as string, { create: true });
  const stream = await handle.createWritable();
  const hasher = (await createSHA256()).init();
  try {
    const reader = content.stream().getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (signal.aborted) {
        throw cancelled();
      }
      hasher.update(part.value);
      await stream.write(part.value);
      onBytes(path, part.value.length);
    }
    const sha256 = hasher.digest();
    if (expected !== undefined && sha256 !== expected) {
      throw new StudioError(
        'checkpoint_damaged',
        `${path} is damaged in the library; verify and repair it there first.`,
      );
    }
    await stream.close();
    return { path, size: content.size, sha256 };
  } catch (error) {
    await stream.abort().catch(() => undefined);
    throw error;
  }
}

/** Each checkpoint has its own folder, so several fit on one USB stick. */
function folderName({ name, variant }: Manifest): string {
  const safe = name.replace(/[^\w.-]+/g, '_').replace(/^[._]+|[._]+$/g, '') || 'checkpoint';
  return variant === 'full' ? safe : `${safe}-${variant}`;
}

function folderError(error: unknown, folder: string): Error {
  if (error instanceof StudioError) {
    return error;
  }
  const name = error instanceof DOMException ? error.name : '';
  if (name === 'QuotaExceededError') {
    return new StudioError(
      'storage_full',
      `There is no room left in "${folder}"; free some space there and try again.`,
      {
        retry: 'same',
        cause: error,
      },
    );
  }
  return new StudioError(
    'storage_unavailable',
    `The folder "${folder}" cannot be written; check that the disk is there and not protected, or choose another folder.`,
    { cause: error },
  );
}
