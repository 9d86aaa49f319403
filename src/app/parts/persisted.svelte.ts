import * as v from 'valibot';
import { passLocalStorage } from '../../storage/torn_log.ts';

try {
  void passLocalStorage(localStorage);
} catch {
  // Storage is blocked.
}

/**
 * A value that survives a reload. Stored values are validated by the schema, whose fallbacks fill in missing or broken parts; if storage
 * is blocked, the value lives as long as the page.
 */
export class Persisted<S extends v.GenericSchema<unknown, object>> {
  readonly #key: string;
  current: v.InferOutput<S>;

  constructor(key: string, schema: S) {
    this.#key = key;
    this.current = $state(v.parse(schema, read(key)));
  }

  /** Stores the value; called from an effect, so that every change is stored. */
  keep(): void {
    const text = JSON.stringify(this.current);
    try {
      localStorage.setItem(this.#key, text);
    } catch {
      // Blocked or full: no need to report it, the value still lives in the page.
    }
  }
}

function read(key: string): unknown {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(key) ?? '{}');
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}
