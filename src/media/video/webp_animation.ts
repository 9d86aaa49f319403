/**
 * Puts still WebP pictures into one animated file, without encoding them anew.
 * Reference: RFC 9649, section 2.7.1.1.
 */
import { join, viewOf } from '../../formats/bytes.ts';
import { ALPHA, ANIMATION, chunkBytes, chunksOf, sideBytes, webpOf, type Chunk } from '../../formats/webp.ts';

/** What a frame says of itself before its picture; its time lies in the middle. */
const [FRAME_HEADER, DURATION] = [16, 12];
const MOST_DURATION = 0xff_ffff;
/** The frame takes the place of what was there, transparent or not. */
const REPLACES = 2;

/** Frames in order, each over the whole picture. */
export class WebpAnimation {
  readonly #sides: number[];
  readonly #frames: Chunk[] = [];
  #isTransparent = false;

  constructor(width: number, height: number) {
    this.#sides = sideBytes(width, height);
  }

  /** @param still a WebP of this size @throws StudioError `image_unreadable` */
  add(still: Uint8Array<ArrayBuffer>): void {
    const picture = [...chunksOf(still)].filter(({ type }) => ['ALPH', 'VP8 ', 'VP8L'].includes(type));
    this.#isTransparent ||= picture.some(({ type }) => type !== 'VP8 ');
    const header = new Uint8Array(FRAME_HEADER);
    header.set(this.#sides, 6);
    header[FRAME_HEADER - 1] = REPLACES;
    this.#frames.push({ type: 'ANMF', data: join([header, ...picture.map(chunkBytes)]) });
  }

  /** How long the last frame is shown, in milliseconds. */
  hold(milliseconds: number): void {
    const last = this.#frames.at(-1);
    if (last) {
      const view = viewOf(last.data);
      const time = Math.min(MOST_DURATION, milliseconds);
      view.setUint16(DURATION, time & 0xffff, true);
      view.setUint8(DURATION + 2, time >>> 16);
    }
  }

  finish(): Blob {
    const header = new Uint8Array(10);
    header[0] = ANIMATION | (this.#isTransparent ? ALPHA : 0);
    header.set(this.#sides, 4);
    // Over nothing, and again and again.
    const repeats = { type: 'ANIM', data: new Uint8Array(6) };
    return new Blob([webpOf([{ type: 'VP8X', data: header }, repeats, ...this.#frames])], { type: 'image/webp' });
  }
}
