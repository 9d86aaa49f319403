/**
 * Settings in the lowest bits of the pixels, as NovelAI and Forge hide them: a signature, the length in bits, and the text, gzipped or
 * not; in the alpha channel one bit a pixel, in red, green and blue three, column by column from the left.
 */
import type { PixelImage } from '../core/media.ts';
import { startsWith, utf8, utf8Bytes, viewOf } from './bytes.ts';
import { damaged } from './damage.ts';
import { inflate } from './inflation.ts';
import { MAX_TEXT } from './metadata.ts';

type Channels = 'alpha' | 'rgb';

const SIGNATURES: readonly { name: string; channels: Channels; isPacked: boolean }[] = [
  { name: 'stealth_pnginfo', channels: 'alpha', isPacked: false },
  { name: 'stealth_pngcomp', channels: 'alpha', isPacked: true },
  { name: 'stealth_rgbinfo', channels: 'rgb', isPacked: false },
  { name: 'stealth_rgbcomp', channels: 'rgb', isPacked: true },
];
const SIGNATURE_BYTES = 15;

/**
 * @returns null if nothing is hidden there
 * @throws StudioError `image_unreadable` if something is, but damaged
 */
export async function readStealth(image: PixelImage): Promise<string | null> {
  for (const channels of ['alpha', 'rgb'] as const) {
    const head = bitsOf(image, channels, 0, SIGNATURE_BYTES + 4);
    const found = SIGNATURES.find((one) => one.channels === channels && startsWith(head, utf8Bytes(one.name)));
    if (!found || head.length < SIGNATURE_BYTES + 4) {
      continue;
    }
    const length = Math.floor(viewOf(head).getUint32(SIGNATURE_BYTES) / 8);
    const payload = length <= MAX_TEXT ? bitsOf(image, channels, SIGNATURE_BYTES + 4, length) : null;
    if (!payload || payload.length < length) {
      throw damaged('picture', 'the text hidden in its pixels claims more than they can hold');
    }
    if (!found.isPacked) {
      return utf8(payload);
    }
    const text = await inflate(payload, 'gzip', MAX_TEXT).catch(() => null);
    if (!text) {
      throw damaged('picture', 'the text hidden in its pixels is broken');
    }
    return utf8(text);
  }
  return null;
}

/** @returns `length` bytes from byte `from`; fewer if the picture ends before */
function bitsOf({ width, height, data }: PixelImage, channels: Channels, from: number, length: number) {
  const perPixel = channels === 'alpha' ? 1 : 3;
  const available = Math.floor((width * height * perPixel) / 8) - from;
  const bytes = new Uint8Array(Math.max(0, Math.min(length, available)));
  for (let bit = 0; bit < 8 * bytes.length; bit++) {
    const place = 8 * from + bit;
    const pixel = Math.floor(place / perPixel);
    const [x, y] = [Math.floor(pixel / height), pixel % height];
    const channel = channels === 'alpha' ? 3 : place % 3;
    bytes[bit >> 3] |= (data[4 * (y * width + x) + channel] & 1) << (7 - (bit & 7));
  }
  return bytes;
}
