/** Servers on other machines, and the worker that reaches them and nothing else; so a changed list means a new worker. */
import * as Comlink from 'comlink';
import { get, set, update } from 'idb-keyval';
import * as v from 'valibot';
import type { ComfySurvey } from '../core/comfyui.ts';
import { StudioError } from '../core/errors.ts';
import { readAddress, readRemoteModel, secretOf } from '../core/remote.ts';
import type { EngineFacts, Probe, RemoteServer, SignInProof, Usage } from '../core/remote.ts';
import type { TextDelta, TextRequest } from '../core/text_service.ts';
import { openStore } from '../storage/database.ts';
import type { JobPage, RemoteApi, TaskApi, Written } from '../../workers/generation_api.ts';
import { WorkerLink } from './worker_link.ts';
import type { WorkerLike } from './worker_link.ts';

const schema = v.array(
  v.object({
    id: v.string(),
    engine: v.string(),
    address: v.pipe(
      v.string(),
      // Stored by some version of the page, and about to become part of a policy.
      v.check((address) => isAddress(address)),
    ),
    through: v.exactOptional(
      v.pipe(
        v.string(),
        v.check((through) => isAddress(through)),
      ),
    ),
    settings: v.record(v.string(), v.string()),
    hasKey: v.boolean(),
  }),
);

const KEY = 'servers';
const USAGE = 'usage';

/** The total usage of our requests to a server; absent if it never reported any. */
export interface UsageSum extends Usage {
  requests: number;
  /** Time of the first one, in milliseconds since 1970. */
  since: number;
}

const usageSchema = v.record(
  v.string(),
  v.object({
    requests: v.number(),
    since: v.number(),
    input: v.exactOptional(v.number()),
    output: v.exactOptional(v.number()),
    cost: v.exactOptional(v.number()),
  }),
);

/** Jobs wait in a server's queue for as long as it takes. */
const WORK_WITHIN = 24 * 60 * 60_000;

const store = openStore('darkroom-servers', 'servers');

interface Running {
  link: WorkerLink<RemoteApi>;
  isConnected: Promise<void>;
  /** Origins of the servers it can reach. */
  origins: string[];
}

export class RemoteWorkers {
  #running: Running | null = null;
  readonly #connect: (link: WorkerLink<TaskApi>) => Promise<void>;
  readonly #make: (origins: readonly string[]) => WorkerLike;

  /**
   * @param connect connects a worker to the recorder
   * @param make a worker that reaches these origins
   */
  constructor(connect: (link: WorkerLink<TaskApi>) => Promise<void>, make: (origins: readonly string[]) => WorkerLike) {
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
   * Replaces the list. A removed server becomes unreachable: a worker that could reach it is ended, and its job continues without that
   * server.
   */
  async enter(servers: readonly RemoteServer[]): Promise<void> {
    this.#unkept = v.parse(schema, servers);
    await set(KEY, this.#unkept, store).catch(() => undefined); // Then they last as long as the page.
    await this.onServers(this.#unkept);
    const origins = originsOf(servers);
    if (this.#running?.origins.some((origin) => !origins.includes(origin))) {
      this.#running.link.terminate(
        new StudioError('worker_failed', 'A server was taken off the list.', { retry: 'same' }),
      );
      this.#running = null;
    }
  }

  #unkept: RemoteServer[] = [];

  /** Called with the list whenever it is read or replaced. */
  onServers: (servers: readonly RemoteServer[]) => Promise<void> = () => Promise.resolve();

  /** The worker that can reach every server on the list. */
  async link(): Promise<WorkerLink<RemoteApi>> {
    const servers = await this.servers();
    await this.onServers(servers);
    const { link, isConnected } = this.#started(originsOf(servers));
    await isConnected;
    return link;
  }

  /** Completes an address as people type it. Throws like the function of that name. */
  readAddress(typed: string): string {
    return readAddress(typed);
  }

  async engines(): Promise<EngineFacts[]> {
    return (await this.link()).call('engines');
  }

  /** Probes a server on the list. */
  async probe(server: RemoteServer, key: string | null): Promise<Probe> {
    return (await this.link()).call('probe', server, key);
  }

  /** What somebody's own workflow is to the servers of an engine. @param secret a key by its name */
  async survey(engine: string, workflow: unknown, secret: (name: string) => Promise<string>): Promise<ComfySurvey> {
    const servers = await this.serversOf(engine);
    const names = servers.filter(({ hasKey }) => hasKey).map(secretOf);
    const keys = await Promise.all(names.map(async (name) => [name, await secret(name)] as const));
    return (await this.link()).call('survey', workflow, servers, Object.fromEntries(keys));
  }

  /** The key that a person gets by signing in; see `RemoteEngine.signIn`. */
  async signIn(server: RemoteServer, proof: SignInProof): Promise<string> {
    return (await this.link()).call('signIn', server, proof);
  }

  /** See {@link JobPage.write}; usage is added up. */
  async write(
    id: string,
    request: TextRequest,
    onDelta: (delta: TextDelta) => unknown,
    page: Pick<JobPage, 'servers' | 'secret'>,
  ): Promise<Written> {
    const link = await this.link();
    this.#writers.set(id, link);
    try {
      const written = await link.call('write', id, request, Comlink.proxy(onDelta), Comlink.proxy(page));
      const named = readRemoteModel(request.model);
      const server = (await this.servers()).find(
        ({ engine, address }) => engine === named?.engine && address === named.address,
      );
      await (server && this.addUsage(server.id, written.usage));
      return written;
    } finally {
      this.#writers.delete(id);
    }
  }

  async stopWriting(id: string): Promise<void> {
    await this.#writers.get(id)?.call('stopWriting', id);
  }

  readonly #writers = new Map<string, WorkerLink<RemoteApi>>();

  /** Usage of servers since the last reset, by id. */
  async usage(): Promise<Record<string, UsageSum>> {
    const kept = v.safeParse(usageSchema, await get<unknown>(USAGE, store).catch(() => undefined));
    return kept.success ? kept.output : this.#unkeptUsage;
  }

  async addUsage(server: string, usage: Usage): Promise<void> {
    await this.#changeUsage((sums) => ({ ...sums, [server]: summed(sums[server], usage) }));
  }

  /** Resets the count. */
  async forgetUsage(server: string): Promise<void> {
    await this.#changeUsage((sums) => Object.fromEntries(Object.entries(sums).filter(([id]) => id !== server)));
  }

  #unkeptUsage: Record<string, UsageSum> = {};

  /** Tabs may do so at once. */
  async #changeUsage(change: (sums: Record<string, UsageSum>) => Record<string, UsageSum>): Promise<void> {
    const changed = (kept: unknown) => change(v.is(usageSchema, kept) ? kept : {});
    this.#unkeptUsage = change(this.#unkeptUsage);
    await update<unknown>(USAGE, changed, store).catch(() => undefined); // Then they last as long as the page.
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
    // A worker with fewer servers and a running job keeps going.
    const link = new WorkerLink<RemoteApi>('engine worker', this.#make(origins), {
      calls: { execute: () => WORK_WITHIN, write: () => WORK_WITHIN },
    });
    const isConnected = this.#connect(link);
    isConnected.catch((error: unknown) => link.terminate(StudioError.from(error)));
    this.#running = { link, isConnected, origins };
    return this.#running;
  }
}

function summed(sum: UsageSum | undefined, usage: Usage): UsageSum {
  const together: UsageSum = { since: Date.now(), ...sum, requests: (sum?.requests ?? 0) + 1 };
  for (const name of ['input', 'output', 'cost'] as const) {
    const value = usage[name];
    if (value !== undefined) {
      together[name] = (sum?.[name] ?? 0) + value;
    }
  }
  return together;
}

function originsOf(servers: readonly Pick<RemoteServer, 'address' | 'through'>[]): string[] {
  return [...new Set(servers.map(({ address, through = address }) => new URL(through).origin))].sort();
}

function isAddress(address: string): boolean {
  try {
    return readAddress(address) === address;
  } catch {
    return false;
  }
}
