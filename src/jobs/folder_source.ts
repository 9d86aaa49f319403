/** A folder from the disk as the source of a checkpoint. */
import { INDEX, MODULAR_INDEX } from '../core/checkpoint_indexes.ts';
import { StudioError } from '../core/errors.ts';
import type { CheckpointSource } from '../weights/checkpoint_source.ts';

/** `path` begins with the name of the chosen folder, as `webkitRelativePath` does; that of a file without one is its name. */
export interface FolderFile {
  path: string;
  file: File;
}

const CONFIG = 'config.json';

/** A folder of the Hugging Face cache: a repository's, or the one in it that holds the files under their hashes. */
const REPOSITORY = /(?:^|\/)models--([^/]+?)--([^/]+)\/(?:blobs|refs|snapshots|\.no_exist)\//;
const HASHED = /(?:^|\/)(?:[0-9a-f]{40}|[0-9a-f]{64})(?:\.incomplete)?$/;

/** The place of the largest file: of a model's that is what paints. */
export function largestOf(files: readonly File[]): number {
  return files.reduce((most, file, i) => (file.size > files[most].size ? i : most), 0);
}

/**
 * Finds the checkpoint in the chosen folder: the folder with `model_index.json` or its modular kin, or a language model's with `config.json` and a folder of
 * networks, possibly nested (a hub cache, an unpacked archive). Without one, the chosen folder itself is used, and opening it says what is
 * missing.
 */
export function folderSource(chosenFiles: FolderFile[]): CheckpointSource {
  // Files that were chosen by themselves are a checkpoint that is called like the largest.
  const isInFolder = chosenFiles.some(({ path }) => path.includes('/'));
  const own = chosenFiles[largestOf(chosenFiles.map(({ file }) => file))]?.path;
  const files = isInFolder ? chosenFiles : chosenFiles.map(({ path, file }) => ({ path: `${own}/${path}`, file }));
  const depth = (path: string) => path.split('/').length;
  const highest = (name: string) =>
    files
      .filter(({ path }) => path.split('/').at(-1) === name && (name !== CONFIG || hasNetworks(path)))
      .sort((a, b) => depth(a.path) - depth(b.path))[0];
  const hasNetworks = (config: string) =>
    files.some(({ path }) => path.startsWith(config.replace(/config\.json$/, 'onnx/')) && path.endsWith('.onnx'));
  const index = highest(INDEX) ?? highest(MODULAR_INDEX) ?? highest(CONFIG);
  const chosen = files[0]?.path.split('/')[0];
  if (chosen === undefined) {
    throw new StudioError(
      'checkpoint_incomplete',
      `This folder is empty, or all of its files are links, as in the Hugging Face cache, and browsers do not follow links; choose a folder that holds the files themselves, such as a copy made with "cp -rL".`,
    );
  }
  if (!index) {
    refuseCache(files, chosen);
  }
  const root = index ? index.path.replace(/\/?[^/]*$/, '') : chosen;
  const within = root === '' ? files : files.filter(({ path }) => path.startsWith(`${root}/`));
  return {
    kind: 'folder',
    name: root.split('/').at(-1) || 'checkpoint',
    files: within.map(({ path, file }) => ({ path: root === '' ? path : path.slice(root.length + 1), file })),
  };
}

/** @throws StudioError `checkpoint_incomplete` where what was chosen is the Hugging Face cache, of which browsers see no file by its name */
function refuseCache(files: FolderFile[], chosen: string): void {
  // Without symbolic links, the cache holds copies.
  if (files.some(({ path }) => path.endsWith('.safetensors'))) {
    return;
  }
  const [, organisation, name] = files.map(({ path }) => REPOSITORY.exec(path)).find((found) => found !== null) ?? [];
  if (organisation === undefined && !files.every(({ path }) => HASHED.test(path))) {
    return;
  }
  const repository = organisation === undefined ? null : `${organisation}/${name}`;
  throw new StudioError(
    'checkpoint_incomplete',
    `"${chosen}" is a folder of the Hugging Face cache: the files that have names there are links, and browsers do not follow links. Copy the folder in its "snapshots" with "cp -rL" and open the copy, ${repository === null ? 'or get the checkpoint in the library by its name' : `or get ${repository} in the library`}.`,
  );
}
