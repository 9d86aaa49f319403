/** A long video of frames that are made up, written as chunks write theirs; `run.js` watches the memory meanwhile. */
import { openVideoWriter } from '../src/media/video/writing.ts';

export interface Written {
  frames: number;
  seconds: number;
  bytes: number;
  kind: string;
  ms: number;
}

/** @param side of the square in pixels @param rate frames per second */
export async function writeVideo(seconds: number, side: number, rate: number): Promise<Written> {
  const writer = await openVideoWriter({ width: side, height: side, rate, format: 'auto' });
  const begun = performance.now();
  for (let frame = 0; frame < seconds * rate; frame++) {
    await writer.add({ width: side, height: side, data: paint(side, frame) });
  }
  const video = await writer.finish();
  const { size: bytes, type: kind } = video.file;
  return { frames: video.frames ?? 0, seconds: video.seconds, bytes, kind, ms: performance.now() - begun };
}

/** Waves that move, under grain that is another one in each frame, which is hard to encode. */
function paint(side: number, frame: number): Uint8ClampedArray<ArrayBuffer> {
  const data = new Uint8ClampedArray(4 * side * side);
  let grain = frame + 1;
  for (let pixel = 0; pixel < side * side; pixel++) {
    const [x, y] = [pixel % side, Math.floor(pixel / side)];
    grain = (Math.imul(grain, 48271) >>> 0) % 0x7fffffff;
    const noise = (grain & 15) - 8;
    data[4 * pixel] = 128 + 100 * Math.sin((x + 3 * frame) / 37) + noise;
    data[4 * pixel + 1] = 128 + 100 * Math.sin((y - 2 * frame) / 53) + noise;
    data[4 * pixel + 2] = ((x * y) / side + frame) % 256;
    data[4 * pixel + 3] = 255;
  }
  return data;
}
