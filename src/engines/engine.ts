/**
 * What a file of this folder exports: one engine that executes elsewhere, on another machine or behind somebody's key. A chunk names the one that
 * it needs (`needs.remote`); the folder is the registry.
 */
import { StudioError } from '../core/errors.ts';

export interface RemoteEngine {
  /** Equals the file's name. */
  id: string;
  label: { en: string; de: string };
  /**
   * Opened anew for each step that needs it.
   * @returns what chunks work with; its interface is a file of `src/core`, as chunks import nothing else
   * @throws StudioError one sentence that says what is wrong, such as a server that does not run or a key that is not taken
   */
  open(surroundings: EngineSurroundings): Promise<unknown>;
}

export interface EngineSurroundings {
  /** A key that the person entered; never returned, recorded or logged. Rejects with `invalid_operation` when there is none of this name. */
  secret(name: string): Promise<string>;
  /** Aborted when the job is cancelled: what is under way elsewhere is then stopped there too. */
  signal: AbortSignal;
}

const files = import.meta.glob<RemoteEngine>(['./*.ts', '!./engine.ts'], { import: 'engine' });

/** @throws StudioError `internal` for an engine that is not here, else its own */
export async function openEngine(id: string, surroundings: EngineSurroundings): Promise<unknown> {
  const load = Object.hasOwn(files, `./${id}.ts`) ? files[`./${id}.ts`] : undefined;
  if (!load) {
    throw new StudioError('internal', `A step needs the engine "${id}", which this version of Darkroom does not have.`);
  }
  return (await load()).open(surroundings);
}
