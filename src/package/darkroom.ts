/** The package's entry for pages: makes a Darkroom whose workers and files lie at `base`. Nothing is loaded before it is used. */
import { version } from '../../package.json';
import { StudioError } from '../core/errors.ts';
import type { Darkroom, DarkroomOptions } from './contract.ts';
import { lazyDarkroom } from './lazy_darkroom.ts';

export type * from './contract.ts';

/** Beside this module, wherever a browser loaded it from. Not written as bundlers look for it: they would take it for a file of theirs. */
const here: string = import.meta.url;

export function createDarkroom({ base, ...options }: DarkroomOptions = {}): Darkroom {
  return lazyDarkroom(async () => {
    const folder = folderOf(base);
    await checkFiles(folder);
    const { openInBrowser } = await import('./browser_instance.ts');
    return openInBrowser(folder, options);
  });
}

/** @returns an address that ends in a slash */
function folderOf(base: DarkroomOptions['base']): string {
  const folder = base === undefined ? new URL('.', here) : new URL(base, location.href);
  return folder.href.endsWith('/') ? folder.href : `${folder.href}/`;
}

/** @throws StudioError `worker_failed` where the package's files are not there, or not those of this version */
async function checkFiles(folder: string): Promise<void> {
  const where = `Darkroom's files were looked for at ${folder}`;
  const remedy = `serve the package's folder "dist" and say where it is by "base"`;
  const answer = await fetch(new URL('darkroom.json', folder)).catch((cause: unknown) => {
    throw new StudioError(
      'worker_failed',
      `${where} and could not be fetched; ${remedy}, and if that is another origin let it send "Access-Control-Allow-Origin".`,
      { retry: 'same', cause },
    );
  });
  const found = answer.ok ? ((await answer.json().catch(() => null)) as { version?: unknown } | null) : null;
  if (found === null) {
    const why = answer.ok ? 'something else is there' : `the server answers ${answer.status}`;
    throw new StudioError('worker_failed', `${where}, but ${why}; ${remedy}.`);
  }
  if (found.version !== version) {
    throw new StudioError(
      'worker_failed',
      `${where}, and are of version ${String(found.version)}, but the module is of version ${version}; copy the files of the same version there.`,
    );
  }
}
