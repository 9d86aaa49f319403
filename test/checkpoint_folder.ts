/** A folder on disk as the files of a checkpoint, for tests; a test's changes stay in memory. */
import { readFileSync, readdirSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';

export type Contents = Map<string, Uint8Array<ArrayBuffer>>;

/** @param root absolute */
export function folderContents(root: string): Contents {
  const contents: Contents = new Map();
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name);
      contents.set(relative(root, path), new Uint8Array(readFileSync(path)));
    }
  }
  return contents;
}

/** @param root absolute */
export function folderFiles(root: string, change: (contents: Contents) => void = () => undefined): FolderFiles {
  const contents = folderContents(root);
  change(contents);
  return filesOf(basename(root), contents);
}

export function filesOf(name: string, contents: Contents): FolderFiles {
  return new FolderFiles(
    name,
    [...contents].map(([path, bytes]) => ({ path, file: new File([bytes], basename(path)) })),
  );
}
