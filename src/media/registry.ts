/**
 * All media, and finding the medium of a file. The folder is the registry. This is also the one place for the MIME type of an extension,
 * except that `cli/server.js`, which runs without a build, has the types of the page's own files.
 */
import type { MediaFormat, Medium } from './medium.ts';

export const media: readonly Medium[] = Object.values(
  import.meta.glob<{ medium?: Medium }>('./*.ts', { eager: true }),
).flatMap(({ medium }) => (medium ? [medium] : []));

/** How many bytes {@link recogniseFile} reads. */
const HEAD = 512;

/** Files beside results that belong to no medium: requests and tensors. */
export const RECORD_FORMATS: readonly MediaFormat[] = [
  { label: 'JSON', mime: 'application/json', extension: 'json' },
  // It has no registered MIME type.
  { label: 'safetensors', mime: 'application/octet-stream', extension: 'safetensors' },
];

/** A file's medium and format. */
export interface Kind {
  medium: Medium;
  format: MediaFormat;
}

export function mediumNamed(id: string): Medium | null {
  return media.find((medium) => medium.id === id) ?? null;
}

/**
 * The medium of a recorded result; null for anything else a run recorded (inputs, plan, tensors) and for unknown files.
 * @param entity from a run's list
 */
export function resultMedium({ type, filename }: { type: string; filename: string }): Medium | null {
  const kind = kindOfName(filename);
  const isResult = type.startsWith('output_') || media.some(({ entities }) => entities?.includes(type));
  return isResult ? (kind?.medium ?? null) : null;
}

/** The medium of a run's input, such as an `input_image`; null for anything else. */
export function givenMedium({ type, filename }: { type: string; filename: string }): Medium | null {
  return type.startsWith('input_') ? (kindOfName(filename)?.medium ?? null) : null;
}

/** By the extension alone. */
export function kindOfName(filename: string): Kind | null {
  return kindCalled(extensionOf(filename));
}

/** The MIME type of a file name; `application/octet-stream` if the extension is unknown. */
export function mimeOf(filename: string): string {
  const extension = extensionOf(filename);
  const record = RECORD_FORMATS.find((format) => format.extension === extension);
  return (record ?? kindCalled(extension)?.format)?.mime ?? 'application/octet-stream';
}

/**
 * By its first bytes, else its MIME type, else its name, else by what its bytes look like; null for an unknown file.
 * @param bytes its bytes, where they are there
 */
export async function recogniseFile(file: Blob, bytes?: Uint8Array): Promise<Kind | null> {
  const head = bytes?.subarray(0, HEAD) ?? new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
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
