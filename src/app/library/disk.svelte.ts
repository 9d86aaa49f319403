import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { keep, readKept } from '../parts/kept.ts';

/** Parts of the File System Access API missing in TypeScript's DOM library; Chromium browsers have them. */
declare global {
  interface Window {
    showDirectoryPicker?: (options?: {
      id?: string;
      mode?: 'read' | 'readwrite';
    }) => Promise<FileSystemDirectoryHandle>;
    showOpenFilePicker?: (options?: {
      id?: string;
      multiple?: boolean;
      types?: { description: string; accept: Record<string, string[]> }[];
    }) => Promise<FileSystemFileHandle[]>;
  }
  interface DataTransferItem {
    getAsFileSystemHandle?: () => Promise<FileSystemHandle | null>;
  }
  interface FileSystemHandle {
    queryPermission?: (options: { mode: 'read' | 'readwrite' }) => Promise<PermissionState>;
    requestPermission?: (options: { mode: 'read' | 'readwrite' }) => Promise<PermissionState>;
  }
}

const KEY = 'folders';

const schema = v.fallback(
  v.array(
    v.object({
      id: v.string(),
      handle: v.union([v.instance(FileSystemDirectoryHandle), v.instance(FileSystemFileHandle)]),
      beside: v.optional(v.array(v.instance(FileSystemFileHandle)), []),
      addedAt: v.number(),
      usedAt: v.number(),
    }),
  ),
  [],
);

/** A checkpoint's folder on this computer that was opened once, or its file with those `beside` it; read in place. */
export type DiskFolder = v.InferOutput<typeof schema>[number];
export type DiskHandle = DiskFolder['handle'];

/** Whether picked folders can be reopened after a reload, and written. */
export const canPickFolders = 'showDirectoryPicker' in window;

/** @returns null if the person closed the picker */
export async function pickFolder(mode: 'read' | 'readwrite'): Promise<FileSystemDirectoryHandle | null> {
  try {
    return (await window.showDirectoryPicker?.({ id: 'checkpoints', mode })) ?? null;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') {
      return null;
    }
    throw new StudioError('storage_unavailable', 'The browser did not open that folder; choose another one.', {
      cause: error,
    });
  }
}

/** With what lies beside weights: vocabularies. */
export const WEIGHT_FILES = ['.safetensors', '.gguf', '.json', '.model'];

/** Whether a picked file can be reopened after a reload. */
export const canPickFiles = 'showOpenFilePicker' in window;

/**
 * Weight files, with the vocabularies that belong to them.
 * @returns none when the person closed the picker
 */
export async function pickWeightFiles(multiple: boolean): Promise<FileSystemFileHandle[]> {
  const types = [{ description: 'Weights', accept: { 'application/octet-stream': WEIGHT_FILES } }];
  try {
    return (await window.showOpenFilePicker?.({ id: 'checkpoints', multiple, types })) ?? [];
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') {
      return [];
    }
    throw new StudioError('storage_unavailable', 'The browser did not open that file; choose another one.', {
      cause: error,
    });
  }
}

/** The folders that are kept, as they were stored. */
export async function keptFolders(): Promise<DiskFolder[]> {
  return v.parse(schema, await readKept(KEY));
}

/** The folders whose handles are stored, most recently used first. */
export class Disk {
  folders = $state.raw<DiskFolder[]>([]);

  async restore(): Promise<void> {
    const folders = await keptFolders();
    this.folders = folders.sort((a, b) => b.usedAt - a.usedAt);
  }

  /**
   * Remembers the folder, or the file with those beside it, or that it was used again.
   * @returns its id
   */
  async remember(handle: DiskHandle, beside: FileSystemFileHandle[]): Promise<string> {
    const now = Date.now();
    const same = await Promise.all(this.folders.map((folder) => folder.handle.isSameEntry(handle)));
    const known = this.folders[same.indexOf(true)];
    const folder = { ...(known ?? { id: crypto.randomUUID(), handle, addedAt: now }), beside, usedAt: now };
    await this.#replace([folder, ...this.folders.filter((other) => other !== known)]);
    return folder.id;
  }

  async forget(folder: DiskFolder): Promise<void> {
    await this.#replace(this.folders.filter((other) => other.id !== folder.id));
  }

  async #replace(folders: DiskFolder[]): Promise<void> {
    this.folders = folders;
    try {
      await keep(
        KEY,
        folders.map((folder) => ({ ...folder })),
      );
    } catch {
      // Storage is blocked: the folder is known until the page is closed.
    }
  }
}
