/** The id under which this browser records, made once. */
import type { FileStore } from './file_store.ts';

const NAME = 'device_id.txt';

export class DeviceId {
  readonly #store: FileStore;
  #id: Promise<string> | null = null;

  constructor(store: FileStore) {
    this.#store = store;
  }

  get(): Promise<string> {
    this.#id ??= this.#read();
    this.#id.catch(() => {
      this.#id = null;
    });
    return this.#id;
  }

  async #read(): Promise<string> {
    const kept = (await (await this.#store.read(NAME))?.text())?.trim();
    if (kept !== undefined && /^[0-9a-f-]{36}$/.test(kept)) {
      return kept;
    }
    const id = crypto.randomUUID();
    await this.#store.write(NAME, new Blob([id]));
    return id;
  }
}
