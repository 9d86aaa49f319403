/** Writes GGUF files, including ones that no tool would write. */
import { join } from '../src/formats/bytes.ts';

export interface WrittenTensor {
  name: string;
  /** GGML's number of the type. */
  type: number;
  /** As torch has it. */
  shape: readonly number[];
  bytes: Uint8Array;
}

export interface GgufParts {
  magic?: string;
  version?: number;
  metadata?: Readonly<Record<string, string>>;
  tensors?: readonly WrittenTensor[];
}

const ALIGNMENT = 32;
const TEXT = 8;

export function ggufFile({
  magic = 'GGUF',
  version = 3,
  metadata = {},
  tensors = [],
}: GgufParts): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [];
  const numbers = (view: Uint32Array | BigUint64Array) => parts.push(new Uint8Array(view.buffer));
  const u32 = (value: number) => numbers(Uint32Array.of(value));
  const u64 = (value: number) => numbers(BigUint64Array.of(BigInt(value)));
  const text = (value: string) => {
    const bytes = new TextEncoder().encode(value);
    u64(bytes.length);
    parts.push(bytes);
  };
  const padded = (length: number) => Math.ceil(length / ALIGNMENT) * ALIGNMENT;
  parts.push(new TextEncoder().encode(magic));
  u32(version);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    u32(TEXT);
    text(value);
  }
  let offset = 0;
  for (const { name, type, shape, bytes } of tensors) {
    text(name);
    u32(shape.length);
    [...shape].reverse().forEach(u64);
    u32(type);
    u64(offset);
    offset += padded(bytes.length);
  }
  const header = parts.reduce((sum, { length }) => sum + length, 0);
  parts.push(new Uint8Array(padded(header) - header));
  for (const { bytes } of tensors) {
    parts.push(bytes, new Uint8Array(padded(bytes.length) - bytes.length));
  }
  return join(parts);
}
