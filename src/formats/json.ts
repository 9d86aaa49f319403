/** Other tools' JSON: seeds beyond 2^53, Python's NaN, numbers as text, and malicious nesting. */

/** Workflow graphs nest a few levels. */
const MAX_DEPTH = 64;
/** Digits of an integer that always fit in a double. */
const SAFE_DIGITS = 15;
const NUMBER = /-?\d+(\.\d+)?([eE][+-]?\d+)?/y;
const WORD = /-?[A-Za-z]+/y;
const MAX_LIST = 40;
const NOT_JSON = new Set(['NaN', 'Infinity', '-Infinity']);

/**
 * @returns the value, with long whole numbers as decimal strings and NaN and infinities as null; undefined when the text is no
 *   JSON, or nests deeper than 64 levels
 */
export function readJson(text: string): unknown {
  const pieces: string[] = [];
  let copied = 0;
  let depth = 0;
  const replace = (start: number, end: number, by: string) => {
    pieces.push(text.slice(copied, start), by);
    copied = end;
  };
  for (let i = 0; i < text.length;) {
    const character = text[i];
    if (character === '"') {
      i = endOfString(text, i);
    } else if (character === '-' || (character >= '0' && character <= '9')) {
      const [number, fraction, exponent] = matchAt(NUMBER, text, i) ?? matchAt(WORD, text, i) ?? [character];
      if (NOT_JSON.has(number)) {
        replace(i, i + number.length, 'null');
      } else if (fraction === undefined && exponent === undefined && number.length > SAFE_DIGITS) {
        replace(i, i + number.length, `"${number}"`);
      }
      i += number.length;
    } else if (character === 'N' || character === 'I') {
      const [word] = matchAt(WORD, text, i) ?? [character];
      if (NOT_JSON.has(word)) {
        replace(i, i + word.length, 'null');
      }
      i += word.length;
    } else {
      depth += character === '{' || character === '[' ? 1 : character === '}' || character === ']' ? -1 : 0;
      if (depth > MAX_DEPTH) {
        return undefined;
      }
      i++;
    }
  }
  try {
    return JSON.parse([...pieces, text.slice(copied)].join(''));
  } catch {
    return undefined;
  }
}

/** Like {@link readJson}, if it is an object; else null. */
export function readJsonObject(text: string | null | undefined): Record<string, unknown> | null {
  const value = text ? readJson(text) : null;
  return isObject(value) ? value : null;
}

/** A value as ASCII JSON, which fits in any text field of any format. */
export function asciiJson(value: unknown): string {
  return JSON.stringify(value).replace(
    /[^\x20-\x7e]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** An own property, since names from a file may be those of Object.prototype. */
export function own(object: unknown, name: string): unknown {
  return isObject(object) && Object.hasOwn(object, name) ? object[name] : undefined;
}

/** A number, also one written as text. */
export function numberOf(value: unknown): number | undefined {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
  return typeof number === 'number' && Number.isFinite(number) ? number : undefined;
}

/** A text, also of a number; undefined for an empty one. */
export function textOf(value: unknown): string | undefined {
  const text = typeof value === 'number' ? String(value) : value;
  return typeof text === 'string' && text.trim() !== '' ? text : undefined;
}

/** Like {@link placesOf}, without empty entries. */
export function listOf(value: unknown): unknown[] {
  return placesOf(value).filter((one) => one !== '' && one !== null);
}

/**
 * A list, also one written as the text of a JSON or Python list, or as words between commas; a single value is a list of one.
 * Empty entries keep their place, for parallel lists.
 * @returns at most 40 elements
 */
export function placesOf(value: unknown): unknown[] {
  const text = typeof value === 'string' ? value.trim() : null;
  const written = text === null ? value : text.startsWith('[') ? (readJson(text) ?? pythonList(text)) : text.split(',');
  if (!Array.isArray(written)) {
    return textOf(written) === undefined ? [] : [written];
  }
  return written.slice(0, MAX_LIST).map((one: unknown) => (typeof one === 'string' ? one.trim() : one));
}

/** The elements of `['a', "b's", 0.6, None]`, each as text. */
function pythonList(text: string): string[] {
  const elements = text.matchAll(/'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|([^\s,[\]'"]+)/g);
  return [...elements].map(([, single, double, bare]) =>
    bare === undefined ? (single ?? double).replace(/\\(.)/g, '$1') : bare === 'None' ? '' : bare,
  );
}

function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (i < text.length && text[i] !== '"') {
    i += text[i] === '\\' ? 2 : 1;
  }
  return i + 1;
}

function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}
