/** A video as a ZIP of PNGs, where a browser encodes none. */
import type { PixelImage } from '../../core/media.ts';
import type { Video, VideoRequest, VideoWriter } from '../../core/video.ts';
import { utf8Bytes } from '../../formats/bytes.ts';
import { ZipWriter, frameName } from '../../formats/media/zip.ts';
import { encodePng } from '../../formats/picture.ts';
import { ABOUT_FILE, type FramesAbout } from './frame_archive.ts';

export class FrameArchiveWriter implements VideoWriter {
  readonly #zip = new ZipWriter();
  #frames = 0;

  constructor(
    readonly request: VideoRequest,
    readonly notice: string | null,
  ) {}

  async add(frame: PixelImage): Promise<void> {
    const picture = await encodePng(frame);
    this.#zip.add(frameName(this.#frames), new Uint8Array(await picture.arrayBuffer()));
    this.#frames += 1;
  }

  finish(): Promise<Video> {
    const { width, height, rate } = this.request;
    const about: FramesAbout = { width, height, rate, frames: this.#frames };
    this.#zip.add(ABOUT_FILE, utf8Bytes(JSON.stringify(about)));
    const file = this.#zip.finish('application/zip');
    return Promise.resolve({ file, width, height, seconds: this.#frames / rate, frames: this.#frames });
  }

  discard(): Promise<void> {
    return Promise.resolve();
  }
}
