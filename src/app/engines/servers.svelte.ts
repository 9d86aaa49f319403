import { StudioError } from '../../core/errors.ts';
import { hostOf, isLoopback, readAddress, remoteModel, secretOf } from '../../core/remote.ts';
import type { EngineFacts, Probe, RemoteServer, SignInProof } from '../../core/remote.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { UsageSum } from '../../jobs/remote_workers.ts';
import { KeptSecret } from '../parts/kept_secret.svelte.ts';
import type { Making } from '../studio/making.svelte.ts';

/** The setting that names a server's model. */
const MODEL = 'model';

/** A server on the list and its current status. */
export interface Entered {
  server: RemoteServer;
  key: KeptSecret;
  /** Null until it has answered. */
  probe: Probe | null;
  /** Null if it was never used. */
  usage: UsageSum | null;
}

/** A key kept from an earlier visit; null if there is none. */
export async function keptKey(name: string): Promise<string | null> {
  const secret = new KeptSecret(name);
  await secret.restore();
  return secret.current;
}

/** The servers the person entered: the only addresses besides the hub that anything here reaches. */
export class Servers {
  engines = $state.raw<readonly EngineFacts[]>([]);
  list = $state.raw<readonly Entered[]>([]);
  readonly #client: JobClient;
  readonly #making: Making;

  /** One instance while the page is open: a key that is not stored lasts as long, and can be forgotten whenever the room is shown again. */
  static of(client: JobClient, making: Making): Servers {
    known ??= new Servers(client, making);
    return known;
  }

  private constructor(client: JobClient, making: Making) {
    this.#client = client;
    this.#making = making;
  }

  async open(): Promise<void> {
    const remote = await this.#client.remote;
    const [servers, usage] = await Promise.all([remote.servers(), remote.usage()]);
    this.list = await Promise.all(
      servers.map(async (server) => {
        const known = this.list.find(({ server: { id } }) => id === server.id);
        const key = known?.key ?? new KeptSecret(secretOf(server));
        await key.restore();
        return {
          server,
          key,
          probe: known?.probe ?? null,
          usage: Object.hasOwn(usage, server.id) ? usage[server.id] : null,
        };
      }),
    );
    this.engines = await remote.engines();
    this.#tell();
  }

  /**
   * Probes at once, since that is what the click was for.
   * @throws StudioError `invalid_operation` for an invalid address, or one already on the list
   */
  async add(engine: string, typed: string): Promise<void> {
    const address = readAddress(typed);
    if (this.list.some(({ server }) => server.engine === engine && server.address === address)) {
      throw new StudioError('invalid_operation', `${address} is on the list already.`);
    }
    const server: RemoteServer = { id: crypto.randomUUID(), engine, address, settings: {}, hasKey: false };
    await this.#take([...this.list, { server, key: new KeptSecret(secretOf(server)), probe: null, usage: null }]);
    await this.ask(server.id);
  }

  /** Removes it: nothing reaches it any more, and its key is forgotten. */
  async remove(id: string): Promise<void> {
    const entered = this.#find(id);
    await this.#take(this.list.filter(({ server }) => server.id !== id));
    this.#client.setSecret(secretOf(entered.server), null);
    await entered.key.forget();
    await (await this.#client.remote).forgetUsage(id);
  }

  async ask(id: string): Promise<void> {
    this.#change(id, { probe: null });
    const { server, key } = this.#find(id);
    const probe = await (await this.#client.remote).probe(server, key.current);
    this.#change(id, { probe });
    const first = probe.models?.[0];
    const isUnset = this.#factsOf(server)?.settings.some((one) => one.id === MODEL && one.isNeeded);
    if (first !== undefined && isUnset && (server.settings[MODEL] ?? '') === '') {
      await this.set(id, MODEL, first);
    }
  }

  /** Completes signing in with the returned code. @throws StudioError if the service rejects it */
  async takeSignIn(id: string, proof: SignInProof): Promise<void> {
    const { server, key } = this.#find(id);
    key.text = await (await this.#client.remote).signIn(server, proof);
    await this.useKey(id);
    await this.ask(id);
  }

  /** Resets its usage. */
  async forgetUsage(id: string): Promise<void> {
    await (await this.#client.remote).forgetUsage(id);
    this.#change(id, { usage: null });
  }

  /** Called after its key was typed, stored or forgotten. */
  async useKey(id: string): Promise<void> {
    const { server, key } = this.#find(id);
    this.#client.setSecret(secretOf(server), key.current);
    this.#change(id, { server: { ...server, hasKey: key.current !== null } });
    await this.#take(this.list);
  }

  async forgetKey(id: string): Promise<void> {
    try {
      await this.#find(id).key.forget();
    } finally {
      await this.useKey(id);
    }
  }

  async set(id: string, setting: string, value: string): Promise<void> {
    const { server } = this.#find(id);
    this.#change(id, { server: { ...server, settings: { ...server.settings, [setting]: value } } });
    await this.#take(this.list);
  }

  async #take(list: readonly Entered[]): Promise<void> {
    this.list = list;
    this.#tell();
    await (await this.#client.remote).enter(list.map(({ server }) => server));
  }

  #tell(): void {
    const engines = this.list.map(({ server }) => server.engine);
    const served = this.list.flatMap(({ server: { engine, address, settings } }) => {
      const model = settings[MODEL] ?? '';
      return this.#factsOf({ engine })?.writes && model !== ''
        ? [{ ref: remoteModel({ engine, address, model }), name: model, host: hostOf(address) }]
        : [];
    });
    this.#making.takeEngines(
      engines.filter((engine, at) => engines.indexOf(engine) === at),
      served,
    );
  }

  #factsOf({ engine }: Pick<RemoteServer, 'engine'>): EngineFacts | undefined {
    return this.engines.find(({ id }) => id === engine);
  }

  #change(id: string, change: Partial<Entered>): void {
    this.list = this.list.map((entered) => (entered.server.id === id ? { ...entered, ...change } : entered));
  }

  #find(id: string): Entered {
    const entered = this.list.find(({ server }) => server.id === id);
    if (!entered) {
      throw new StudioError('invalid_operation', 'This server is on the list no more.');
    }
    return entered;
  }
}

let known: Servers | null = null;

/** Whether words and keys cross a network unencrypted. */
export function isOpenToReaders({ address }: RemoteServer): boolean {
  return address.startsWith('http:') && !isLoopback(address);
}
