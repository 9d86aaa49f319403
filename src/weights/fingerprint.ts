/**
 * SHA-256 of checkpoint files, for recordings. Large files are hashed as a stream (WebCrypto only takes whole buffers), and results are
 * kept in IndexedDB by file name, size and date, so that gigabytes are read once.
 */
import { get, set } from 'idb-keyval';
import { createBLAKE3, createSHA256 } from 'hash-wasm';
import type { ModelHashes } from '../core/model_hashes.ts';
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

/** Where AUTOMATIC1111's old hash looks. */
const OLD = { start: 0x100000, end: 0x110000 };

/** All hashes by which tools name a safetensors file, from one reading; kept as {@link fingerprint}s are. */
export async function hashesOf(
  files: Pick<CheckpointFiles, 'blob' | 'version'>,
  path: string,
): Promise<Required<ModelHashes>> {
  const version = files.version(path);
  const key = version === null ? null : `hashes:${version}`;
  const known = key === null ? undefined : await get<Required<ModelHashes>>(key, hashes).catch(() => undefined);
  if (known !== undefined) {
    return known;
  }
  const [whole, tensors, blake3, old] = await Promise.all([
    createSHA256(),
    createSHA256(),
    createBLAKE3(),
    createSHA256(),
  ]);
  const blob = await files.blob(path);
  old.update(new Uint8Array(await blob.slice(OLD.start, OLD.end).arrayBuffer()));
  const length = new DataView(await blob.slice(0, 8).arrayBuffer());
  let header = length.byteLength === 8 ? 8 + Number(length.getBigUint64(0, true)) : 0;
  const reader = blob.stream().getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    whole.update(part.value);
    blake3.update(part.value);
    tensors.update(part.value.subarray(Math.min(header, part.value.length)));
    header = Math.max(0, header - part.value.length);
  }
  const found = {
    sha256: whole.digest('hex'),
    tensors: tensors.digest('hex'),
    blake3: blake3.digest('hex'),
    old: old.digest('hex').slice(0, 8),
  };
  if (key !== null) {
    await set(key, found, hashes).catch(() => undefined);
  }
  return found;
}
