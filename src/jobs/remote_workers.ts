/**
 * Servers on other machines, and the worker that reaches them. Its script is fetched with their origins in its address, and whoever serves the
 * page answers with a policy that admits those and nothing else (`cli/headers.js`, the service worker); so another list is another worker.
 */
import { get, set } from 'idb-keyval';
import * as v from 'valibot';
import { StudioError } from '../core/errors.ts';
import { readAddress } from '../core/remote.ts';
import type { EngineFacts, Probe, RemoteServer } from '../core/remote.ts';
import { openStore } from '../storage/database.ts';
import type { RemoteApi, TaskApi } from '../../workers/generation_api.ts';
import script from '../../workers/remote.worker.ts?worker&url';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

const schema = v.array(
  v.object({
    id: v.string(),
    engine: v.string(),
    address: v.pipe(
      v.string(),
      // What was kept may have been written by another version, and goes into a policy.
      v.check((address) => isAddress(address)),
    ),
    settings: v.record(v.string(), v.string()),
    hasKey: v.boolean(),
  }),
);

const KEY = 'servers';

/** Jobs wait in a server's line for as long as its line is. */
const WORK_WITHIN = 24 * 60 * 60_000;

const store = openStore('darkroom-servers', 'servers');

interface Running {
  link: WorkerLink<RemoteApi>;
  isConnected: Promise<void>;
  /** Of the servers that it reaches. */
  origins: string[];
}

export class RemoteWorkers {
  #running: Running | null = null;
  readonly #connect: (link: WorkerLink<TaskApi>) => Promise<void>;
  readonly #make: (url: string) => WorkerLike;

  /** @param connect gives a worker its way to the recorder */
  constructor(
    connect: (link: WorkerLink<TaskApi>) => Promise<void>,
    make: (url: string) => WorkerLike = (url) => new Worker(url, { type: 'module' }),
  ) {
    this.#connect = connect;
    this.#make = make;
  }

  /** Every server that was entered, in whichever tab. */
  async servers(): Promise<RemoteServer[]> {
    const kept = v.safeParse(schema, await get<unknown>(KEY, store).catch(() => undefined));
    return kept.success ? kept.output : this.#unkept;
  }

  async serversOf(engine: string): Promise<RemoteServer[]> {
    return (await this.servers()).filter((server) => server.engine === engine);
  }

  /**
   * Takes the place of the list. Whoever is no longer on it is reached by nothing from here on: a worker that could is ended, and its job goes on
   * without that server.
   */
  async enter(servers: readonly RemoteServer[]): Promise<void> {
    this.#unkept = v.parse(schema, servers);
    await set(KEY, this.#unkept, store).catch(() => undefined); // Then they last as long as the page.
    const origins = originsOf(servers);
    if (this.#running?.origins.some((origin) => !origins.includes(origin))) {
      this.#running.link.terminate(
        new StudioError('worker_failed', 'A server was taken off the list.', { retry: 'same' }),
      );
      this.#running = null;
    }
  }

  #unkept: RemoteServer[] = [];

  /** The worker that reaches all that is on the list. */
  async link(): Promise<WorkerLink<RemoteApi>> {
    const { link, isConnected } = this.#started(originsOf(await this.servers()));
    await isConnected;
    return link;
  }

  async engines(): Promise<EngineFacts[]> {
    return (await this.link()).call('engines');
  }

  /** Asks a server that is on the list. */
  async probe(server: RemoteServer, key: string | null): Promise<Probe> {
    return (await this.link()).call('probe', server, key);
  }

  #started(origins: string[]): Running {
    const reaches = this.#running && origins.every((origin) => this.#running?.origins.includes(origin));
    if (this.#running && reaches && !this.#running.link.failure) {
      return this.#running;
    }
    if (this.#running?.link.isIdle) {
      this.#running.link.terminate(
        new StudioError('worker_failed', 'Another worker took its place.', { retry: 'same' }),
      );
    }
    // One that reaches less, and has a job, goes on with it.
    const link = new WorkerLink<RemoteApi>('engine worker', this.#make(addressOf(script, origins)), {
      calls: { execute: () => WORK_WITHIN },
    });
    const isConnected = this.#connect(link);
    isConnected.catch((error: unknown) => link.terminate(StudioError.from(error)));
    this.#running = { link, isConnected, origins };
    return this.#running;
  }
}

/** The script's address with what it may reach. */
function addressOf(script: string, origins: readonly string[]): string {
  const url = new URL(script, location.href);
  // Where there are none, none is said: else it would have the page's policy.
  (origins.length > 0 ? origins : ['']).forEach((origin) => url.searchParams.append('connect', origin));
  return url.href;
}

function originsOf(servers: readonly Pick<RemoteServer, 'address'>[]): string[] {
  return [...new Set(servers.map(({ address }) => new URL(address).origin))].sort();
}

function isAddress(address: string): boolean {
  try {
    return readAddress(address) === address;
  } catch {
    return false;
  }
}
