/**
 * All media, and which of them a file is of. The folder is the registry. This is also the project's one home for the MIME type of an
 * extension; `cli/server.js`, which runs without a build, has the types of the page's own files.
 */
import type { MediaFormat, Medium } from './medium.ts';

export const media: readonly Medium[] = Object.values(
  import.meta.glob<{ medium?: Medium }>('./*.ts', { eager: true }),
).flatMap(({ medium }) => (medium ? [medium] : []));

/** How many bytes {@link recogniseFile} looks at. */
const HEAD = 512;

/** Files that stand beside results and are of no medium: what was asked for, and tensors. */
export const RECORD_FORMATS: readonly MediaFormat[] = [
  { label: 'JSON', mime: 'application/json', extension: 'json' },
  // No MIME type is registered for it.
  { label: 'safetensors', mime: 'application/octet-stream', extension: 'safetensors' },
];

/** What a file is of. */
export interface Kind {
  medium: Medium;
  format: MediaFormat;
}

export function mediumNamed(id: string): Medium | null {
  return media.find((medium) => medium.id === id) ?? null;
}

/**
 * The medium of a recorded result; null for what a run recorded on the way (its input, its plan, tensors) and for files that no medium knows.
 * @param entity as it is listed in a run
 */
export function resultMedium({ type, filename }: { type: string; filename: string }): Medium | null {
  const kind = kindOfName(filename);
  const isResult = type.startsWith('output_') || media.some(({ entities }) => entities?.includes(type));
  return isResult ? (kind?.medium ?? null) : null;
}

/** The medium of what a run was given, such as an `input_image`; null for what else it recorded. */
export function givenMedium({ type, filename }: { type: string; filename: string }): Medium | null {
  return type.startsWith('input_') ? (kindOfName(filename)?.medium ?? null) : null;
}

/** By the extension alone. */
export function kindOfName(filename: string): Kind | null {
  return kindCalled(extensionOf(filename));
}

/** Of a file's name; `application/octet-stream` where nobody knows the extension. */
export function mimeOf(filename: string): string {
  const extension = extensionOf(filename);
  const record = RECORD_FORMATS.find((format) => format.extension === extension);
  return (record ?? kindCalled(extension)?.format)?.mime ?? 'application/octet-stream';
}

/** By its first bytes, else by its MIME type, else by its name, else by what its bytes look like; null for a file that no medium knows. */
export async function recogniseFile(file: Blob): Promise<Kind | null> {
  const head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  return (
    recogniseHead(head, 'own') ??
    kindCalled(essenceOf(file.type)) ??
    ('name' in file && typeof file.name === 'string' ? kindOfName(file.name) : null) ??
    recogniseHead(head, 'shared')
  );
}

/** A MIME type without its parameters. */
export function essenceOf(type: string): string {
  return type.split(';')[0].trim().toLowerCase();
}

function recogniseHead(head: Uint8Array, turn: Medium['turn']): Kind | null {
  for (const medium of media.filter((one) => one.turn === turn)) {
    const format = medium.recognise(head);
    if (format) {
      return { medium, format };
    }
  }
  return null;
}

/** @param name a MIME type without parameters, or an extension */
function kindCalled(name: string): Kind | null {
  for (const medium of media) {
    const format = medium.formats.find(
      ({ mime, extension, aliases = [] }) => mime === name || extension === name || aliases.includes(name),
    );
    if (format) {
      return { medium, format };
    }
  }
  return null;
}

function extensionOf(filename: string): string {
  return filename.slice(filename.lastIndexOf('.') + 1).toLowerCase();
}
