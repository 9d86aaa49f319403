/** Which tool made a picture, a video or a sound, and with which settings. */
import { StudioError } from '../core/errors.ts';
import type { PixelImage } from '../core/media.ts';
import { readMetadata } from './container.ts';
import { readJsonObject, textOf } from './json.ts';
import { readMediaMetadata } from './media/tags.ts';
import type { Metadata } from './metadata.ts';
import { emptyMetadata } from './metadata.ts';
import { decodePicture } from './picture.ts';
import { isPng, isWebp } from './signatures.ts';
import type { Reading, Tool } from './reading.ts';
import { readStealth } from './stealth.ts';

/** The folder is the registry: every file that exports a `tool` is one. */
const tools = Object.values(import.meta.glob<{ tool?: Tool }>('./tools/*.ts', { eager: true }))
  .flatMap(({ tool }) => (tool ? [tool] : []))
  .sort((a, b) => Number(a.turn === 'shared') - Number(b.turn === 'shared'));

/** These tools make no larger pictures. */
const MAX_BYTES = 256 * 2 ** 20;
/** The largest file whose pixels are checked: decoding is expensive, and pictures with hidden settings have a few mebibytes. */
const MAX_HIDING = 32 * 2 ** 20;

/**
 * Tries every tool in turn. If the file says nothing, looks for settings hidden in the pixels.
 * @param decode decodes the file; only called for formats that can hide something
 * @returns null if no tool recognises it
 * @throws StudioError `image_unreadable` if there is something damaged
 */
export async function readPicture(
  source: Blob | Uint8Array<ArrayBuffer>,
  decode: (picture: Blob) => Promise<PixelImage> = (picture) => decodePicture(picture, 'picture'),
): Promise<Reading | null> {
  const recording = await readMediaMetadata(source);
  if (recording) {
    return readFrom(recording);
  }
  if ((source instanceof Blob ? source.size : source.length) > MAX_BYTES) {
    return null;
  }
  const bytes = source instanceof Blob ? new Uint8Array(await source.arrayBuffer()) : source;
  const metadata = await readMetadata(bytes);
  const said = metadata && readFrom(metadata);
  if (said) {
    return said;
  }
  if ((!isPng(bytes) && !isWebp(bytes)) || bytes.length > MAX_HIDING) {
    return null;
  }
  const hidden = await readStealth(await decode(source instanceof Blob ? source : new Blob([source])));
  return hidden === null ? null : readFrom(hiddenMetadata(hidden));
}

/** Texts in which tools keep their settings. */
const KEPT_IN = [
  'parameters',
  'postprocessing',
  'prompt',
  'workflow',
  'invokeai_metadata',
  'sd-metadata',
  'Dream',
  'negative_prompt',
  'generation_data',
  'darkroom',
];

/** Free text that describes how a picture was made. */
const SPEAKS_OF_MAKING = /\b(prompt|steps|sampler|cfg|seed|ckpt|class_type)\w*["']?\s*[:=]/i;

/** Whether a picture without readable settings has something under a name, or in words, that tools use for settings. */
export async function hasSettings(source: Blob): Promise<boolean> {
  const metadata = await readMetadata(new Uint8Array(await source.arrayBuffer()));
  if (!metadata) {
    return false;
  }
  const { texts, exif, xmp, comment } = metadata;
  const others = [...texts.values(), ...exif.values(), xmp ?? '', comment ?? ''];
  return (
    KEPT_IN.some((keyword) => (texts.get(keyword) ?? '').trim() !== '') ||
    others.some((text) => SPEAKS_OF_MAKING.test(text))
  );
}

/** @throws StudioError `image_unreadable` */
function readFrom(metadata: Metadata): Reading | null {
  let failure: StudioError | null = null;
  for (const tool of tools) {
    try {
      const reading = tool.read(metadata);
      if (reading) {
        return reading;
      }
    } catch (error) {
      // Damaged in one tool's format, it may still be valid in another's.
      failure ??= StudioError.from(error);
    }
  }
  if (failure) {
    throw failure;
  }
  return null;
}

/** The names of all tools whose pictures are read, in alphabetical order. */
export function toolNames(): string[] {
  return tools.map(({ name }) => name).sort((a, b) => a.localeCompare(b));
}

/** NovelAI hides all its text chunks as one JSON object, others the infotext. */
function hiddenMetadata(text: string): Metadata {
  const metadata = emptyMetadata();
  const json = readJsonObject(text);
  if (json) {
    for (const [key, value] of Object.entries(json)) {
      const content = textOf(value);
      if (content !== undefined) {
        metadata.texts.set(key, content);
      }
    }
  } else {
    metadata.texts.set('parameters', text);
  }
  return metadata;
}
