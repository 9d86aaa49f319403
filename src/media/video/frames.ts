/** The frames of a recorded video one by one, for whoever steps through it or keeps one of them as a picture. */
import { ALL_FORMATS, BlobSource, CanvasSink, Input } from 'mediabunny';
import { StudioError } from '../../core/errors.ts';
import { frameName, isFrameArchive, readStoredFiles } from '../../formats/media/zip.ts';
import { canvasOf } from '../preview/canvas.ts';
import { damagedVideo } from './damaged_video.ts';
import { readFrameArchive } from './frame_archive.ts';

export interface VideoFrames {
  count: number;
  /** Frames per second. */
  rate: number;
  hasSound: boolean;
  /** The frame with this number, counted from 0, as PNG. @throws StudioError `media_unreadable` */
  at(frame: number): Promise<Blob>;
  /** All of them in order, each until the next one is asked for. @throws StudioError `media_unreadable` */
  all(): AsyncGenerator<ShownFrame, void, unknown>;
}

export interface ShownFrame {
  context: OffscreenCanvasRenderingContext2D;
  /** In seconds from the first one. */
  start: number;
}

/** Where the name of an archive's first file ends. */
const HEAD = 64;
/** Canvases whose pixels are read again and again. */
const READ = { willReadFrequently: true };

/** @throws StudioError `media_unreadable` */
export async function openFrames(file: Blob): Promise<VideoFrames> {
  const head = new Uint8Array(await file.slice(0, HEAD).arrayBuffer());
  return isFrameArchive(head) ? archivedFrames(file) : encodedFrames(file);
}

async function archivedFrames(file: Blob): Promise<VideoFrames> {
  const about = await readFrameArchive(file);
  const files = readStoredFiles(new Uint8Array(await file.arrayBuffer()));
  if (!about?.frames) {
    throw damagedVideo();
  }
  const { frames: count, seconds, width, height } = about;
  const at = (frame: number) => {
    const found = files.find(({ name }) => name === frameName(frame));
    return found ? Promise.resolve(new Blob([found.data], { type: 'image/png' })) : Promise.reject(damagedVideo());
  };
  return {
    count,
    rate: count / seconds,
    hasSound: false,
    at,
    async *all() {
      const { context } = canvasOf(width, height, READ);
      for (let frame = 0; frame < count; frame++) {
        const bitmap = await createImageBitmap(await at(frame)).catch((cause: unknown) => {
          throw damagedVideo(cause);
        });
        context.drawImage(bitmap, 0, 0);
        bitmap.close();
        yield { context, start: (frame * seconds) / count };
      }
    },
  };
}

async function encodedFrames(file: Blob): Promise<VideoFrames> {
  const input = new Input({ source: new BlobSource(file), formats: ALL_FORMATS });
  const track = await input.getPrimaryVideoTrack();
  if (!track || !(await track.canDecode())) {
    throw damagedVideo();
  }
  const { packetCount: count, averagePacketRate } = await track.computePacketStats();
  const first = await track.getFirstTimestamp();
  // One frame alone has no rate.
  const rate = count > 1 && averagePacketRate > 0 ? averagePacketRate : 1;
  const sink = new CanvasSink(track);
  return {
    count,
    rate,
    hasSound: (await input.getPrimaryAudioTrack()) !== null,
    async at(frame) {
      const found = await sink.getCanvas(first + (frame + 0.5) / rate);
      if (!found) {
        throw damagedVideo();
      }
      const { canvas, context } = canvasOf(track.displayWidth, track.displayHeight);
      context.drawImage(found.canvas, 0, 0);
      return canvas.convertToBlob({ type: 'image/png' });
    },
    async *all() {
      const { context } = canvasOf(track.displayWidth, track.displayHeight, READ);
      try {
        for await (const found of sink.canvases()) {
          context.drawImage(found.canvas, 0, 0);
          yield { context, start: found.timestamp - first };
        }
      } catch (error) {
        throw error instanceof StudioError ? error : damagedVideo(error);
      }
    },
  };
}
