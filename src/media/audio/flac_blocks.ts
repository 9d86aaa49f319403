/** The metadata blocks before the sound of a FLAC file, read and replaced without touching the sound. Reference: RFC 9639, section 8. */
import { join, latin1Bytes } from '../../formats/bytes.ts';
import { damagedSound } from './riff.ts';

export const STREAMINFO = 0;
export const VORBIS_COMMENT = 4;
export const VENDOR = 'Darkroom';

const SIGNATURE = latin1Bytes('fLaC');
const LAST = 0x80;
/** A block's length has 24 bits. */
const MAX_BLOCK = 2 ** 24 - 1;

export interface Block {
  type: number;
  data: Uint8Array<ArrayBuffer>;
}

/**
 * @param bytes of a file that begins with its signature
 * @returns the blocks, and the sound after them
 * @throws StudioError `media_unreadable`
 */
export function blocksOf(bytes: Uint8Array<ArrayBuffer>): { blocks: Block[]; sound: Uint8Array<ArrayBuffer> } {
  const blocks: Block[] = [];
  let position = SIGNATURE.length;
  for (let isLast = false; !isLast;) {
    if (position + 4 > bytes.length) {
      throw damagedSound('it ends too early');
    }
    const [head, ...size] = bytes.subarray(position, position + 4);
    const length = (size[0] << 16) | (size[1] << 8) | size[2];
    const data = bytes.subarray(position + 4, position + 4 + length);
    if (data.length < length) {
      throw damagedSound(`a part of it claims ${length} bytes where ${data.length} are left`);
    }
    blocks.push({ type: head & 0x7f, data });
    isLast = (head & LAST) !== 0;
    position += 4 + length;
  }
  return { blocks, sound: bytes.subarray(position) };
}

/**
 * The beginning of a file, up to its sound.
 * @throws StudioError `media_unreadable` where one block is too long, 16 MiB
 */
export function flacOf(blocks: readonly Block[]): Uint8Array<ArrayBuffer> {
  const parts = blocks.flatMap(({ type, data: { length }, data }, index) => {
    if (length > MAX_BLOCK) {
      throw damagedSound('what is to be written into it is longer than 16 MiB');
    }
    const last = index === blocks.length - 1 ? LAST : 0;
    return [Uint8Array.of(last | type, length >> 16, length >> 8, length), data];
  });
  return join([SIGNATURE, ...parts]);
}
