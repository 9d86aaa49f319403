/** How an entity's content becomes a file. Media say which kinds of files there are. */
import { StudioError } from '../core/errors.ts';
import { RECORD_FORMATS, essenceOf, kindOfName, recogniseFile } from '../media/registry.ts';
import { JSON_TYPE, jsonBytes } from './entity_file.ts';
import type { EntityFile } from './entity_file.ts';

/**
 * Objects become JSON and strings text. The extension of a Blob, or of a file's bytes, is `metadata.format` if given, else determined by the
 * first bytes, else by the Blob's type.
 * @throws StudioError `media_unreadable` for a file of unknown kind, which nobody could show or open later
 */
export async function toFile(content: Blob | string | object, format: unknown): Promise<EntityFile> {
  if (typeof content === 'string') {
    return { bytes: new TextEncoder().encode(content), extension: 'txt' };
  }
  if (!(content instanceof Blob || content instanceof Uint8Array)) {
    return { bytes: jsonBytes(content), extension: 'json' };
  }
  const bytes =
    content instanceof Blob ? new Uint8Array(await content.arrayBuffer()) : (content as Uint8Array<ArrayBuffer>);
  const said = typeof format === 'string' ? knownExtension(format) : null;
  const extension =
    said ??
    (isSafetensors(bytes)
      ? 'safetensors'
      : await recognisedExtension(content instanceof Blob ? content : new Blob(), bytes));
  if (extension === null) {
    throw new StudioError(
      'media_unreadable',
      'Nothing here knows what kind of file this is, neither by its first bytes nor by its type; name its format, or record it as something else.',
    );
  }
  return { bytes, extension };
}

/** @param format an extension or one of its other names, such as `jpeg` */
function knownExtension(format: string): string | null {
  const isRecord = RECORD_FORMATS.some(({ extension }) => extension === format);
  return isRecord ? format : (kindOfName(format)?.format.extension ?? null);
}

async function recognisedExtension(blob: Blob, bytes: Uint8Array): Promise<string | null> {
  const kind = await recogniseFile(blob, bytes);
  // JSON looks like any text; only its type tells.
  const isJson = kind?.medium.turn !== 'own' && essenceOf(blob.type) === JSON_TYPE;
  return isJson ? 'json' : (kind?.format.extension ?? null);
}

/** A safetensors file begins with the length of its JSON header (u64, little endian), then the header. */
function isSafetensors(bytes: Uint8Array): boolean {
  if (bytes.length < 10 || String.fromCharCode(bytes[8], bytes[9]) !== '{"') {
    return false;
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true);
  return length <= BigInt(bytes.length - 8);
}
