/** An entity's file: building and parsing its name, and JSON. `entity_content.ts` has the other kinds of files. */

export const JSON_TYPE = 'application/json';

export const ENTITY_TYPE = /^[a-z0-9]+(?:_[a-z0-9]+)*$/;
const ENTITY_FILE = /^([0-9]{2,})_([a-z0-9_]+)\.([a-z0-9]+)$/;

export interface EntityFile {
  /** Read once: each reading of a Blob takes milliseconds. */
  bytes: Uint8Array<ArrayBuffer>;
  extension: string;
}

export function jsonBytes(value: unknown): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(jsonText(value));
}

export function jsonBlob(value: unknown): Blob {
  return new Blob([jsonText(value)], { type: JSON_TYPE });
}

function jsonText(value: unknown): string {
  return `${JSON.stringify(value, keepNumbers, 2)}\n`;
}

/** The value as a reader of its JSON will get it. */
export function throughJson<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, keepNumbers)) as T;
}

/** JSON would silently turn infinities into null; as strings they survive. */
function keepNumbers(_key: string, value: unknown): unknown {
  const isWord = typeof value === 'bigint' || (typeof value === 'number' && !Number.isFinite(value));
  return isWord ? String(value) : value;
}

export function filename(sequence: number, type: string, extension: string): string {
  return `${String(sequence).padStart(2, '0')}_${type}.${extension}`;
}

/** Number and type of a finished entity's file, or null for any other file. */
export function parseFilename(name: string): { sequence: number; type: string } | null {
  const match = ENTITY_FILE.exec(name);
  return match ? { sequence: Number(match[1]), type: match[2] } : null;
}
