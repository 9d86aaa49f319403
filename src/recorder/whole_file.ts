/** Files that are either whole or absent, and what interrupted writes leave beside them. */
import type { FileStore } from './file_store.ts';

/** Afterwards there is either the whole new file, or the previous one. */
export async function writeWhole(
  store: FileStore,
  folder: string,
  name: string,
  content: Blob | Uint8Array<ArrayBuffer>,
): Promise<void> {
  const part = `${name}.part`;
  try {
    await store.write(`${folder}/${part}`, content);
    await store.move(folder, part, name);
  } catch (error) {
    await store.remove(`${folder}/${part}`).catch(() => {});
    throw error;
  }
}

/** Ours, or the browser's own for a writable stream that was never closed. */
export function isLeftover(name: string): boolean {
  return name.endsWith('.part') || name.endsWith('.crswap');
}

export async function sha256(content: Blob | Uint8Array<ArrayBuffer>): Promise<string> {
  const bytes = content instanceof Blob ? await content.arrayBuffer() : content;
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
