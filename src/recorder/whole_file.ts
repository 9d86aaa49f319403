/** Files that are there whole or not at all, and what interrupted writes leave beside them. */
import type { FileStore } from './file_store.ts';

/** Either the whole new file is there afterwards, or what was there before. */
export async function writeWhole(store: FileStore, folder: string, name: string, content: Blob): Promise<void> {
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

export async function sha256(blob: Blob): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer())));
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
