/** How an entity's content becomes a file: its extension, its name, and back from the name. */

const TYPE_OF: Record<string, string> = {
  json: 'application/json',
  txt: 'text/plain',
  png: 'image/png',
  webp: 'image/webp',
  jpg: 'image/jpeg',
  safetensors: 'application/octet-stream',
  bin: 'application/octet-stream',
};

export const ENTITY_TYPE = /^[a-z0-9]+(?:_[a-z0-9]+)*$/;
const ENTITY_FILE = /^([0-9]{2,})_([a-z0-9_]+)\.([a-z0-9]+)$/;
const EXTENSION = /^[a-z0-9]{1,16}$/;

export interface EntityFile {
  blob: Blob;
  extension: string;
}

/**
 * Objects become JSON, strings text; a Blob's extension is `metadata.format` when given, else it is told by its first
 * bytes, else by its type.
 */
export async function toFile(content: Blob | string | object, format: unknown): Promise<EntityFile> {
  if (typeof content === 'string') {
    return { blob: new Blob([content], { type: 'text/plain' }), extension: 'txt' };
  }
  if (!(content instanceof Blob)) {
    return { blob: jsonBlob(content), extension: 'json' };
  }
  if (typeof format === 'string' && EXTENSION.test(format)) {
    return { blob: content, extension: format === 'jpeg' ? 'jpg' : format };
  }
  return { blob: content, extension: (await sniff(content)) ?? fromType(content.type) ?? 'bin' };
}

export function jsonBlob(value: unknown): Blob {
  return new Blob([`${JSON.stringify(value, keepNumbers, 2)}\n`], { type: 'application/json' });
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

export function mediaType(name: string): string {
  return TYPE_OF[name.slice(name.lastIndexOf('.') + 1)] ?? 'application/octet-stream';
}

async function sniff(blob: Blob): Promise<string | null> {
  const head = new Uint8Array(await blob.slice(0, 12).arrayBuffer());
  const text = String.fromCharCode(...head);
  if (text.startsWith('\x89PNG\r\n\x1a\n')) {
    return 'png';
  }
  if (text.startsWith('\xff\xd8\xff')) {
    return 'jpg';
  }
  if (text.startsWith('RIFF') && text.endsWith('WEBP')) {
    return 'webp';
  }
  return isSafetensors(head, blob.size) ? 'safetensors' : null;
}

/** A safetensors file begins with the length of its JSON header (u64, little endian), then the header. */
function isSafetensors(head: Uint8Array<ArrayBuffer>, size: number): boolean {
  if (head.length < 10 || String.fromCharCode(head[8], head[9]) !== '{"') {
    return false;
  }
  const length = new DataView(head.buffer).getBigUint64(0, true);
  return length <= BigInt(size - 8);
}

function fromType(type: string): string | null {
  const essence = type.split(';')[0];
  return (
    Object.keys(TYPE_OF).find(
      (extension) => extension !== 'bin' && TYPE_OF[extension] === essence && extension !== 'safetensors',
    ) ?? null
  );
}
