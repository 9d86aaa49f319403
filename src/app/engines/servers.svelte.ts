import { StudioError } from '../../core/errors.ts';
import { isLoopback, readAddress, secretOf } from '../../core/remote.ts';
import type { EngineFacts, Probe, RemoteServer } from '../../core/remote.ts';
import type { JobClient } from '../../jobs/client.ts';
import { KeptSecret } from '../parts/kept_secret.svelte.ts';
import type { Making } from '../studio/making.svelte.ts';

/** A server on the list, with what is known of it now. */
export interface Entered {
  server: RemoteServer;
  key: KeptSecret;
  /** Null while it is asked, and before. */
  probe: Probe | null;
}

/** A key that was kept in an earlier visit; null when there is none. */
export async function keptKey(name: string): Promise<string | null> {
  const secret = new KeptSecret(name);
  await secret.restore();
  return secret.current;
}

/** The servers that somebody entered: the only addresses beside the hub that anything here reaches. */
export class Servers {
  engines = $state.raw<readonly EngineFacts[]>([]);
  list = $state.raw<readonly Entered[]>([]);
  readonly #client: JobClient;
  readonly #making: Making;

  constructor(client: JobClient, making: Making) {
    this.#client = client;
    this.#making = making;
  }

  async open(): Promise<void> {
    const remote = await this.#client.remote;
    const servers = await remote.servers();
    this.list = await Promise.all(
      servers.map(async (server) => {
        const key = new KeptSecret(secretOf(server));
        await key.restore();
        return { server, key, probe: null };
      }),
    );
    this.#tell();
    this.engines = await remote.engines();
  }

  /**
   * Asks at once, as that is what the click was for.
   * @throws StudioError `invalid_operation` for what is no address, or is on the list
   */
  async add(engine: string, typed: string): Promise<void> {
    const address = readAddress(typed);
    if (this.list.some(({ server }) => server.engine === engine && server.address === address)) {
      throw new StudioError('invalid_operation', `${address} is on the list already.`);
    }
    const server: RemoteServer = { id: crypto.randomUUID(), engine, address, settings: {}, hasKey: false };
    await this.#take([...this.list, { server, key: new KeptSecret(secretOf(server)), probe: null }]);
    await this.ask(server.id);
  }

  /** Nothing reaches it from here on, and its key is forgotten. */
  async remove(id: string): Promise<void> {
    const entered = this.#find(id);
    await this.#take(this.list.filter(({ server }) => server.id !== id));
    this.#client.setSecret(secretOf(entered.server), null);
    await entered.key.forget();
  }

  async ask(id: string): Promise<void> {
    this.#change(id, { probe: null });
    const { server, key } = this.#find(id);
    const probe = await (await this.#client.remote).probe(server, key.current);
    this.#change(id, { probe });
  }

  /** After its key was typed, kept or forgotten. */
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
    this.#making.takeEngines(engines.filter((engine, at) => engines.indexOf(engine) === at));
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

/** Whether words and keys cross a network where others may read them. */
export function isOpenToReaders({ address }: RemoteServer): boolean {
  return address.startsWith('http:') && !isLoopback(address);
}
