/**
 * SHA-256 of checkpoint files, for recordings. Large files are hashed as a stream (WebCrypto only takes whole buffers), and results are
 * kept in IndexedDB by file name, size and date, so that gigabytes are read once.
 */
import { get, set } from 'idb-keyval';
import { createSHA256 } from 'hash-wasm';
import { openStore } from '../storage/database.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';

/** idb-keyval's own default, where the hashes have been since the beginning. */
const hashes = openStore('keyval-store', 'keyval');

export async function fingerprint(
  files: Pick<CheckpointFiles, 'blob' | 'version' | 'sha256'>,
  path: string,
): Promise<string> {
  const said = files.sha256?.(path) ?? null;
  if (said !== null) {
    return said;
  }
  const version = files.version(path);
  const key = version === null ? null : `sha256:${version}`;
  const known = key === null ? undefined : await get<string>(key, hashes).catch(() => undefined);
  if (known !== undefined) {
    return known;
  }
  const hasher = await createSHA256();
  const reader = (await files.blob(path)).stream().getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    hasher.update(part.value);
  }
  const digest = hasher.digest('hex');
  if (key !== null) {
    // Without IndexedDB (private mode) only the cache is lost.
    await set(key, digest, hashes).catch(() => undefined);
  }
  return digest;
}
