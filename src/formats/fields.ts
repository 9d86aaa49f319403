/** A file's settings by name; those no reader asks for are listed in the end. */
import { isObject, textOf } from './json.ts';

const OFF = /^(none|null|nil|false|no|off|disabled?|\[\s*\]|\{\s*\})$/i;

export class Fields {
  readonly #values: ReadonlyMap<string, unknown>;
  readonly #asked = new Set<string>();

  constructor(values: ReadonlyMap<string, unknown> | Record<string, unknown>) {
    this.#values = values instanceof Map ? values : new Map(Object.entries(values));
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  get(name: string): unknown {
    this.#asked.add(name);
    return this.#values.get(name);
  }

  /** Drops settings with matching names, because they do not affect the picture or are covered by others. */
  all(pattern: RegExp): [name: string, value: unknown][] {
    return [...this.#values].filter(([name]) => {
      const isMeant = pattern.test(name);
      if (isMeant) {
        this.#asked.add(name);
      }
      return isMeant;
    });
  }

  /** Settings that are in use but were not asked for. */
  unread(): [name: string, value: unknown][] {
    return [...this.#values].filter(([name, value]) => !this.#asked.has(name) && !isOff(value));
  }
}

/** Whether a value means not in use: absent, empty, zero or off. */
export function isOff(value: unknown): boolean {
  if (Array.isArray(value)) {
    return value.every(isOff);
  }
  if (isObject(value)) {
    return Object.keys(value).length === 0;
  }
  const text = (typeof value === 'string' ? value : (textOf(value) ?? '')).trim();
  return value !== true && (text === '' || Number(text) === 0 || OFF.test(text));
}
