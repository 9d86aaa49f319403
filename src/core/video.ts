/** Videos as values go from step to step, and how chunks write them. */
import type { PixelImage } from './media.ts';

/** A video as it is passed between steps: its file, since all its frames are never held at once. */
export interface Video {
  file: Blob;
  width: number;
  height: number;
  /** Seconds of the whole video, by its frames if it has no sound. */
  seconds: number;
  /** Absent where they were not counted. */
  frames?: number;
}

/** `auto` is MP4 where the browser encodes it, else WebM, else `zip`: a PNG for each frame. */
export const VIDEO_FORMATS = ['auto', 'mp4', 'webm', 'zip'] as const;
export type VideoFormat = (typeof VIDEO_FORMATS)[number];

export interface VideoRequest {
  /** In pixels, even numbers. */
  width: number;
  height: number;
  /** Frames per second. */
  rate: number;
  format: VideoFormat;
}

/** Takes the frames of one video in order; what it holds of them is their encoded form. */
export interface VideoWriter {
  /** Why it is not the format that was to be expected, as a sentence; null = it is. */
  readonly notice: string | null;
  /** Resolves when the next frame may come. @throws StudioError `result_invalid` where the encoder fails */
  add(frame: PixelImage): Promise<void>;
  /** The video of the frames so far, at least one. */
  finish(): Promise<Video>;
  /** Frees the encoder of a video that nobody wants. */
  discard(): Promise<void>;
}
