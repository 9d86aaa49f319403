/** The files of a checkpoint's folder, following links: browsers do not, and the Hugging Face cache consists of them. */
import { readFile, readdir, readlink, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Failure } from './failure.js';

/**
 * @param {string} path a folder: a checkpoint's own, or one of the Hugging Face cache (`models--ORG--NAME`, its `snapshots`, or one of these)
 * @returns {Promise<{ path: string, file: string }[]>} every file, by its path within the folder, which begins with the checkpoint's name
 * @throws {Failure} `checkpoint_incomplete` for a folder of the cache that is no checkpoint, and for a link that leads nowhere
 */
export async function filesOfFolder(path) {
  const folder = await snapshotOf(path);
  const repository = /^models--.*--(.+)$/.exec(basename(dirname(dirname(folder))));
  const name = repository && basename(dirname(folder)) === 'snapshots' ? repository[1] : basename(folder);
  return filesBelow(folder, name, new Set());
}

/**
 * The folder that holds the checkpoint, where the cache keeps several versions.
 * @param {string} path
 */
async function snapshotOf(path) {
  const names = await readdir(path);
  const models = names.filter((name) => name.startsWith('models--'));
  if (models.length > 0) {
    const some = models.slice(0, 3).join(', ') + (models.length > 3 ? ', …' : '');
    throw new Failure(
      'checkpoint_incomplete',
      `${path} is the Hugging Face cache itself; name one of its folders: ${some}.`,
    );
  }
  const root = basename(path) === 'snapshots' || basename(path) === 'blobs' ? dirname(path) : path;
  const kept = (await readdir(join(root, 'snapshots')).catch(() => [])).sort();
  if (root === path && !(names.includes('snapshots') && names.includes('blobs'))) {
    return path;
  }
  if (kept.length === 0) {
    // A folder that merely has a name like the cache's.
    return path;
  }
  if (basename(path) === 'blobs') {
    throw new Failure(
      'checkpoint_incomplete',
      `${path} holds the files of the Hugging Face cache without their names; name ${join(root, 'snapshots', kept[0])}.`,
    );
  }
  const main = (await readFile(join(root, 'refs', 'main'), 'utf8').catch(() => '')).trim();
  const chosen = kept.includes(main) ? main : kept.length === 1 ? kept[0] : null;
  if (chosen === null) {
    throw new Failure(
      'checkpoint_incomplete',
      `${root} holds several versions; name one of them: ${kept.map((one) => join(root, 'snapshots', one)).join(', ')}.`,
    );
  }
  return join(root, 'snapshots', chosen);
}

/**
 * @param {string} folder
 * @param {string} path of the folder, for the result
 * @param {Set<string>} above real paths of the enclosing folders, since links may lead back
 * @returns {Promise<{ path: string, file: string }[]>}
 */
async function filesBelow(folder, path, above) {
  const real = await realpath(folder);
  if (above.has(real)) {
    return [];
  }
  const files = [];
  for (const name of (await readdir(folder)).sort()) {
    const file = join(folder, name);
    const stats = await stat(file).catch(() => null);
    if (!stats) {
      const target = await readlink(file).catch(() => 'a file');
      throw new Failure(
        'checkpoint_incomplete',
        `${file} is a link to ${target}, which is not there; the download may not be finished, so get this checkpoint again.`,
      );
    }
    if (stats.isDirectory()) {
      files.push(...(await filesBelow(file, `${path}/${name}`, new Set([...above, real]))));
    } else if (stats.isFile()) {
      files.push({ path: `${path}/${name}`, file });
    }
  }
  return files;
}
