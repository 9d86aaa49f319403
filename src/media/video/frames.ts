/** The frames of a recorded video one by one, for whoever steps through it or keeps one of them as a picture. */
import { ALL_FORMATS, BlobSource, CanvasSink, Input } from 'mediabunny';
import { frameName, isFrameArchive, readStoredFiles } from '../../formats/media/zip.ts';
import { damagedVideo } from './damaged_video.ts';
import { readFrameArchive } from './frame_archive.ts';

export interface VideoFrames {
  count: number;
  /** Frames per second. */
  rate: number;
  /** The frame with this number, counted from 0, as PNG. @throws StudioError `media_unreadable` */
  at(frame: number): Promise<Blob>;
}

/** Where the name of an archive's first file ends. */
const HEAD = 64;

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
  return {
    count: about.frames,
    rate: about.frames / about.seconds,
    at: (frame) => {
      const found = files.find(({ name }) => name === frameName(frame));
      return found ? Promise.resolve(new Blob([found.data], { type: 'image/png' })) : Promise.reject(damagedVideo());
    },
  };
}

async function encodedFrames(file: Blob): Promise<VideoFrames> {
  const track = await new Input({ source: new BlobSource(file), formats: ALL_FORMATS }).getPrimaryVideoTrack();
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
    async at(frame) {
      const found = await sink.getCanvas(first + (frame + 0.5) / rate);
      if (!found) {
        throw damagedVideo();
      }
      const { displayWidth: width, displayHeight: height } = track;
      const canvas = new OffscreenCanvas(width, height);
      canvas.getContext('2d')?.drawImage(found.canvas, 0, 0);
      return canvas.convertToBlob({ type: 'image/png' });
    },
  };
}
