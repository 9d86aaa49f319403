/** Videos as moving pictures that play wherever pictures are shown: GIF everywhere, animated WebP where the browser writes WebP. */
import { inscribe } from '../../formats/container.ts';
import type { Inscription } from '../../formats/metadata.ts';
import type { SaveChoice, Saved } from '../medium.ts';
import { canvasOf } from '../preview/canvas.ts';
import { openFrames, type VideoFrames } from './frames.ts';
import { GifWriter, MOST_COLOURS } from './gif.ts';
import { ColourCensus } from './palette.ts';
import { WebpAnimation } from './webp_animation.ts';

const GIF: SaveChoice = { id: 'gif', label: 'GIF', format: { label: 'GIF', mime: 'image/gif', extension: 'gif' } };
const WEBP: SaveChoice = {
  id: 'webp',
  label: 'Animated WebP',
  format: { label: 'WebP', mime: 'image/webp', extension: 'webp' },
};
/** Of the frames of an animated WebP: no visible difference to the video, which is lossy itself. */
const QUALITY = 0.9;

/** How exactly frames are timed, and the shortest time that players keep to; they show shorter ones for a tenth of a second. */
const TIMING = { gif: { perSecond: 100, least: 2 }, webp: { perSecond: 1000, least: 11 } };

/** What both writers do. */
interface Timed {
  hold(time: number): void;
  finish(): Blob;
}

/** The ones that this browser can write: it encodes WebP, or gives a PNG in its place. */
export async function animations(): Promise<SaveChoice[]> {
  const { canvas } = canvasOf(1, 1);
  return (await encoded(canvas)).type === WEBP.format.mime ? [GIF, WEBP] : [GIF];
}

/**
 * @param choice the id of one of the {@link animations}; null is returned for others
 * @throws StudioError `media_unreadable` for a video that this browser cannot decode
 */
export async function animated(file: Blob, choice: string, inscription: Inscription | null): Promise<Saved | null> {
  const isGif = choice === GIF.id;
  if (!isGif && choice !== WEBP.id) {
    return null;
  }
  const frames = await openFrames(file);
  const { blob, left } = await (isGif ? asGif(frames) : asWebp(frames));
  const notices = [
    isGif ? ['A GIF has 256 colours at most.'] : [],
    frames.hasSound ? ['Moving pictures have no sound.'] : [],
    left > 0 ? [`${left} of ${frames.count} frames were left out, as players show none for so short a time.`] : [],
  ].flat();
  return { file: await inscribe(blob, inscription), notices };
}

/** Two passes: all frames have one palette, so that nothing flickers. */
async function asGif(frames: VideoFrames) {
  const census = new ColourCensus();
  for await (const { context } of frames.all()) {
    census.add(pixels(context));
  }
  const palette = census.palette(MOST_COLOURS);
  let writer: GifWriter | null = null;
  return timed(frames, TIMING.gif, (context) => {
    writer ??= new GifWriter(context.canvas.width, context.canvas.height, palette);
    writer.add(pixels(context));
    return writer;
  });
}

function asWebp(frames: VideoFrames) {
  let writer: WebpAnimation | null = null;
  return timed(frames, TIMING.webp, async ({ canvas }) => {
    writer ??= new WebpAnimation(canvas.width, canvas.height);
    const still = await encoded(canvas);
    writer.add(new Uint8Array(await still.arrayBuffer()));
    return writer;
  });
}

/** @returns the file, and how many frames were left out because they were shown too shortly */
async function timed(
  frames: VideoFrames,
  { perSecond, least }: { perSecond: number; least: number },
  add: (context: OffscreenCanvasRenderingContext2D) => Timed | Promise<Timed>,
): Promise<{ blob: Blob; left: number }> {
  let writer: Timed | null = null;
  let [last, end, left] = [0, 0, 0];
  for await (const { context, start } of frames.all()) {
    const time = Math.round(start * perSecond);
    end = Math.round((start + 1 / frames.rate) * perSecond);
    if (writer && time - last < least) {
      left += 1;
      continue;
    }
    writer?.hold(time - last);
    writer = await add(context);
    last = time;
  }
  writer?.hold(Math.max(least, end - last));
  return { blob: writer?.finish() ?? new Blob([]), left };
}

function pixels(context: OffscreenCanvasRenderingContext2D): Uint8ClampedArray {
  const { width, height } = context.canvas;
  return context.getImageData(0, 0, width, height).data;
}

function encoded(canvas: OffscreenCanvas): Promise<Blob> {
  return canvas.convertToBlob({ type: WEBP.format.mime, quality: QUALITY });
}
