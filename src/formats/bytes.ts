/** Bytes of picture files: four-letter names, joining, texts in the encodings these files use, and Blobs whose bytes are at hand. */

/** The most arguments of one call. */
const SPREAD = 8192;

const known = new WeakMap<Blob, Uint8Array<ArrayBuffer>>();

/** A Blob of these bytes, which must not change any more. */
export function withKnownBytes(bytes: Uint8Array<ArrayBuffer>, type: string): Blob {
  const blob = new Blob([bytes], { type });
  known.set(blob, bytes);
  return blob;
}

/** What a Blob was made of by {@link withKnownBytes}: to read one takes milliseconds, even in memory. */
export function knownBytes(blob: Blob): Uint8Array<ArrayBuffer> | null {
  return known.get(blob) ?? null;
}

export function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

export function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

/** One byte per character, as ISO 8859-1 says; TextDecoder's "latin1" is windows-1252. */
export function latin1(bytes: Uint8Array): string {
  let text = '';
  for (let i = 0; i < bytes.length; i += SPREAD) {
    text += String.fromCharCode(...bytes.subarray(i, i + SPREAD));
  }
  return text;
}

/** @param text characters up to U+00FF */
export function latin1Bytes(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

export function utf8(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

export function utf8Bytes(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

export function startsWith(bytes: Uint8Array, start: Uint8Array, at = 0): boolean {
  return bytes.length >= at + start.length && start.every((byte, i) => bytes[at + i] === byte);
}
