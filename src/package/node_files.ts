/** Files of the disk as pages have them. */
import { createWriteStream, openAsBlob } from 'node:fs';
import { mkdir, stat } from 'node:fs/promises';
import { basename, dirname, join, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { StudioError } from '../core/errors.ts';
import { filesOfFolder } from '../../cli/checkpoint_folder.js';
import type { CheckpointFile } from './contract.ts';

/** A file of a checkpoint's folder, and where it lies. */
export interface FileOfFolder {
  path: string;
  file: string;
}

/**
 * A checkpoint's folder or its one file; addresses of the web stay as they are.
 * @throws StudioError `checkpoint_incomplete`
 */
export async function filesAt(
  where: string | URL | readonly CheckpointFile[],
): Promise<string | URL | readonly CheckpointFile[]> {
  const files = typeof where === 'string' || where instanceof URL ? await pathsAt(where) : null;
  return files
    ? Promise.all(files.map(async (one) => ({ path: one.path, file: await fileAt(one.file).catch(absent(one.file)) })))
    : where;
}

/**
 * Where the files of a checkpoint lie, each with its path in the folder; null for an address of the web.
 * @throws StudioError `checkpoint_incomplete`
 */
export async function pathsAt(where: string | URL): Promise<FileOfFolder[] | null> {
  const path =
    where instanceof URL && where.protocol === 'file:'
      ? fileURLToPath(where)
      : typeof where === 'string' && !/^https?:/.test(where)
        ? where
        : null;
  if (path === null) {
    return null;
  }
  try {
    const isFile = (await stat(path)).isFile();
    return isFile ? [{ path: basename(path), file: path }] : await filesOfFolder(path);
  } catch (cause) {
    return absent(path)(cause);
  }
}

/**
 * Writes files that are in memory to a folder.
 * @throws StudioError `invalid_operation` for a path that leads out of it
 */
export function writtenFiles(folder: string, files: readonly CheckpointFile[]): Promise<FileOfFolder[]> {
  return Promise.all(
    files.map(async ({ path, file }) => {
      const written = join(folder, path);
      if (!written.startsWith(folder + sep)) {
        throw new StudioError(
          'invalid_operation',
          `"${path}" is no path within a checkpoint's folder; give it another one.`,
        );
      }
      await mkdir(dirname(written), { recursive: true });
      await pipeline(file.stream(), createWriteStream(written));
      return { path, file: written };
    }),
  );
}

const absent =
  (path: string) =>
  (cause: unknown): never => {
    throw new StudioError('checkpoint_incomplete', `There is no checkpoint at ${path} that can be read.`, { cause });
  };

/** Read when it is asked for, range by range. */
async function fileAt(path: string): Promise<CheckpointFile['file']> {
  const [blob, { mtimeMs }] = await Promise.all([openAsBlob(path), stat(path)]);
  return Object.assign(blob, { name: basename(path), lastModified: Math.round(mtimeMs) });
}

/** The global `fetch` of the build for Node: it also reads what lies beside the module. */
export async function fetchAnywhere(address: string | URL | Request, options?: RequestInit): Promise<Response> {
  const url = address instanceof URL ? address : null;
  if (url?.protocol !== 'file:') {
    return globalThis.fetch(address, options);
  }
  return openAsBlob(fileURLToPath(url)).then(
    (blob) => new Response(blob),
    () => new Response(null, { status: 404 }),
  );
}
