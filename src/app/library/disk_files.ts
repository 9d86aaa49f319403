/** The files of folders on this computer, read when somebody opens one. */
import { StudioError } from '../../core/errors.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import { keptFolders, type DiskHandle } from './disk.svelte.ts';

/**
 * Every file below the folder, with paths that begin with its name; a file is in a folder of its own name, with those beside it. Asks for
 * permission where the browser wants that, so it has to be called from a press.
 * @throws StudioError `storage_unavailable` when permission is refused or the folder is gone
 */
export async function filesOfHandle(folder: DiskHandle, beside: FileSystemFileHandle[] = []): Promise<FolderFile[]> {
  const permissions = [];
  for (const handle of [folder, ...beside]) {
    permissions.push((await handle.requestPermission?.({ mode: 'read' })) ?? 'granted');
  }
  if (permissions.some((permission) => permission !== 'granted')) {
    throw new StudioError(
      'storage_unavailable',
      `The browser was not allowed to read "${folder.name}"; open it again and allow it.`,
    );
  }
  try {
    return await filesOf(folder, beside);
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
  for (const { handle, beside } of await keptFolders()) {
    const permissions = await Promise.all(
      [handle, ...beside].map(async (one) => await one.queryPermission?.({ mode: 'read' })),
    );
    if (permissions.every((permission) => permission === 'granted')) {
      const files = await filesOf(handle, beside);
      if (files.some(({ path }) => path.split('/').includes(name))) {
        return files;
      }
    }
  }
  return null;
}

async function filesOf(folder: DiskHandle, beside: FileSystemFileHandle[]): Promise<FolderFile[]> {
  const files = await Promise.all([folder, ...beside].map((handle) => filesBelow(handle, folder.name)));
  return files.flat();
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

/** Every file below a folder that was dropped. */
export async function filesOfFolder(folder: FileSystemDirectoryEntry): Promise<FolderFile[]> {
  const files: FolderFile[] = [];
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) {
      files.push(...(await filesOfFolder(entry as FileSystemDirectoryEntry)));
    } else {
      const file = await unlessMissing(
        new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)),
      );
      files.push(...(file ? [{ path: entry.fullPath.replace(/^\//, ''), file }] : []));
    }
  }
  return files;
}

/** Null for a file that a folder lists and that is not there: so browsers that do not leave out links show them. */
export async function unlessMissing(file: Promise<File>): Promise<File | null> {
  try {
    return await file;
  } catch (error) {
    if (error instanceof DOMException && error.name === 'NotFoundError') {
      return null;
    }
    throw error;
  }
}

/** A reader gives at most 100 entries at a time, and none when it is done. */
async function entriesOf(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const entries: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) {
      return entries;
    }
    entries.push(...some);
  }
}
