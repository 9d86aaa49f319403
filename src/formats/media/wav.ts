/**
 * Tags of WAV files: the list INFO, and ID3 in a chunk of its own.
 * Reference: Multimedia Programming Interface and Data Specifications 1.0 (RIFF), chapter 2.
 */
import { latin1, latin1Bytes, startsWith, utf8, viewOf } from '../bytes.ts';
import { damaged } from '../damage.ts';
import { MAX_PARTS, MAX_TEXT, MAX_TEXTS } from '../metadata.ts';
import type { ByteWindow } from './byte_window.ts';
import { isId3 } from '../signatures.ts';
import { readId3 } from './id3.ts';

const NAMES: Record<string, string> = { ICMT: 'comment', ISBJ: 'description', IPRT: 'prompt' };

export function isWav(head: Uint8Array): boolean {
  return startsWith(head, latin1Bytes('RIFF')) && startsWith(head, latin1Bytes('WAVE'), 8);
}

/** @throws StudioError `image_unreadable` */
export async function readWavTags(file: ByteWindow): Promise<Map<string, string>> {
  const tags = new Map<string, string>();
  const add = (name: string, text: string) => {
    if (!tags.has(name)) {
      tags.set(name, text);
    }
  };
  let parts = 0;
  for (let at = 12; at + 8 <= file.size && ++parts <= MAX_PARTS;) {
    const head = await file.read(at, 12);
    const type = latin1(head.subarray(0, 4));
    const length = viewOf(head).getUint32(4, true);
    const isTag = type === 'LIST' ? latin1(head.subarray(8, 12)) === 'INFO' : /^id3 $/i.test(type);
    if (isTag && length > file.size - at - 8) {
      throw damaged('WAV', `its tags claim ${length} bytes where ${file.size - at - 8} are left`);
    }
    if (isTag && length <= MAX_TEXTS) {
      const content = await file.read(at + 8, length);
      const found = type === 'LIST' ? infoOf(content) : isId3(content) ? readId3(content) : [];
      for (const [name, text] of found) {
        add(name, text);
      }
    }
    // Streams claim no length, or the greatest.
    at += 8 + length + (length % 2);
  }
  return tags;
}

function* infoOf(list: Uint8Array): Generator<[string, string]> {
  const view = viewOf(list);
  for (let at = 4; at + 8 <= list.length;) {
    const type = latin1(list.subarray(at, at + 4));
    const length = view.getUint32(at + 4, true);
    if (length <= MAX_TEXT) {
      yield [NAMES[type] ?? type.toLowerCase(), utf8(list.subarray(at + 8, at + 8 + length)).replace(/\0+$/, '')];
    }
    at += 8 + length + (length % 2);
  }
}
