/** What is read of a video, through mediabunny; loaded when one is opened. */
import { ALL_FORMATS, BlobSource, CanvasSink, Input } from 'mediabunny';
import { StudioError } from '../../core/errors.ts';
import type { Video } from '../../core/video.ts';
import { isFrameArchive } from '../../formats/media/zip.ts';
import { damagedVideo } from './damaged_video.ts';
import { firstFrame, readFrameArchive } from './frame_archive.ts';

/** Where the name of an archive's first file ends. */
const HEAD = 64;

async function isArchive(file: Blob): Promise<boolean> {
  return isFrameArchive(new Uint8Array(await file.slice(0, HEAD).arrayBuffer()));
}

/** @throws StudioError `media_unreadable` for a file that holds no pictures */
export async function readVideo(file: Blob): Promise<Video> {
  if (await isArchive(file)) {
    const video = await readFrameArchive(file);
    if (!video) {
      throw damagedVideo();
    }
    return video;
  }
  const input = new Input({ source: new BlobSource(file), formats: ALL_FORMATS });
  try {
    const track = await input.getPrimaryVideoTrack();
    if (!track) {
      throw damagedVideo();
    }
    const { displayWidth: width, displayHeight: height } = track;
    const seconds = await input.computeDuration();
    const { mimeType } = await input.getFormat();
    if (!/webm|matroska/.test(mimeType)) {
      return { file, width, height, seconds };
    }
    // The last frame of a WebM has no length of its own, but the length of the whole file includes it.
    return { file, width, height, seconds: Math.max(seconds, (await input.getDurationFromMetadata()) ?? 0) };
  } catch (error) {
    throw error instanceof StudioError ? error : damagedVideo(error);
  }
}

/** Its first picture. @param size of the longer side, in pixels */
export async function poster(file: Blob, size: number): Promise<ImageBitmap> {
  if (await isArchive(file)) {
    const picture = await firstFrame(file);
    if (!picture) {
      throw damagedVideo();
    }
    return createImageBitmap(picture, { resizeWidth: size, resizeQuality: 'medium' });
  }
  const track = await new Input({ source: new BlobSource(file), formats: ALL_FORMATS }).getPrimaryVideoTrack();
  if (!track || !(await track.canDecode())) {
    throw damagedVideo();
  }
  const scale = size / Math.max(track.displayWidth, track.displayHeight);
  const [width, height] = [track.displayWidth, track.displayHeight].map((side) =>
    Math.max(1, Math.round(side * scale)),
  );
  const sink = new CanvasSink(track, { width, height, fit: 'fill' });
  const first = await sink.getCanvas(await track.getFirstTimestamp());
  if (!first) {
    throw damagedVideo();
  }
  return createImageBitmap(first.canvas);
}
