/**
 * A recipe in an MP4 whose other bytes stay where they are: a table of contents with it takes the place of the one at the end of the file, or
 * is put there, and the one before it is blanked.
 * Reference: ISO 14496-12, sections 8.1 and 8.10; QuickTime File Format, "Metadata"
 */
import { join, latin1, latin1Bytes, startsWith, utf8Bytes, viewOf } from '../../formats/bytes.ts';
import { unwritable } from './unwritable.ts';

type Bytes = Uint8Array<ArrayBuffer>;

interface Box {
  type: string;
  start: number;
  header: number;
  end: number;
}

/** As ffmpeg and our own reader know it: named texts of any length. */
const MARK = 'darkroom';
const UTF8 = 1;
/** Of the boxes in a table of contents: more is no video. */
const LARGEST_TABLE = 2 ** 27;
const MOST_BOXES = 100_000;

/**
 * @param texts by name, the one called `darkroom` among them; null = none
 * @throws StudioError `media_unreadable`
 */
export async function withMp4Texts(file: Blob, texts: Record<string, string> | null): Promise<Blob> {
  const boxes = await boxesOf(file);
  const moov = boxes.find(({ type }) => type === 'moov');
  if (!moov || moov.end - moov.start > LARGEST_TABLE) {
    throw unwritable();
  }
  const content = new Uint8Array(await file.slice(moov.start + moov.header, moov.end).arrayBuffer());
  const table = box('moov', [...withoutOurs(content), ...(texts ? [userData(texts)] : [])]);
  if (moov === boxes.at(-1)) {
    return new Blob([file.slice(0, moov.start), table], { type: file.type });
  }
  const last = boxes.at(-1);
  if (!last || last.end !== file.size || last.header === 0) {
    throw unwritable();
  }
  const blank = box('free', [new Uint8Array(moov.end - moov.start - 8)]);
  return new Blob([file.slice(0, moov.start), blank, file.slice(moov.end), table], { type: file.type });
}

async function boxesOf(file: Blob): Promise<Box[]> {
  const boxes: Box[] = [];
  for (let at = 0; at + 8 <= file.size && boxes.length < MOST_BOXES;) {
    const found = boxAt(new Uint8Array(await file.slice(at, at + 16).arrayBuffer()), at, file.size);
    boxes.push(found);
    at = found.end;
  }
  return boxes;
}

/** @param head its first 16 bytes, or fewer at the end */
function boxAt(head: Uint8Array, start: number, limit: number): Box {
  const view = viewOf(head);
  const short = view.getUint32(0);
  const isLong = short === 1 && head.length === 16;
  const header = isLong ? 16 : 8;
  // One that lasts to the end of the file has no length to be written behind it.
  const length = isLong ? Number(view.getBigUint64(8)) : short;
  if (length < header || length > limit - start) {
    throw unwritable();
  }
  return { type: latin1(head.subarray(4, 8)), start, header, end: start + length };
}

/** The boxes of a table of contents but for our own, as they are. */
function withoutOurs(content: Bytes): Bytes[] {
  const kept: Bytes[] = [];
  for (let at = 0; at + 8 <= content.length;) {
    const { type, start, end } = boxAt(content.subarray(at, at + 16), at, content.length);
    const bytes = content.slice(start, end);
    // Ours hold nothing else, and begin as they are written here.
    if (!(type === 'udta' && startsWith(bytes, OURS, OURS_AT))) {
      kept.push(bytes);
    }
    at = end;
  }
  return kept;
}

/** Where the name of the first text stands: behind four headers, the handler and the number of names. */
const OURS_AT = 8 + 8 + 33 + 16 + 8;
const OURS = latin1Bytes(MARK);

function userData(texts: Record<string, string>): Bytes {
  const entries = Object.entries(texts).sort(([a], [b]) => Number(b === MARK) - Number(a === MARK));
  const handler = box('hdlr', [new Uint8Array(8), latin1Bytes('mdta'), new Uint8Array(13)]);
  const names = entries.map(([name]) => box('mdta', [utf8Bytes(name)]));
  const items = entries.map(([, text], index) =>
    box(latin1(number(index + 1)), [box('data', [number(UTF8), number(0), utf8Bytes(text)])]),
  );
  return box('udta', [
    box('meta', [handler, box('keys', [number(0), number(names.length), ...names]), box('ilst', items)]),
  ]);
}

function box(type: string, parts: readonly Uint8Array[]): Bytes {
  const content = join(parts);
  return join([number(8 + content.length), latin1Bytes(type), content]);
}

function number(value: number): Bytes {
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, value);
  return bytes;
}
