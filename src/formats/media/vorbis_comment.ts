/**
 * Vorbis comments, the tags of FLAC, Ogg Vorbis and Opus files.
 * Reference: "Ogg Vorbis I format specification: comment field"; RFC 3533 (Ogg), RFC 7845 (Opus), RFC 9639 (FLAC).
 */
import { join, latin1Bytes, startsWith, utf8, viewOf } from '../bytes.ts';
import { damaged } from '../damage.ts';
import { MAX_PARTS, MAX_TEXT, MAX_TEXTS } from '../metadata.ts';
import { FLAC_SIGNATURE, OGG_SIGNATURE } from '../signatures.ts';
import type { ByteWindow } from './byte_window.ts';

const COMMENT_BLOCK = 4;
/** Precedes the comments in the second packet of a stream. */
const PACKETS = ['\x03vorbis', 'OpusTags', '\x81theora'].map(latin1Bytes);

/** @param from where it begins: some writers put other tags before it. @throws StudioError `image_unreadable` */
export async function readFlacTags(file: ByteWindow, from = 0): Promise<Map<string, string>> {
  let at = from + FLAC_SIGNATURE.length;
  for (let n = 0; n < MAX_PARTS; n++) {
    const head = await file.read(at, 4);
    if (head.length < 4) {
      throw damaged('FLAC', 'it ends too early');
    }
    const length = viewOf(head).getUint32(0) & 0xffffff;
    const isLast = head[0] >= 0x80;
    if ((head[0] & 0x7f) === COMMENT_BLOCK) {
      return length > MAX_TEXTS ? new Map() : commentsOf(await file.read(at + 4, length));
    }
    if (isLast) {
      break;
    }
    at += 4 + length;
  }
  return new Map();
}

/** Of the first stream that has some. @throws StudioError `image_unreadable` */
export async function readOggTags(file: ByteWindow): Promise<Map<string, string>> {
  const packets = new Map<number, Uint8Array[]>();
  let size = 0;
  for (let at = 0; at < file.size && size <= MAX_TEXTS;) {
    const head = await file.read(at, 27);
    if (head.length < 27 || !startsWith(head, OGG_SIGNATURE)) {
      throw damaged('Ogg', 'a page does not begin where the one before ends');
    }
    const serial = viewOf(head).getUint32(14, true);
    const laces = await file.read(at + 27, head[26]);
    const starts = at + 27 + laces.length;
    const body = await file.read(
      starts,
      laces.reduce((sum, lace) => sum + lace, 0),
    );
    size += body.length;
    // A packet ends with the first lace below 255; the comments are the second one, and may span pages.
    let from = 0;
    for (const lace of laces) {
      const parts = packets.get(serial) ?? [];
      packets.set(serial, parts);
      parts.push(body.slice(from, from + lace));
      from += lace;
      if (lace < 255) {
        const packet = join(parts);
        parts.length = 0;
        const start = PACKETS.find((one) => startsWith(packet, one));
        if (start) {
          return commentsOf(packet.subarray(start.length));
        }
        // FLAC in Ogg: a block of FLAC's own.
        if (
          packet.length > 4 &&
          (packet[0] & 0x7f) === COMMENT_BLOCK &&
          packet.length === 4 + (viewOf(packet).getUint32(0) & 0xffffff)
        ) {
          return commentsOf(packet.subarray(4));
        }
      }
    }
    at = starts + body.length;
  }
  return new Map();
}

function commentsOf(bytes: Uint8Array): Map<string, string> {
  const view = viewOf(bytes);
  const comments = new Map<string, string>();
  const next = (at: number): number => {
    const length = at + 4 > bytes.length ? Infinity : view.getUint32(at, true);
    if (length > bytes.length - at - 4) {
      throw damaged('sound', 'a tag is cut off');
    }
    return length;
  };
  let at = 4 + next(0);
  const count = at + 4 > bytes.length ? 0 : view.getUint32(at, true);
  at += 4;
  for (let n = 0; n < Math.min(count, MAX_PARTS); n++) {
    const length = next(at);
    const comment = bytes.subarray(at + 4, at + 4 + length);
    const equals = comment.indexOf(0x3d);
    const name = utf8(comment.subarray(0, Math.max(0, equals))).toLowerCase();
    if (equals > 0 && length <= MAX_TEXT && !comments.has(name)) {
      comments.set(name, utf8(comment.subarray(equals + 1)));
    }
    at += 4 + length;
  }
  return comments;
}
