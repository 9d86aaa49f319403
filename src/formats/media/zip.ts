/**
 * ZIP archives whose files are stored as they are, as pictures are compressed already: the frames of a video, and its recipe beside them.
 * Reference: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16
 */
import { assert } from '../../core/errors.ts';
import { startsWith, utf8, utf8Bytes, viewOf } from '../bytes.ts';
import { MAX_TEXT } from '../metadata.ts';
import { crc32 } from '../crc32.ts';
import type { ByteWindow } from './byte_window.ts';

type Bytes = Uint8Array<ArrayBuffer>;

export interface StoredFile {
  name: string;
  data: Bytes;
}

/** The recipe, and the same for people. */
export const DARKROOM_FILE = 'darkroom.json';
export const PARAMETERS_FILE = 'parameters.txt';

/** Of the frame with this number, counted from 0. */
export function frameName(frame: number): string {
  return `frame_${String(frame + 1).padStart(5, '0')}.png`;
}

const SIGNATURE = Uint8Array.of(0x50, 0x4b, 3, 4);

export function isZip(head: Uint8Array): boolean {
  return startsWith(head, SIGNATURE);
}

/** Whether an archive begins with the first frame of a video. */
export function isFrameArchive(head: Uint8Array): boolean {
  return isZip(head) && startsWith(head, utf8Bytes(frameName(0)), LOCAL_SIZE);
}

const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50];
const [LOCAL_SIZE, CENTRAL_SIZE, END_SIZE] = [30, 46, 22];
const VERSION = 20;
/** Names are UTF-8. */
const FLAGS = 0x0800;
/** 1980-01-01, the first day that the format knows: the same frames always give the same bytes. */
const DATE = 0x21;
/** Of the format without its 64-bit extension. */
const LARGEST = 2 ** 32 - 1;

export class ZipWriter {
  /** Files are handed to the browser at once, which need not keep them in memory. */
  readonly #parts: (Bytes | Blob)[] = [];
  readonly #entries: Bytes[] = [];
  #length = 0;

  add(name: string, data: Bytes): void {
    const path = utf8Bytes(name);
    const header = new Uint8Array(LOCAL_SIZE);
    const entry = new Uint8Array(CENTRAL_SIZE);
    viewOf(header).setUint32(0, LOCAL, true);
    writeCommon(viewOf(header), 4, data, path.length);
    const central = viewOf(entry);
    central.setUint32(0, CENTRAL, true);
    central.setUint16(4, VERSION, true);
    writeCommon(central, 6, data, path.length);
    central.setUint32(42, this.#length, true);
    this.#entries.push(entry, path);
    this.#parts.push(header, path, new Blob([data]));
    this.#length += header.length + path.length + data.length;
    assert(this.#length < LARGEST, 'the archive is smaller than 4 GiB');
  }

  finish(type: string): Blob {
    const end = new Uint8Array(END_SIZE);
    const view = viewOf(end);
    const count = this.#entries.length / 2;
    view.setUint32(0, END, true);
    view.setUint16(8, count, true);
    view.setUint16(10, count, true);
    view.setUint32(
      12,
      this.#entries.reduce((sum, { length }) => sum + length, 0),
      true,
    );
    view.setUint32(16, this.#length, true);
    return new Blob([...this.#parts, ...this.#entries, end], { type });
  }
}

/** What both headers have from the needed version on. */
function writeCommon(view: DataView, at: number, data: Bytes, nameLength: number): void {
  view.setUint16(at, VERSION, true);
  view.setUint16(at + 2, FLAGS, true);
  view.setUint16(at + 8, DATE, true);
  view.setUint32(at + 10, crc32(data), true);
  view.setUint32(at + 14, data.length, true);
  view.setUint32(at + 18, data.length, true);
  view.setUint16(at + 22, nameLength, true);
}

/** The files of an archive of this kind, up to the first that is of another; none for other bytes. */
export function readStoredFiles(bytes: Bytes): StoredFile[] {
  const view = viewOf(bytes);
  const files: StoredFile[] = [];
  for (let at = 0; at + LOCAL_SIZE <= bytes.length && view.getUint32(at, true) === LOCAL;) {
    const [size, nameLength, extra] = [
      view.getUint32(at + 22, true),
      view.getUint16(at + 26, true),
      view.getUint16(at + 28, true),
    ];
    const start = at + LOCAL_SIZE + nameLength + extra;
    const isStored = view.getUint16(at + 8, true) === 0 && view.getUint32(at + 18, true) === size;
    if (!isStored || start + size > bytes.length) {
      break;
    }
    const name = utf8(bytes.subarray(at + LOCAL_SIZE, at + LOCAL_SIZE + nameLength));
    files.push({ name, data: bytes.slice(start, start + size) });
    at = start + size;
  }
  return files;
}

/** The recipe of a ZIP of frames, under the names that pictures have it. The frames are stepped over. */
export async function readZipTexts(file: ByteWindow): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  for (let at = 0; at + LOCAL_SIZE <= file.size;) {
    const head = await file.read(at, LOCAL_SIZE + DARKROOM_FILE.length + PARAMETERS_FILE.length);
    if (head.length < LOCAL_SIZE || !isZip(head)) {
      break;
    }
    const view = viewOf(head);
    const [size, nameLength, extra] = [view.getUint32(22, true), view.getUint16(26, true), view.getUint16(28, true)];
    const name = utf8(head.subarray(LOCAL_SIZE, LOCAL_SIZE + nameLength));
    const start = at + LOCAL_SIZE + nameLength + extra;
    const keyword = KEYWORDS[name];
    if (keyword !== undefined && size <= MAX_TEXT) {
      texts.set(keyword, utf8(await file.read(start, size)));
    }
    at = start + size;
  }
  return texts;
}

const KEYWORDS: Record<string, string | undefined> = { [DARKROOM_FILE]: 'darkroom', [PARAMETERS_FILE]: 'parameters' };
