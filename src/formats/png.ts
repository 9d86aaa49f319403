/**
 * Texts in PNG files: tEXt, zTXt and iTXt, EXIF in eXIf, and ComfyUI's own chunk `comf` of animated pictures.
 * Reference: PNG (Third Edition), https://www.w3.org/TR/png-3/, sections 5 and 11.3.
 */
import { join, latin1, latin1Bytes, utf8, utf8Bytes, viewOf } from './bytes.ts';
import { crc32 } from './crc32.ts';
import { damaged } from './damage.ts';
import { readExif } from './exif.ts';
import { inflate } from './inflation.ts';
import { MAX_PARTS, MAX_TEXT, MAX_TEXTS, emptyMetadata } from './metadata.ts';
import type { Inscription, Metadata } from './metadata.ts';
import { PNG_SIGNATURE } from './signatures.ts';
import { writeXmp } from './xmp.ts';

const XMP_KEYWORD = 'XML:com.adobe.xmp';
const TEXT_CHUNKS = ['tEXt', 'zTXt', 'iTXt', 'comf', 'eXIf'];
/** What tEXt can hold: Latin-1 without control characters, except for line feeds. */
const PLAIN = /^[\n\x20-\x7e\xa0-\xff]*$/;

interface Chunk {
  type: string;
  data: Uint8Array<ArrayBuffer>;
  /** The whole chunk, with length, type and checksum. */
  bytes: Uint8Array<ArrayBuffer>;
}

/** @throws StudioError `image_unreadable` */
export async function readPng(bytes: Uint8Array<ArrayBuffer>): Promise<Metadata> {
  const metadata = emptyMetadata();
  let budget = MAX_TEXTS;
  for (const chunk of chunksOf(bytes)) {
    if (!TEXT_CHUNKS.includes(chunk.type)) {
      continue;
    }
    if (viewOf(chunk.bytes).getUint32(chunk.bytes.length - 4) !== crc32(chunk.bytes.subarray(4, -4))) {
      throw damaged('PNG', `the checksum of a ${chunk.type} chunk is wrong`);
    }
    if (chunk.type === 'eXIf') {
      metadata.exif = readExif(chunk.data);
      continue;
    }
    const limit = Math.min(MAX_TEXT, budget);
    const { keyword, text, cost } = await textOf(chunk, limit);
    budget -= cost;
    if (text === null) {
      continue;
    }
    if (keyword === XMP_KEYWORD) {
      metadata.xmp ??= text;
    } else if (!metadata.texts.has(keyword)) {
      metadata.texts.set(keyword, text);
    }
  }
  return metadata;
}

/** @throws StudioError `image_unreadable` */
export function writePng(bytes: Uint8Array<ArrayBuffer>, inscription: Inscription | null): Uint8Array<ArrayBuffer> {
  const [header, ...rest] = [...chunksOf(bytes)];
  const kept = rest.filter(({ type }) => !TEXT_CHUNKS.includes(type)).map((chunk) => chunk.bytes);
  const texts = inscription
    ? [
        textChunk('parameters', inscription.parameters),
        textChunk('darkroom', inscription.darkroom),
        textChunk('Software', inscription.software),
        textChunk(XMP_KEYWORD, writeXmp({ ...inscription, darkroom: null }), 'iTXt'),
      ]
    : [];
  return join([PNG_SIGNATURE, header.bytes, ...texts, ...kept]);
}

/** Ends after IEND; what follows it is not part of the picture. */
function* chunksOf(bytes: Uint8Array<ArrayBuffer>): Generator<Chunk> {
  const view = viewOf(bytes);
  let position = PNG_SIGNATURE.length;
  let parts = 0;
  for (;;) {
    const remaining = bytes.length - position - 12;
    if (remaining < 0) {
      throw damaged('PNG', 'it ends too early');
    }
    const length = view.getUint32(position);
    if (length > remaining) {
      throw damaged('PNG', `a chunk claims ${length} bytes where ${remaining} are left`);
    }
    const end = position + 12 + length;
    const chunk = {
      type: latin1(bytes.subarray(position + 4, position + 8)),
      data: bytes.subarray(position + 8, position + 8 + length),
      bytes: bytes.subarray(position, end),
    };
    if (position === PNG_SIGNATURE.length && chunk.type !== 'IHDR') {
      throw damaged('PNG', 'it does not begin with its header');
    }
    // Encoders split the pixels into any number of chunks.
    parts += chunk.type === 'IDAT' || chunk.type === 'fdAT' ? 0 : 1;
    if (parts > MAX_PARTS) {
      throw damaged('PNG', `it has more than ${MAX_PARTS} chunks beside its pixels`);
    }
    yield chunk;
    if (chunk.type === 'IEND') {
      return;
    }
    position = end;
  }
}

/** @returns text: null if longer than `limit` bytes; cost: bytes of the budget it used */
async function textOf(
  { type, data }: Chunk,
  limit: number,
): Promise<{ keyword: string; text: string | null; cost: number }> {
  const end = data.indexOf(0);
  if (end < 1) {
    throw damaged('PNG', `a ${type} chunk has no keyword`);
  }
  const keyword = latin1(data.subarray(0, end));
  let content = data.subarray(end + 1);
  let compressed = false;
  if (type === 'zTXt') {
    compressed = true;
    content = content.subarray(1);
  } else if (type === 'iTXt') {
    compressed = content[0] === 1;
    const language = content.indexOf(0, 2);
    const translation = content.indexOf(0, language + 1);
    if (language < 0 || translation < 0) {
      throw damaged('PNG', 'an iTXt chunk ends too early');
    }
    content = content.subarray(translation + 1);
  }
  if (compressed) {
    const inflated = await inflate(content, 'deflate', limit).catch(() => {
      throw damaged('PNG', `the compressed text of a ${type} chunk is broken`);
    });
    if (inflated === null) {
      return { keyword, text: null, cost: limit };
    }
    content = inflated;
  }
  if (content.length > limit) {
    return { keyword, text: null, cost: 0 };
  }
  return { keyword, text: type === 'iTXt' ? utf8(content) : textualLatin1(content), cost: content.length };
}

/** tEXt is Latin-1, but several tools write UTF-8 into it; valid multi-byte UTF-8 is no accident. */
function textualLatin1(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return latin1(bytes);
  }
}

function textChunk(keyword: string, text: string, type: 'tEXt' | 'iTXt' = isLatin1(text) ? 'tEXt' : 'iTXt') {
  // A zero ends a text in either kind of chunk.
  const safe = text.replaceAll('\0', '\ufffd');
  return type === 'tEXt'
    ? chunkOf('tEXt', join([latin1Bytes(`${keyword}\0`), latin1Bytes(safe)]))
    : chunkOf('iTXt', join([latin1Bytes(`${keyword}\0\0\0\0\0`), utf8Bytes(safe)]));
}

/** Whether this text survives in tEXt, even for readers that try UTF-8 first. */
function isLatin1(text: string): boolean {
  return PLAIN.test(text) && textualLatin1(latin1Bytes(text)) === text;
}

function chunkOf(type: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, data.length);
  bytes.set(latin1Bytes(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, -4)));
  return bytes;
}
