/** Frames become a video file as they come, by the browser's own encoders; loaded when one is written. */
import {
  BufferTarget,
  Mp4OutputFormat,
  Output,
  QUALITY_HIGH,
  VideoSample,
  VideoSampleSource,
  WebMOutputFormat,
  canEncodeVideo,
} from 'mediabunny';
import type { OutputFormat, VideoCodec } from 'mediabunny';
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { Video, VideoRequest, VideoWriter } from '../../core/video.ts';
import { FrameArchiveWriter } from './frame_archive_writer.ts';

interface Container {
  label: string;
  mime: string;
  /** In the order in which they are preferred. */
  codecs: readonly VideoCodec[];
  make: () => OutputFormat;
}

const CONTAINERS: Record<'mp4' | 'webm', Container> = {
  mp4: {
    label: 'MP4 (H.264)',
    mime: 'video/mp4',
    codecs: ['avc'],
    // Its table of contents comes last, where the recipe is added without moving anything.
    make: () => new Mp4OutputFormat({ fastStart: false }),
  },
  webm: {
    label: 'WebM (VP9 or AV1)',
    mime: 'video/webm',
    codecs: ['vp9', 'av1', 'vp8'],
    make: () => new WebMOutputFormat(),
  },
};

/** @throws StudioError `invalid_operation` for a format that this browser has no encoder for */
export async function openVideoWriter(request: VideoRequest): Promise<VideoWriter> {
  const { format } = request;
  if (format === 'zip') {
    return new FrameArchiveWriter(request, null);
  }
  const names = format === 'auto' ? (['mp4', 'webm'] as const) : [format];
  for (const name of names) {
    const codec = await codecOf(CONTAINERS[name], request);
    if (codec) {
      return EncodedVideo.open(CONTAINERS[name], codec, request);
    }
  }
  if (format === 'auto') {
    return new FrameArchiveWriter(
      request,
      'This browser encodes no videos, so the frames are kept as pictures in a ZIP; ffmpeg or another browser makes a video of them.',
    );
  }
  throw new StudioError(
    'invalid_operation',
    `This browser has no encoder for ${CONTAINERS[format].label} of ${request.width}×${request.height} pixels; choose auto, which takes one that it has.`,
  );
}

/** The first codec that this browser encodes at this size; null where it has none, or no WebCodecs at all. */
async function codecOf({ codecs }: Container, { width, height }: VideoRequest): Promise<VideoCodec | null> {
  if (!('VideoEncoder' in globalThis)) {
    return null;
  }
  for (const codec of codecs) {
    if (await canEncodeVideo(codec, { width, height, quality: QUALITY_HIGH })) {
      return codec;
    }
  }
  return null;
}

class EncodedVideo implements VideoWriter {
  readonly notice = null;
  #frames = 0;

  private constructor(
    readonly container: Container,
    readonly request: VideoRequest,
    readonly output: Output<OutputFormat, BufferTarget>,
    readonly source: VideoSampleSource,
  ) {}

  static async open(container: Container, codec: VideoCodec, request: VideoRequest): Promise<EncodedVideo> {
    const output = new Output({ format: container.make(), target: new BufferTarget() });
    const source = new VideoSampleSource({ codec, quality: QUALITY_HIGH });
    output.addVideoTrack(source, { frameRate: request.rate });
    await output.start();
    return new EncodedVideo(container, request, output, source);
  }

  async add({ width, height, data }: PixelImage): Promise<void> {
    const { rate } = this.request;
    const sample = new VideoSample(data, {
      format: 'RGBX',
      codedWidth: width,
      codedHeight: height,
      timestamp: this.#frames / rate,
      duration: 1 / rate,
    });
    try {
      await this.source.add(sample);
    } catch (cause) {
      throw failed(cause);
    } finally {
      sample.close();
    }
    this.#frames += 1;
  }

  async finish(): Promise<Video> {
    try {
      await this.output.finalize();
    } catch (cause) {
      throw failed(cause);
    }
    const { width, height, rate } = this.request;
    const file = new Blob([this.output.target.buffer ?? new ArrayBuffer(0)], { type: this.container.mime });
    return { file, width, height, seconds: this.#frames / rate, frames: this.#frames };
  }

  discard(): Promise<void> {
    return this.output.cancel();
  }
}

function failed(cause: unknown): StudioError {
  return new StudioError(
    'result_invalid',
    'The browser could not encode the video; try again in another format, or as a ZIP of its frames.',
    { cause },
  );
}
