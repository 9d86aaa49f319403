/**
 * What a file of this folder exports: one engine that executes elsewhere, on another machine or behind somebody's key. A chunk names the one that
 * it needs (`needs.remote`); the folder is the registry. All of it runs in a worker that reaches the addresses that the person entered, and no
 * other (`workers/remote.worker.ts`).
 */
import { StudioError } from '../core/errors.ts';
import type { EngineFacts, Probe, RemoteServer } from '../core/remote.ts';

export interface RemoteEngine {
  /** Equals the file's name. */
  id: string;
  label: { en: string; de: string };
  /** How its servers are entered; absent for an engine that has none. */
  servers?: Omit<EngineFacts, 'id' | 'label'>;
  /**
   * Asks a server what it is.
   * @param origin of the page, for the flag that lets it ask
   * @returns also where it does not answer: then what is wrong, in one sentence
   */
  probe?(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe>;
  /**
   * Opened anew for each step that needs it.
   * @returns what chunks work with; its interface is a file of `src/core`, as chunks import nothing else
   * @throws StudioError one sentence that says what is wrong, such as a server that does not run or a key that is not taken
   */
  open(surroundings: EngineSurroundings): Promise<unknown>;
}

export interface ProbeSurroundings {
  /** As typed, or as kept; null = none. */
  key: string | null;
  origin: string;
  signal: AbortSignal;
}

export interface EngineSurroundings {
  /** Those of this engine that the person entered, in their order. */
  servers: () => Promise<RemoteServer[]>;
  /** A key that the person entered; never returned, recorded or logged. Rejects with `invalid_operation` when there is none of this name. */
  secret: (name: string) => Promise<string>;
  /** Aborted when the job is cancelled: what is under way elsewhere is then stopped there too. */
  signal: AbortSignal;
}

const files = import.meta.glob<RemoteEngine>(['./*.ts', '!./engine.ts'], { import: 'engine' });

/** @throws StudioError `internal` for an engine that is not here, else its own */
export async function openEngine(id: string, surroundings: EngineSurroundings): Promise<unknown> {
  return (await engineNamed(id)).open(surroundings);
}

/** @throws StudioError `internal` for an engine that is not here or cannot be asked, else its own */
export async function probeServer(server: RemoteServer, surroundings: ProbeSurroundings): Promise<Probe> {
  const engine = await engineNamed(server.engine);
  return engine.probe
    ? engine.probe(server, surroundings)
    : { isUp: true, sentence: 'It is not asked before it is used.' };
}

/** Those that servers are entered for. */
export async function engineFacts(): Promise<EngineFacts[]> {
  const engines = await Promise.all(Object.values(files).map((load) => load()));
  return engines.flatMap(({ id, label, servers }) => (servers ? [{ id, label, ...servers }] : []));
}

async function engineNamed(id: string): Promise<RemoteEngine> {
  const load = Object.hasOwn(files, `./${id}.ts`) ? files[`./${id}.ts`] : undefined;
  if (!load) {
    throw new StudioError('internal', `A step needs the engine "${id}", which this version of Darkroom does not have.`);
  }
  return load();
}
