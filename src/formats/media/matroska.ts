/**
 * Tags of WebM and Matroska files.
 * Reference: RFC 8794 (EBML), RFC 9559 (Matroska), section 5.1.8.
 */
import { startsWith, utf8 } from '../bytes.ts';
import { damaged } from '../damage.ts';
import { MAX_PARTS, MAX_TEXT, MAX_TEXTS } from '../metadata.ts';
import type { ByteWindow } from './byte_window.ts';

const SIGNATURE = Uint8Array.of(0x1a, 0x45, 0xdf, 0xa3);
const [SEGMENT, CLUSTER, TAGS, TAG, SIMPLE_TAG] = [0x18538067, 0x1f43b675, 0x1254c367, 0x7373, 0x67c8];
const [TAG_NAME, TAG_STRING] = [0x45a3, 0x4487];
const MAX_DEPTH = 6;

interface Element {
  id: number;
  start: number;
  /** Infinity if the writer did not know it, as in live recordings. */
  end: number;
}

export function isMatroska(head: Uint8Array): boolean {
  return startsWith(head, SIGNATURE);
}

/** @throws StudioError `image_unreadable` */
export async function readMatroskaTags(file: ByteWindow): Promise<Map<string, string>> {
  const tags = new Map<string, string>();
  // Tags may come before or after the clusters, which are skipped, or scanned if their length is unknown.
  for (let at = 0; at < file.size;) {
    const element = await elementAt(file, at, file.size);
    if (!element) {
      break;
    }
    if (element.id === TAGS && element.end - element.start <= MAX_TEXTS) {
      readTags(await file.read(element.start, element.end - element.start), 0, tags);
    }
    const isOpen = element.id === SEGMENT || (element.id === CLUSTER && element.end === Infinity);
    at = isOpen ? element.start : element.end;
  }
  return tags;
}

async function elementAt(file: ByteWindow, at: number, limit: number): Promise<Element | null> {
  return parse(await file.read(at, 16), 0, at, limit);
}

/** @param base where `bytes` begin in the file; @returns null at the end, and for what follows the last element */
function parse(bytes: Uint8Array, at: number, base: number, limit: number): Element | null {
  const idLength = at < bytes.length ? Math.clz32(bytes[at]) - 23 : 9;
  const sizeAt = at + idLength;
  const sizeLength = sizeAt < bytes.length ? Math.clz32(bytes[sizeAt]) - 23 : 9;
  if (idLength > 4 || sizeLength > 8 || sizeAt + sizeLength > bytes.length) {
    return null;
  }
  let id = 0;
  for (let i = 0; i < idLength; i++) {
    id = id * 256 + bytes[at + i];
  }
  let size = bytes[sizeAt] & (2 ** (8 - sizeLength) - 1);
  for (let i = 1; i < sizeLength; i++) {
    size = size * 256 + bytes[sizeAt + i];
  }
  const start = base + sizeAt + sizeLength;
  if (size === 2 ** (7 * sizeLength) - 1) {
    return { id, start, end: Infinity };
  }
  if (id !== SEGMENT && id !== CLUSTER && start + size > limit) {
    throw damaged('video', `a part claims ${size} bytes where ${limit - start} are left`);
  }
  return { id, start, end: start + size };
}

function readTags(bytes: Uint8Array, depth: number, tags: Map<string, string>): void {
  let name: string | null = null;
  let parts = 0;
  for (let at = 0; at < bytes.length && ++parts <= MAX_PARTS;) {
    const element = parse(bytes, at, 0, bytes.length);
    if (!element || element.end === Infinity) {
      return;
    }
    const content = bytes.subarray(element.start, element.end);
    if ((element.id === TAG || element.id === SIMPLE_TAG) && depth < MAX_DEPTH) {
      readTags(content, depth + 1, tags);
    } else if (element.id === TAG_NAME) {
      name = utf8(content).replace(/\0+$/, '').toLowerCase();
    } else if (element.id === TAG_STRING && name !== null && !tags.has(name) && content.length <= MAX_TEXT) {
      tags.set(name, utf8(content).replace(/\0+$/, ''));
    }
    at = element.end;
  }
}
