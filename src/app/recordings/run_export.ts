/** Exporting runs: as a folder on disk, or file by file. */
import { StudioError } from '../../core/errors.ts';
import type { FolderFile } from '../../jobs/folder_source.ts';
import type { RecordingsClient } from '../../jobs/recordings.ts';
import { METADATA } from '../../jobs/recordings.ts';
import type { RunRecord } from '../../recorder/recorder_api.ts';

/**
 * Writes the run's folder into `parent`, in the form that can be imported again.
 * @returns how many of its files were already lost, and are not in it
 * @throws StudioError `storage_unavailable` if the disk refuses, and whatever the recorder throws
 */
export async function saveRun(
  recordings: Pick<RecordingsClient, 'read' | 'file'>,
  run: string,
  parent: FileSystemDirectoryHandle,
): Promise<number> {
  const record = await recordings.read(run);
  const folder = await written(parent.name, () => parent.getDirectoryHandle(run, { create: true }));
  for (const { filename } of record.entities) {
    const file = await recordings.file(run, filename);
    await written(parent.name, () => write(folder, filename, file));
  }
  // Last, since a folder without it is not taken for a run.
  await written(parent.name, () => write(folder, METADATA, metadataOf(record)));
  return record.lost?.length ?? 0;
}

/** `metadata.json` for the existing files. */
export function metadataOf(record: RunRecord): Blob {
  const described = { ...record };
  delete described.lost;
  return new Blob([`${JSON.stringify(described, null, 2)}\n`], { type: 'application/json' });
}

/** A folder's files by run. Without any run, all of them, so that the recorder says what is missing. */
export function foldersOfRuns(files: FolderFile[]): FolderFile[][] {
  const folderOf = (path: string) => path.slice(0, path.lastIndexOf('/') + 1);
  const folders = files.map(({ path }) => path).filter((path) => path.slice(folderOf(path).length) === METADATA);
  return folders.length === 0
    ? [files]
    : folders.map((metadata) => files.filter(({ path }) => folderOf(path) === folderOf(metadata)));
}

/** Saves a file as a download. */
export function download(file: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // Nothing reports when the browser has read the bytes.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function write(folder: FileSystemDirectoryHandle, name: string, content: Blob): Promise<void> {
  const stream = await (await folder.getFileHandle(name, { create: true })).createWritable();
  try {
    await stream.write(content);
  } catch (error) {
    await stream.abort().catch(() => {});
    throw error;
  }
  await stream.close();
}

async function written<T>(folder: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw new StudioError(
      'storage_unavailable',
      `The browser could not write to the folder "${folder}"; see that its disk has room and choose the folder again.`,
      { cause },
    );
  }
}
