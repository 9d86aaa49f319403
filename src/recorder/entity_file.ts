/** How an entity's content becomes a file: its extension, its name, and back from the name. Media say which kinds of files there are. */
import { StudioError } from '../core/errors.ts';
import { RECORD_FORMATS, essenceOf, kindOfName, recogniseFile } from '../media/registry.ts';

const JSON_TYPE = 'application/json';

export const ENTITY_TYPE = /^[a-z0-9]+(?:_[a-z0-9]+)*$/;
const ENTITY_FILE = /^([0-9]{2,})_([a-z0-9_]+)\.([a-z0-9]+)$/;

export interface EntityFile {
  blob: Blob;
  extension: string;
}

/**
 * Objects become JSON, strings text; a Blob's extension is `metadata.format` when given, else it is told by its first
 * bytes, else by its type.
 * @throws StudioError `media_unreadable` for a Blob of which nothing tells what it is: nobody could show or open it later
 */
export async function toFile(content: Blob | string | object, format: unknown): Promise<EntityFile> {
  if (typeof content === 'string') {
    return { blob: new Blob([content], { type: 'text/plain' }), extension: 'txt' };
  }
  if (!(content instanceof Blob)) {
    return { blob: jsonBlob(content), extension: 'json' };
  }
  const said = typeof format === 'string' ? knownExtension(format) : null;
  const extension = said ?? ((await isSafetensors(content)) ? 'safetensors' : await recognisedExtension(content));
  if (extension === null) {
    throw new StudioError(
      'media_unreadable',
      'What should be recorded is no kind of file that is known here, by its first bytes or by its type; say its format, or record it as another kind.',
    );
  }
  return { blob: content, extension };
}

export function jsonBlob(value: unknown): Blob {
  return new Blob([`${JSON.stringify(value, keepNumbers, 2)}\n`], { type: JSON_TYPE });
}

/** The value as a reader of its JSON will have it. */
export function throughJson<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, keepNumbers)) as T;
}

/** JSON has no infinities and would silently make them null; as words they stay what they were. */
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

/** @param format an extension or one of its other names, such as `jpeg` */
function knownExtension(format: string): string | null {
  const isRecord = RECORD_FORMATS.some(({ extension }) => extension === format);
  return isRecord ? format : (kindOfName(format)?.format.extension ?? null);
}

async function recognisedExtension(blob: Blob): Promise<string | null> {
  const kind = await recogniseFile(blob);
  // JSON looks like any text, and is what its type says.
  const isJson = kind?.medium.turn !== 'own' && essenceOf(blob.type) === JSON_TYPE;
  return isJson ? 'json' : (kind?.format.extension ?? null);
}

/** A safetensors file begins with the length of its JSON header (u64, little endian), then the header. */
async function isSafetensors(blob: Blob): Promise<boolean> {
  const head = new Uint8Array(await blob.slice(0, 10).arrayBuffer());
  if (head.length < 10 || String.fromCharCode(head[8], head[9]) !== '{"') {
    return false;
  }
  const length = new DataView(head.buffer).getBigUint64(0, true);
  return length <= BigInt(blob.size - 8);
}
