/** Files of the disk as pages have them. */
import { openAsBlob } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import { StudioError } from '../core/errors.ts';
import { filesOfFolder } from '../../cli/checkpoint_folder.js';
import type { CheckpointFile } from './contract.ts';

/**
 * A checkpoint's folder or its one file; addresses of the web stay as they are.
 * @throws StudioError `checkpoint_incomplete`
 */
export async function filesAt(
  where: string | URL | readonly CheckpointFile[],
): Promise<string | URL | readonly CheckpointFile[]> {
  const path =
    where instanceof URL && where.protocol === 'file:'
      ? fileURLToPath(where)
      : typeof where === 'string' && !/^https?:/.test(where)
        ? where
        : null;
  if (path === null) {
    return where;
  }
  try {
    const isFile = (await stat(path)).isFile();
    const files = isFile ? [{ path: basename(path), file: path }] : await filesOfFolder(path);
    return await Promise.all(files.map(async (one) => ({ path: one.path, file: await fileAt(one.file) })));
  } catch (cause) {
    throw new StudioError('checkpoint_incomplete', `There is no checkpoint at ${path} that can be read.`, { cause });
  }
}

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
