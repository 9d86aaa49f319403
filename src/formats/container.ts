/** Reads and writes the metadata of picture files of any format, without touching their pixels. */
import { StudioError } from '../core/errors.ts';
import { knownBytes, withKnownBytes } from './bytes.ts';
import { readGif, writeGif } from './gif.ts';
import { readJpeg, writeJpeg } from './jpeg.ts';
import type { Inscription, Metadata } from './metadata.ts';
import { readPng, writePng } from './png.ts';
import { isGif, isJpeg, isPng, isWebp } from './signatures.ts';
import { readWebp, writeWebp } from './webp.ts';

/**
 * @returns null for bytes that are no PNG, WebP, JPEG or GIF
 * @throws StudioError `image_unreadable` if the file contradicts itself
 */
export async function readMetadata(bytes: Uint8Array<ArrayBuffer>): Promise<Metadata | null> {
  if (isPng(bytes)) {
    return readPng(bytes);
  }
  return isWebp(bytes) ? readWebp(bytes) : isJpeg(bytes) ? readJpeg(bytes) : isGif(bytes) ? readGif(bytes) : null;
}

/**
 * The same encoded pixels with this metadata instead of the existing one; null = none.
 * @throws StudioError `image_unreadable`, also if the metadata is too long for a JPEG (64 KiB)
 */
export function writeMetadata(
  bytes: Uint8Array<ArrayBuffer>,
  inscription: Inscription | null,
): Uint8Array<ArrayBuffer> {
  if (isPng(bytes)) {
    return writePng(bytes, inscription);
  }
  if (isWebp(bytes)) {
    return writeWebp(bytes, inscription);
  }
  if (isJpeg(bytes)) {
    return writeJpeg(bytes, inscription);
  }
  if (isGif(bytes)) {
    return writeGif(bytes, inscription);
  }
  throw new StudioError('image_unreadable', 'Settings can be written only into PNG, WebP, JPEG and GIF files.');
}

/** Like {@link writeMetadata}, for a file in memory or on disk. {@link knownBytes} has those of the result. */
export async function inscribe(picture: Blob, inscription: Inscription | null): Promise<Blob> {
  const bytes = knownBytes(picture) ?? new Uint8Array(await picture.arrayBuffer());
  return withKnownBytes(writeMetadata(bytes, inscription), picture.type);
}
