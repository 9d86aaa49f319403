/** How an entity's content becomes a file. Media say which kinds of files there are. */
import { StudioError } from '../core/errors.ts';
import { RECORD_FORMATS, essenceOf, kindOfName, recogniseFile } from '../media/registry.ts';
import { JSON_TYPE, jsonBlob } from './entity_file.ts';
import type { EntityFile } from './entity_file.ts';

/**
 * Objects become JSON and strings text. A Blob's extension is `metadata.format` if given, else determined by its first bytes, else by its
 * type.
 * @throws StudioError `media_unreadable` for a Blob of unknown kind, which nobody could show or open later
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
      'Nothing here knows what kind of file this is, neither by its first bytes nor by its type; name its format, or record it as something else.',
    );
  }
  return { blob: content, extension };
}

/** @param format an extension or one of its other names, such as `jpeg` */
function knownExtension(format: string): string | null {
  const isRecord = RECORD_FORMATS.some(({ extension }) => extension === format);
  return isRecord ? format : (kindOfName(format)?.format.extension ?? null);
}

async function recognisedExtension(blob: Blob): Promise<string | null> {
  const kind = await recogniseFile(blob);
  // JSON looks like any text; only its type tells.
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
