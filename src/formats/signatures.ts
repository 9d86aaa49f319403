/** File signatures; separate from the readers, so that identifying files loads none of them. */
import { latin1, latin1Bytes, startsWith } from './bytes.ts';

export const PNG_SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
export const FLAC_SIGNATURE = latin1Bytes('fLaC');
export const OGG_SIGNATURE = latin1Bytes('OggS');
const ID3_SIGNATURE = latin1Bytes('ID3');
/** Bytes of an ID3 tag's header. */
export const ID3_HEADER = 10;

export function isPng(bytes: Uint8Array): boolean {
  return startsWith(bytes, PNG_SIGNATURE);
}

export function isJpeg(bytes: Uint8Array): boolean {
  return bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff;
}

export function isGif(bytes: Uint8Array): boolean {
  return /^GIF8[79]a/.test(latin1(bytes.subarray(0, 6)));
}

export function isWebp(bytes: Uint8Array): boolean {
  return riffForm(bytes, ['RIFF']) === 'WEBP';
}

/** RF64 is a WAV of more than 4 GiB. */
export function isWav(bytes: Uint8Array): boolean {
  return riffForm(bytes, ['RIFF', 'RF64']) === 'WAVE';
}

export function isFlac(bytes: Uint8Array): boolean {
  return startsWith(bytes, FLAC_SIGNATURE);
}

export function isOgg(bytes: Uint8Array): boolean {
  return startsWith(bytes, OGG_SIGNATURE);
}

export function isId3(bytes: Uint8Array): boolean {
  return startsWith(bytes, ID3_SIGNATURE);
}

/** @param head at least ten bytes; @returns bytes of the whole tag */
export function id3Length(head: Uint8Array): number {
  return ID3_HEADER + syncsafe(head, 6);
}

/** Four bytes of seven bits each, as ID3 writes lengths. */
export function syncsafe(bytes: Uint8Array, at: number): number {
  return [0, 1, 2, 3].reduce((size, i) => size * 128 + ((bytes.at(at + i) ?? 0) & 0x7f), 0);
}

function riffForm(bytes: Uint8Array, names: readonly string[]): string | null {
  return bytes.length >= 12 && names.includes(latin1(bytes.subarray(0, 4))) ? latin1(bytes.subarray(8, 12)) : null;
}
