/** Folders from disk, by picker or by drop. */
import type { FolderFile } from '../../jobs/folder_source.ts';

export function filesOfInput(input: HTMLInputElement): FolderFile[] {
  return [...(input.files ?? [])].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** The folder among what was dropped, or null. Must be called within the drop event: entries do not outlive it. */
export function droppedFolder(transfer: DataTransfer): FileSystemDirectoryEntry | null {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  return entries.find((entry): entry is FileSystemDirectoryEntry => entry?.isDirectory ?? false) ?? null;
}

/** The same folder as a handle that can be kept, where the browser gives one. Must be called within the drop event, too. */
export function droppedHandle(transfer: DataTransfer): Promise<FileSystemDirectoryHandle | null> | null {
  const item = [...transfer.items].find((one) => one.webkitGetAsEntry()?.isDirectory);
  return (
    item?.getAsFileSystemHandle?.().then(
      (handle) => (handle?.kind === 'directory' ? (handle as FileSystemDirectoryHandle) : null),
      () => null,
    ) ?? null
  );
}

/** The first dropped file as a handle that can be kept, as {@link droppedHandle}. */
export function droppedFileHandle(transfer: DataTransfer): Promise<FileSystemFileHandle | null> | null {
  const item = [...transfer.items].find((one) => one.webkitGetAsEntry()?.isFile);
  return (
    item?.getAsFileSystemHandle?.().then(
      (handle) => (handle?.kind === 'file' ? (handle as FileSystemFileHandle) : null),
      () => null,
    ) ?? null
  );
}

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
