/**
 * Tags of MP4, M4A and MOV files: names and values in `moov/udta/meta` or `moov/meta`, by Apple's four letters, by names of one's own
 * (`keys`, as ffmpeg writes with `use_metadata_tags`), or as iTunes' free-form items.
 * Reference: ISO 14496-12, section 8.11; QuickTime File Format, "Metadata".
 */
import { latin1, startsWith, latin1Bytes, utf8, viewOf } from '../bytes.ts';
import { damaged } from '../damage.ts';
import { MAX_PARTS, MAX_TEXT, MAX_TEXTS } from '../metadata.ts';
import type { ByteWindow } from './byte_window.ts';

/** Boxes that contain others on the way to tags. */
const HOLDERS = new Set(['moov', 'udta', 'meta']);
const LETTERS: Record<string, string> = {
  '©cmt': 'comment',
  '©des': 'description',
  desc: 'description',
  ldes: 'description',
};
const [UTF8, UTF16] = [1, 2];
const MAX_DEPTH = 4;

interface Box {
  type: string;
  start: number;
  end: number;
}

export function isMp4(head: Uint8Array): boolean {
  return ['ftyp', 'moov', 'mdat', 'wide', 'free', 'skip'].some((type) => startsWith(head, latin1Bytes(type), 4));
}

/** @throws StudioError `image_unreadable` */
export async function readMp4Tags(file: ByteWindow): Promise<Map<string, string>> {
  const tags = new Map<string, string>();
  await readBoxes(file, 0, file.size, 0, tags);
  return tags;
}

async function readBoxes(file: ByteWindow, from: number, to: number, depth: number, tags: Map<string, string>) {
  let keys: string[] = [];
  for await (const { type, start, end } of boxesOf(file, from, to)) {
    if (HOLDERS.has(type) && depth < MAX_DEPTH) {
      await readBoxes(file, type === 'meta' ? await metaStart(file, start) : start, end, depth + 1, tags);
    } else if (type === 'keys' && end - start <= MAX_TEXTS) {
      keys = keysOf(await file.read(start, end - start));
    } else if (type === 'ilst' && end - start <= MAX_TEXTS) {
      for await (const item of boxesOf(file, start, end)) {
        await readItem(file, item, keys, tags);
      }
    } else if (depth > 0 && type.startsWith('©') && end - start <= MAX_TEXT) {
      // QuickTime's older form: length, language, text.
      const text = utf8((await file.read(start, end - start)).subarray(4));
      add(tags, LETTERS[type] ?? type.slice(1), text);
    }
  }
}

async function* boxesOf(file: ByteWindow, from: number, to: number): AsyncGenerator<Box> {
  let parts = 0;
  for (let at = from; at + 8 <= to;) {
    const head = await file.read(at, 16);
    if (head.length < 8) {
      return;
    }
    const view = viewOf(head);
    const type = latin1(head.subarray(4, 8));
    const short = view.getUint32(0);
    const header = short === 1 ? 16 : 8;
    // 0: to the end. 1: the length follows in 64 bits.
    const length = short === 0 ? to - at : short === 1 && head.length === 16 ? Number(view.getBigUint64(8)) : short;
    // Old writers end a list of user data with four zeros.
    if (short === 0 && from > 0) {
      return;
    }
    if (length < header || length > to - at) {
      throw damaged('video or sound', `a part claims ${length} bytes where ${to - at} are left`);
    }
    // Streams have a fragment per second, preceded by their tags.
    if (++parts > 10 * MAX_PARTS) {
      return;
    }
    yield { type, start: at + header, end: at + length };
    at += length;
  }
}

/** In ISO's form a version of four bytes stands before the first box, in QuickTime's none. */
async function metaStart(file: ByteWindow, start: number): Promise<number> {
  const head = await file.read(start, 8);
  return latin1(head.subarray(4, 8)) === 'hdlr' ? start : start + 4;
}

function keysOf(bytes: Uint8Array): string[] {
  const view = viewOf(bytes);
  const keys: string[] = [];
  for (let at = 8; at + 8 <= bytes.length && keys.length < MAX_PARTS;) {
    const length = view.getUint32(at);
    if (length < 8 || length > bytes.length - at) {
      throw damaged('video or sound', 'the name of a tag is cut off');
    }
    // Apple's are com.apple.quicktime.comment and so on.
    keys.push(utf8(bytes.subarray(at + 8, at + length)).replace(/^com\..*\./, ''));
    at += length;
  }
  return keys;
}

async function readItem(
  file: ByteWindow,
  item: Box,
  keys: readonly string[],
  tags: Map<string, string>,
): Promise<void> {
  const index = viewOf(latin1Bytes(item.type)).getUint32(0);
  let name = LETTERS[item.type] ?? keys.at(index - 1) ?? item.type.replace('©', '');
  for await (const { type, start, end } of boxesOf(file, item.start, item.end)) {
    if (end - start > MAX_TEXT) {
      continue;
    }
    const content = await file.read(start, end - start);
    if (type === 'name') {
      name = utf8(content.subarray(4));
    } else if (type === 'data' && content.length >= 8) {
      const kind = viewOf(content).getUint32(0);
      const text = content.subarray(8);
      if (kind === UTF8 || kind === 0) {
        add(tags, name, utf8(text));
      } else if (kind === UTF16) {
        add(tags, name, new TextDecoder('utf-16be').decode(text));
      }
    }
  }
}

function add(tags: Map<string, string>, name: string, text: string): void {
  const key = name.toLowerCase();
  if (!tags.has(key) && tags.size < MAX_PARTS) {
    tags.set(key, text.replace(/\0+$/, ''));
  }
}
