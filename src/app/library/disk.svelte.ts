import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import { unlessMissing } from '../parts/folder.ts';
import { keep, readKept } from '../parts/kept.ts';

/** The parts of the File System Access API that TypeScript's DOM library leaves out; Chromium browsers have them. */
declare global {
  interface Window {
    showDirectoryPicker?: (options?: {
      id?: string;
      mode?: 'read' | 'readwrite';
    }) => Promise<FileSystemDirectoryHandle>;
    showOpenFilePicker?: (options?: {
      id?: string;
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
      addedAt: v.number(),
      usedAt: v.number(),
    }),
  ),
  [],
);

/** A checkpoint's folder on this computer, or its one file, that was opened once; it is read where it lies. */
export type DiskFolder = v.InferOutput<typeof schema>[number];
export type DiskHandle = DiskFolder['handle'];

/** Whether folders can be picked so that they open again after a reload, and be written. */
export const canPickFolders = 'showDirectoryPicker' in window;

/** @returns null when the person closed the picker */
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

/** Whether a file can be picked so that it opens again after a reload. */
export const canPickFiles = 'showOpenFilePicker' in window;

/** @returns null when the person closed the picker */
export async function pickWeightFile(): Promise<FileSystemFileHandle | null> {
  const types = [{ description: 'Weights', accept: { 'application/octet-stream': ['.safetensors'] } }];
  try {
    return (await window.showOpenFilePicker?.({ id: 'checkpoints', types }))?.[0] ?? null;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') {
      return null;
    }
    throw new StudioError('storage_unavailable', 'The browser did not open that file; choose another one.', {
      cause: error,
    });
  }
}

/** The folders whose handles are kept, newest use first. */
export class Disk {
  folders = $state.raw<DiskFolder[]>([]);

  async restore(): Promise<void> {
    const folders = v.parse(schema, await readKept(KEY));
    this.folders = folders.sort((a, b) => b.usedAt - a.usedAt);
  }

  /**
   * Remembers the folder, or that it was used again.
   * @returns its id
   */
  async remember(handle: DiskHandle): Promise<string> {
    const now = Date.now();
    const same = await Promise.all(this.folders.map((folder) => folder.handle.isSameEntry(handle)));
    const known = this.folders[same.indexOf(true)];
    const folder = { ...(known ?? { id: crypto.randomUUID(), handle, addedAt: now }), usedAt: now };
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
      // Blocked storage: the folder is known until the page is closed.
    }
  }
}

/**
 * Every file below the folder, with paths that begin with its name; a file is alone in a folder of its own name. Asks for permission where the browser wants that, so it
 * has to be called from a press.
 * @throws StudioError `storage_unavailable` when permission is refused or the folder is gone
 */
export async function filesOfHandle(folder: DiskHandle): Promise<FolderFile[]> {
  const permission = (await folder.requestPermission?.({ mode: 'read' })) ?? 'granted';
  if (permission !== 'granted') {
    throw new StudioError(
      'storage_unavailable',
      `The browser was not allowed to read "${folder.name}"; open it again and allow it.`,
    );
  }
  try {
    return await filesBelow(folder, folder.name);
  } catch (cause) {
    throw new StudioError(
      'storage_unavailable',
      `"${folder.name}" cannot be read any more; it may have been moved, or its disk removed.`,
      { cause },
    );
  }
}

/**
 * The files of a checkpoint's folder that was opened in an earlier visit, where the browser still allows to read them without asking.
 * @param name of the folder that holds the checkpoint, which may lie below the one that was opened
 * @returns null when there is none
 */
export async function findFolder(name: string): Promise<FolderFile[] | null> {
  for (const { handle } of v.parse(schema, await readKept(KEY))) {
    if ((await handle.queryPermission?.({ mode: 'read' })) === 'granted') {
      const files = await filesBelow(handle, handle.name);
      if (files.some(({ path }) => path.split('/').includes(name))) {
        return files;
      }
    }
  }
  return null;
}

async function filesBelow(folder: DiskHandle, path: string): Promise<FolderFile[]> {
  if (folder.kind === 'file') {
    return [{ path: `${path}/${folder.name}`, file: await folder.getFile() }];
  }
  const files: FolderFile[] = [];
  for await (const entry of folder.values()) {
    const below = `${path}/${entry.name}`;
    if (entry.kind === 'directory') {
      files.push(...(await filesBelow(entry, below)));
    } else {
      const file = await unlessMissing(entry.getFile());
      files.push(...(file ? [{ path: below, file }] : []));
    }
  }
  return files;
}
