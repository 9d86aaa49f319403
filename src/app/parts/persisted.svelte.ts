import * as v from 'valibot';
import { passLocalStorage } from '../../storage/torn_log.ts';

try {
  void passLocalStorage(localStorage);
} catch {
  // Blocked: nothing is kept there.
}

/**
 * A value that survives a reload. What storage holds passes the schema, whose fallbacks fill what is missing or broken;
 * where storage is blocked the value lives as long as the page.
 */
export class Persisted<S extends v.GenericSchema<unknown, object>> {
  readonly #key: string;
  current: v.InferOutput<S>;

  constructor(key: string, schema: S) {
    this.#key = key;
    this.current = $state(v.parse(schema, read(key)));
  }

  /** Writes the value; called from an effect, so that every change is kept. */
  keep(): void {
    const text = JSON.stringify(this.current);
    try {
      localStorage.setItem(this.#key, text);
    } catch {
      // Blocked or full: nothing to tell, the value still lives in the page.
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
