/** Folders from disk, by picker or by drop. */
import type { FolderFile } from '../../jobs/folder_source.ts';

export function filesOfInput(input: HTMLInputElement): FolderFile[] {
  return [...(input.files ?? [])].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** The dropped folder, or null. Must be called during the drop event, which entries do not outlive. */
export function droppedFolder(transfer: DataTransfer): FileSystemDirectoryEntry | null {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  return entries.find((entry): entry is FileSystemDirectoryEntry => entry?.isDirectory ?? false) ?? null;
}

/** The same folder as a storable handle, if the browser has them. Must also be called during the drop event. */
export function droppedHandle(transfer: DataTransfer): Promise<FileSystemDirectoryHandle | null> | null {
  const item = [...transfer.items].find((one) => one.webkitGetAsEntry()?.isDirectory);
  return (
    item?.getAsFileSystemHandle?.().then(
      (handle) => (handle?.kind === 'directory' ? (handle as FileSystemDirectoryHandle) : null),
      () => null,
    ) ?? null
  );
}

/** The dropped files as handles that can be kept, as {@link droppedHandle}; none where the browser does not give all of them. */
export function droppedFileHandles(transfer: DataTransfer): Promise<FileSystemFileHandle[]> {
  const items = [...transfer.items].filter((one) => one.kind === 'file');
  return Promise.all(items.map(async (item) => await item.getAsFileSystemHandle?.())).then(
    (handles) => (handles.every((handle) => handle?.kind === 'file') ? (handles as FileSystemFileHandle[]) : []),
    () => [],
  );
}
