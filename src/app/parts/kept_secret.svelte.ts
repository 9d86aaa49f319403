import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import { forget, keep, readKept } from './kept.ts';

const schema = v.object({
  key: v.instance(CryptoKey),
  iv: v.instance(Uint8Array<ArrayBuffer>),
  text: v.instance(ArrayBuffer),
});

/**
 * A token or key the person typed. It stays in memory unless they ask to store it, as AES-GCM ciphertext with a non-extractable key. That
 * hides it from whoever reads the disk, but not from scripts in this page.
 */
export class KeptSecret {
  text = $state('');
  isKept = $state(false);
  readonly #name: string;

  /** @param name to store it under */
  constructor(name: string) {
    this.#name = name;
  }

  /** For requests; null if there is none. */
  get current(): string | null {
    return this.text.trim() || null;
  }

  /** Restores a stored one. */
  async restore(): Promise<void> {
    const found = v.safeParse(schema, await readKept(this.#name));
    if (!found.success || this.text !== '') {
      return;
    }
    const { key, iv, text } = found.output;
    try {
      this.text = new TextDecoder().decode(await crypto.subtle.decrypt({ name: 'AES-GCM', iv }, key, text));
      this.isKept = true;
    } catch {
      // Another key or damaged bytes make it unreadable, as if there were none.
      await forget(this.#name);
    }
  }

  /** @throws StudioError `storage_unavailable` */
  async keep(): Promise<void> {
    try {
      const key = await crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
      const iv = crypto.getRandomValues(new Uint8Array(12));
      const text = await crypto.subtle.encrypt(
        { name: 'AES-GCM', iv },
        key,
        new TextEncoder().encode(this.text.trim()),
      );
      await keep(this.#name, { key, iv, text });
      this.isKept = true;
    } catch (cause) {
      throw new StudioError(
        'storage_unavailable',
        'The browser does not let Darkroom keep this; it works until this page is closed.',
        { cause },
      );
    }
  }

  /** Deletes the stored one; it still works until the page is closed. It counts as stored until it is gone from disk. */
  async stopKeeping(): Promise<void> {
    await forget(this.#name);
    this.isKept = false;
  }

  async forget(): Promise<void> {
    try {
      await this.stopKeeping();
    } finally {
      this.text = '';
    }
  }
}
