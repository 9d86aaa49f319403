/** The settings that one file has, by name, so that what no reader asks for can be named in the end. */
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

  /** Of those whose names match; for what needs no word, too, as it changes no picture or is told by another one. */
  all(pattern: RegExp): [name: string, value: unknown][] {
    return [...this.#values].filter(([name]) => {
      const isMeant = pattern.test(name);
      if (isMeant) {
        this.#asked.add(name);
      }
      return isMeant;
    });
  }

  /** What is in use and was not asked for. */
  unread(): [name: string, value: unknown][] {
    return [...this.#values].filter(([name, value]) => !this.#asked.has(name) && !isOff(value));
  }
}

/** Whether a value says that nothing was in use: absent, empty, zero or off. */
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
