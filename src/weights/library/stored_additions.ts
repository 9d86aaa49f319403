/** The library's LoRAs and other additions, by the names operations use. */
import { ADDITIONS, additionOf, type Addition } from '../../core/additions.ts';
import { StudioError } from '../../core/errors.ts';
import { loraName } from '../../core/loras.ts';
import type { Manifest } from './records.ts';
import type { LibraryStore } from './store.ts';
import { StoredFiles } from './stored_files.ts';

export interface StoredAddition {
  ref: string;
  /** As prompts name it. */
  name: string;
  file: Blob;
  sha256: string | null;
}

/** Complete ones of a kind, by name. */
export async function storedAdditions(store: LibraryStore, kind: Addition): Promise<{ ref: string; name: string }[]> {
  const manifests = await manifestsOf(store, kind);
  return manifests
    .filter(({ complete }) => complete)
    .map(({ ref, name }) => ({ ref, name }))
    .sort((a, b) => a.name.localeCompare(b.name));
}

/**
 * @param named a ref, or a name as used in prompts; case only matters if two names differ in nothing else
 * @throws StudioError `invalid_operation` if there is none of that name, or more than one; `checkpoint_incomplete`, `checkpoint_damaged`
 * for an incomplete one
 */
export async function storedAddition(store: LibraryStore, kind: Addition, named: string): Promise<StoredAddition> {
  const { ref, name } = await find(store, kind, named);
  const files = await StoredFiles.open(store, ref, null);
  const [path] = files.paths();
  return { ref, name, file: await files.blob(path), sha256: files.sha256(path) };
}

async function find(store: LibraryStore, kind: Addition, named: string): Promise<Manifest> {
  if (additionOf(named) === kind) {
    const manifest = await store.manifest(named);
    if (!manifest) {
      throw unknown(kind, named);
    }
    return manifest;
  }
  const wanted = loraName(named);
  const manifests = await manifestsOf(store, kind);
  const exact = manifests.filter(({ name }) => name === wanted);
  const found = exact.length > 0 ? exact : manifests.filter(({ name }) => name.toLowerCase() === wanted.toLowerCase());
  if (found.length > 1) {
    throw new StudioError(
      'invalid_operation',
      `There are ${found.length} ${ADDITIONS[kind]}s named "${shown(named)}" here; choose one in the list of ${ADDITIONS[kind]}s, or name it by its ref, such as ${found[0].ref}.`,
    );
  }
  if (found.length === 0) {
    throw unknown(kind, named);
  }
  return found[0];
}

async function manifestsOf(store: LibraryStore, kind: Addition): Promise<Manifest[]> {
  return (await store.list()).flatMap(({ ref, manifest }) => (additionOf(ref) === kind && manifest ? [manifest] : []));
}

function unknown(kind: Addition, named: string): StudioError {
  return new StudioError(
    'invalid_operation',
    `There is no ${ADDITIONS[kind]} "${shown(named)}" here; add its file in the library first, or take it out.`,
  );
}

function shown(text: string): string {
  return text.slice(0, 200);
}
