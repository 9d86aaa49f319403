/** What is read of a video, through mediabunny; loaded when one is opened. */
import { ALL_FORMATS, BlobSource, CanvasSink, Input } from 'mediabunny';
import { StudioError } from '../../core/errors.ts';
import type { Video } from '../../core/video.ts';

/** @throws StudioError `media_unreadable` for a file that holds no pictures */
export async function readVideo(file: Blob): Promise<Video> {
  const input = new Input({ source: new BlobSource(file), formats: ALL_FORMATS });
  try {
    const track = await input.getPrimaryVideoTrack();
    if (!track) {
      throw damaged();
    }
    const { displayWidth: width, displayHeight: height } = track;
    return { file, width, height, seconds: await input.computeDuration() };
  } catch (error) {
    throw error instanceof StudioError ? error : damaged(error);
  }
}

/** Its first picture. @param size of the longer side, in pixels */
export async function poster(file: Blob, size: number): Promise<ImageBitmap> {
  const track = await new Input({ source: new BlobSource(file), formats: ALL_FORMATS }).getPrimaryVideoTrack();
  if (!track || !(await track.canDecode())) {
    throw damaged();
  }
  const scale = size / Math.max(track.displayWidth, track.displayHeight);
  const [width, height] = [track.displayWidth, track.displayHeight].map((side) =>
    Math.max(1, Math.round(side * scale)),
  );
  const sink = new CanvasSink(track, { width, height, fit: 'fill' });
  const first = await sink.getCanvas(await track.getFirstTimestamp());
  if (!first) {
    throw damaged();
  }
  return createImageBitmap(first.canvas);
}

function damaged(cause?: unknown): StudioError {
  return new StudioError(
    'media_unreadable',
    'This video cannot be read: it is damaged, or this browser has no decoder for it; save it and open it in another program.',
    { cause },
  );
}
