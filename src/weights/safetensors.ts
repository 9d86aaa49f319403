/**
 * The safetensors format: 8 bytes with the header's length n (little-endian), n bytes of JSON, then the tensors' bytes.
 * Files come from anywhere, so a header is taken only if every statement in it holds; nothing else of the file is read.
 * Reference: https://github.com/huggingface/safetensors (safetensors/src/tensor.rs), and stricter where that is safe.
 */
import { StudioError } from '../core/errors.ts';
import type { CpuTensor } from '../core/media.ts';

/** Bytes of one element, by the type's name in the header. */
const BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
  // Packed: four and six bits.
  F4: 0.5,
  F6_E2M3: 0.75,
  F6_E3M2: 0.75,
} as const;

export type Dtype = keyof typeof BYTES;

/** Where one tensor lies in its file, row-major and little-endian. */
export interface TensorEntry {
  name: string;
  /** As the header calls it: a {@link Dtype}, or a type that is newer than this code. */
  dtype: string;
  shape: number[];
  /** First byte, counted from the start of the file. */
  offset: number;
  /** Bytes. */
  length: number;
}

/** A tensor that is to be written; one that was read says how long it is, whatever its type. */
export type NewTensor =
  { dtype: Dtype; shape: readonly number[] } | { dtype: string; shape: readonly number[]; length: number };

export interface SafetensorsHeader {
  /** In the order of their bytes. */
  tensors: Map<string, TensorEntry>;
  /** What is no text there is kept as JSON. */
  metadata: Map<string, string>;
  /** Bytes before the first tensor: 8 + n. */
  headerBytes: number;
}

const METADATA = '__metadata__';
const LENGTH_BYTES = 8;
const MAX_HEADER = 25_000_000;
const MAX_TENSORS = 20_000;
/** Of brackets; what is read of a header needs three. */
const MAX_DEPTH = 50;
const MAX_BYTES = BigInt(Number.MAX_SAFE_INTEGER);

/**
 * @param start the first 8 bytes of the file (fewer if it has fewer)
 * @param fileSize bytes of the whole file
 * @param file its name, for the message
 * @returns n; the header is bytes 8 … 8 + n
 * @throws StudioError `checkpoint_damaged`
 */
export function safetensorsHeaderLength(start: Uint8Array, fileSize: number, file: string): number {
  if (start.length < LENGTH_BYTES) {
    throw damaged(file, `it has only ${start.length} bytes`);
  }
  const n = new DataView(start.buffer, start.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  if (n > BigInt(MAX_HEADER)) {
    throw damaged(file, `its header claims ${n.toString()} bytes, more than a safetensors file may have`);
  }
  if (n < 2n || n + BigInt(LENGTH_BYTES) > BigInt(fileSize)) {
    throw damaged(file, `its header claims ${n.toString()} bytes, but the file has ${fileSize}`);
  }
  return Number(n);
}

/**
 * @param header the n bytes after the first 8
 * @param fileSize bytes of the whole file
 * @param file its name, for the message
 * @throws StudioError `checkpoint_damaged`, saying what is wrong
 */
export function parseSafetensorsHeader(header: Uint8Array, fileSize: number, file: string): SafetensorsHeader {
  const refuse = (what: string): never => {
    throw damaged(file, what);
  };
  const entries = parseStrictJson(header, refuse);
  const metadata = new Map<string, string>();
  const tensors: TensorEntry[] = [];
  const headerBytes = LENGTH_BYTES + header.length;
  if (entries.length > MAX_TENSORS + 1) {
    refuse(`its header names ${entries.length} tensors, more than ${MAX_TENSORS}`);
  }
  for (const [name, value] of entries) {
    if (name === METADATA) {
      // They describe the file and place nothing in it, so whatever a tool wrote there is let through.
      for (const [key, said] of isObject(value) ? Object.entries(value) : []) {
        metadata.set(key, typeof said === 'string' ? said : JSON.stringify(said));
      }
    } else {
      tensors.push(tensorEntry(name, value, headerBytes, refuse));
    }
  }
  if (tensors.length > MAX_TENSORS) {
    refuse(`its header names ${tensors.length} tensors, more than ${MAX_TENSORS}`);
  }

  tensors.sort((a, b) => a.offset - b.offset || a.length - b.length);
  let position = headerBytes;
  for (const { name, offset, length } of tensors) {
    if (offset !== position) {
      refuse(`the bytes of ${quoted(name)} ${offset < position ? 'overlap others' : 'leave a gap before them'}`);
    }
    position += length;
  }
  if (position !== fileSize) {
    refuse(
      position > fileSize
        ? `it ends after ${fileSize} bytes, but its tensors need ${position}`
        : `${fileSize - position} bytes at its end belong to no tensor`,
    );
  }
  return { tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])), metadata, headerBytes };
}

/**
 * Reads only the header of a file.
 * @throws StudioError `checkpoint_damaged`
 */
export async function readSafetensorsHeader(blob: Blob, file: string): Promise<SafetensorsHeader> {
  const bytes = async (start: number, end: number) => new Uint8Array(await blob.slice(start, end).arrayBuffer());
  const n = safetensorsHeaderLength(await bytes(0, LENGTH_BYTES), blob.size, file);
  return parseSafetensorsHeader(await bytes(LENGTH_BYTES, LENGTH_BYTES + n), blob.size, file);
}

/**
 * What a safetensors file begins with, for tensors that follow each other without gaps in the given order.
 * @returns 8 + n bytes, a multiple of 8
 */
export function writeSafetensorsHeader(
  tensors: Iterable<readonly [name: string, tensor: NewTensor]>,
  metadata: Record<string, string> = {},
): Uint8Array<ArrayBuffer> {
  const header: [string, unknown][] = Object.keys(metadata).length > 0 ? [[METADATA, metadata]] : [];
  let position = 0;
  for (const [name, tensor] of tensors) {
    const { dtype, shape } = tensor;
    const bytes = 'length' in tensor ? tensor.length : shape.reduce((n, side) => n * side, BYTES[tensor.dtype]);
    const end = position + bytes;
    header.push([name, { dtype, shape, data_offsets: [position, end] }]);
    position = end;
  }
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(header)));
  const n = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(LENGTH_BYTES + n).fill(0x20, LENGTH_BYTES);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(n), true);
  bytes.set(json, LENGTH_BYTES);
  return bytes;
}

/** A safetensors file of f32 tensors, laid out in the given order; the tensors' bytes begin at a multiple of 8. */
export function writeSafetensors(
  tensors: Iterable<readonly [name: string, tensor: CpuTensor]>,
  metadata: Record<string, string> = {},
): Uint8Array<ArrayBuffer> {
  const all = [...tensors];
  const header = writeSafetensorsHeader(
    all.map(([name, { dims }]) => [name, { dtype: 'F32', shape: dims }]),
    metadata,
  );
  const bytes = new Uint8Array(all.reduce((length, [, { data }]) => length + data.byteLength, header.length));
  bytes.set(header);
  let offset = header.length;
  for (const [, { data }] of all) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset);
    offset += data.byteLength;
  }
  return bytes;
}

type Refuse = (what: string) => never;

/**
 * The entries of a JSON object in which, outside of the metadata, no key occurs twice and every number is written as a plain whole
 * number: JSON.parse alone lets the last of two equal keys win, and rounds.
 */
function parseStrictJson(bytes: Uint8Array, refuse: Refuse): [string, unknown][] {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch {
    return refuse('its header is not valid JSON');
  }
  if (!text.startsWith('{') || !isObject(value)) {
    return refuse('its header is not a JSON object');
  }
  const colons = countColons(bytes);
  if (colons === null) {
    return refuse('its header holds something else than texts, whole numbers, lists and objects, or nests too deep');
  }
  const keys = Object.entries(value).reduce(
    (count, [key, entry]) => count + 1 + (isObject(entry) && key !== METADATA ? Object.keys(entry).length : 0),
    0,
  );
  if (colons !== keys) {
    return refuse('its header says the same thing twice, or nests too deep');
  }
  return Object.entries(value);
}

/** Characters that valid JSON without fractions, exponents, signs and words has outside of its strings. */
const PLAIN = new Set([...new TextEncoder().encode('{}[],:0123456789 \t\r\n')]);

/**
 * How many keys a valid JSON object has, equal ones included, those of its metadata not; null if what is no metadata is not made of
 * plain characters outside of its strings, or if anything nests too deep. A loop, because a regular expression can run out of stack on a long string.
 */
function countColons(json: Uint8Array): number | null {
  const [quote, backslash, colon, comma, ...brackets] = new TextEncoder().encode('"\\:,{[}]');
  let stringStart: number | null = null;
  let isAtMetadata = false;
  let isInMetadata = false;
  let depth = 0;
  let count = 0;
  for (let i = 0; i < json.length; i++) {
    const byte = json[i];
    if (stringStart !== null) {
      if (byte === backslash) {
        i++;
      } else if (byte === quote) {
        isAtMetadata = depth === 1 && equals(json, stringStart, i);
        stringStart = null;
      }
    } else if (byte === quote) {
      stringStart = i + 1;
    } else if (brackets.includes(byte)) {
      depth += brackets.indexOf(byte) < 2 ? 1 : -1;
      if (depth > MAX_DEPTH) {
        return null;
      }
    } else if (depth === 1 && byte === comma) {
      isInMetadata = false;
    } else if (depth === 1 && byte === colon) {
      count++;
      isInMetadata = isAtMetadata;
    } else if (!isInMetadata) {
      if (!PLAIN.has(byte)) {
        return null;
      }
      count += byte === colon ? 1 : 0;
    }
  }
  return count;
}

/** Whether bytes [begin, end) spell the metadata's key. */
function equals(json: Uint8Array, begin: number, end: number): boolean {
  return (
    end - begin === METADATA.length && [...METADATA].every((letter, i) => json[begin + i] === letter.charCodeAt(0))
  );
}

function tensorEntry(name: string, value: unknown, headerBytes: number, refuse: Refuse): TensorEntry {
  if (!isObject(value) || Object.keys(value).sort().join() !== 'data_offsets,dtype,shape') {
    return refuse(`its entry ${quoted(name)} does not have exactly dtype, shape and data_offsets`);
  }
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== 'string' || !/^[A-Z][A-Z0-9_]{0,30}$/.test(dtype)) {
    return refuse(`${quoted(name)} has something else than a type, ${quoted(JSON.stringify(dtype))}`);
  }
  if (!isSizes(shape) || !isSizes(offsets) || offsets.length !== 2) {
    return refuse(`${quoted(name)} has a shape or offsets that are not lists of whole numbers`);
  }
  const [begin, end] = offsets as [number, number];
  // In bits, so that it is a whole number; how wide an element of an unknown type is cannot be told.
  const bits = isKnown(dtype) ? 8 * BYTES[dtype] : null;
  let needed = BigInt(bits ?? 1);
  for (const dimension of shape) {
    needed *= BigInt(dimension);
    if (needed > 8n * MAX_BYTES) {
      return refuse(`${quoted(name)} has a shape too large for any file`);
    }
  }
  if (end < begin || (bits !== null && BigInt(end - begin) !== (needed + 7n) / 8n)) {
    return refuse(`${quoted(name)} has ${end - begin} bytes, but its shape needs ${String((needed + 7n) / 8n)}`);
  }
  return { name, dtype, shape, offset: headerBytes + begin, length: end - begin };
}

function isKnown(dtype: string): dtype is Dtype {
  return Object.hasOwn(BYTES, dtype);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((entry) => Number.isSafeInteger(entry) && entry >= 0);
}

/** Names come from the file: as much of them as a sentence can bear. */
function quoted(text: string): string {
  return `"${text.length > 60 ? `${text.slice(0, 60)}…` : text}"`;
}

function damaged(file: string, what: string): StudioError {
  return new StudioError('checkpoint_damaged', `The file ${file} is damaged: ${what}; get it again.`);
}
