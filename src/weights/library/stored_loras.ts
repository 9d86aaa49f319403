/** The LoRAs of the library, found by what operations call them. */
import { StudioError } from '../../core/errors.ts';
import { isLoraRef, loraName } from '../../core/loras.ts';
import type { Manifest } from './records.ts';
import type { LibraryStore } from './store.ts';
import { StoredFiles } from './stored_files.ts';

export interface StoredLora {
  ref: string;
  /** As prompts name it. */
  name: string;
  file: Blob;
  sha256: string | null;
}

/** Those that are complete, by name. */
export async function storedLoras(store: LibraryStore): Promise<{ ref: string; name: string }[]> {
  const manifests = await manifestsOf(store);
  return manifests
    .filter(({ complete }) => complete)
    .map(({ ref, name }) => ({ ref, name }))
    .sort((a, b) => a.name.localeCompare(b.name));
}

/**
 * @param named a ref, or a name as prompts have it; the case matters only where two names differ by nothing else
 * @throws StudioError `invalid_operation` when there is none of that name, or more than one; `checkpoint_incomplete`,
 *   `checkpoint_damaged` for one that is not whole
 */
export async function storedLora(store: LibraryStore, named: string): Promise<StoredLora> {
  const { ref, name } = await find(store, named);
  const files = await StoredFiles.open(store, ref, null);
  const [path] = files.paths();
  return { ref, name, file: await files.blob(path), sha256: files.sha256(path) };
}

async function find(store: LibraryStore, named: string): Promise<Manifest> {
  if (isLoraRef(named)) {
    const manifest = await store.manifest(named);
    if (!manifest) {
      throw unknown(named);
    }
    return manifest;
  }
  const wanted = loraName(named);
  const manifests = await manifestsOf(store);
  const exact = manifests.filter(({ name }) => name === wanted);
  const found = exact.length > 0 ? exact : manifests.filter(({ name }) => name.toLowerCase() === wanted.toLowerCase());
  if (found.length > 1) {
    throw new StudioError(
      'invalid_operation',
      `There are ${found.length} LoRAs named "${shown(named)}" here; choose one in the list of LoRAs, or name it by its ref, such as ${found[0].ref}.`,
    );
  }
  if (found.length === 0) {
    throw unknown(named);
  }
  return found[0];
}

async function manifestsOf(store: LibraryStore): Promise<Manifest[]> {
  return (await store.list()).flatMap(({ ref, manifest }) => (isLoraRef(ref) && manifest ? [manifest] : []));
}

function unknown(named: string): StudioError {
  return new StudioError(
    'invalid_operation',
    `There is no LoRA "${shown(named)}" here; add its file in the library first, or take it out.`,
  );
}

function shown(text: string): string {
  return text.slice(0, 200);
}
