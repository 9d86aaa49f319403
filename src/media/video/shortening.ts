/** The beginning of a video as a video of its own, without encoding anything anew. */
import {
  ALL_FORMATS,
  BlobSource,
  BufferTarget,
  EncodedPacketSink,
  EncodedVideoPacketSource,
  Input,
  MkvOutputFormat,
  Mp4OutputFormat,
  Output,
  WebMOutputFormat,
} from 'mediabunny';
import type { EncodedPacket } from 'mediabunny';
import type { Video } from '../../core/video.ts';
import { utf8, utf8Bytes } from '../../formats/bytes.ts';
import { readJsonObject } from '../../formats/json.ts';
import { ZipWriter, frameName, isZip, readStoredFiles } from '../../formats/media/zip.ts';
import { ABOUT_FILE, readFrameArchive } from './frame_archive.ts';

/**
 * @param share of its frames, from 0 to 1; sound is left out
 * @returns null where not a single frame would be left
 */
export async function beginningOf(file: Blob, share: number): Promise<Video | null> {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  return isZip(head) ? firstPictures(file, share) : firstPackets(file, share);
}

async function firstPictures(file: Blob, share: number): Promise<Video | null> {
  const files = new Map(
    readStoredFiles(new Uint8Array(await file.arrayBuffer())).map(({ name, data }) => [name, data] as const),
  );
  const about = readJsonObject(utf8(files.get(ABOUT_FILE) ?? new Uint8Array()));
  const frames = Math.floor(Number(about?.frames ?? 0) * share);
  const zip = new ZipWriter();
  for (let frame = 0; frame < frames; frame++) {
    const data = files.get(frameName(frame));
    if (!data) {
      return null;
    }
    zip.add(frameName(frame), data);
  }
  zip.add(ABOUT_FILE, utf8Bytes(JSON.stringify({ ...about, frames })));
  return frames > 0 ? readFrameArchive(zip.finish(file.type)) : null;
}

async function firstPackets(file: Blob, share: number): Promise<Video | null> {
  const input = new Input({ source: new BlobSource(file), formats: ALL_FORMATS });
  try {
    const track = await input.getPrimaryVideoTrack();
    const [codec, decoderConfig] = [await track?.getCodec(), await track?.getDecoderConfig()];
    if (!track || !codec || !decoderConfig) {
      return null;
    }
    const packets: EncodedPacket[] = [];
    for await (const packet of new EncodedPacketSink(track).packets()) {
      packets.push(packet);
    }
    const frames = Math.floor(packets.length * share);
    if (frames === 0) {
      return null;
    }
    const { mimeType } = await input.getFormat();
    const format = mimeType.includes('webm')
      ? new WebMOutputFormat()
      : mimeType.includes('matroska')
        ? new MkvOutputFormat()
        : new Mp4OutputFormat({ fastStart: false });
    const output = new Output({ format, target: new BufferTarget() });
    const source = new EncodedVideoPacketSource(codec);
    output.addVideoTrack(source);
    await output.start();
    let end = 0;
    for (const packet of packets.slice(0, frames)) {
      await source.add(packet, { decoderConfig });
      end = Math.max(end, packet.timestamp + packet.duration);
    }
    await output.finalize();
    const { displayWidth: width, displayHeight: height } = track;
    const written = new Blob([output.target.buffer ?? new ArrayBuffer(0)], { type: file.type });
    return { file: written, width, height, seconds: end, frames };
  } finally {
    input.dispose();
  }
}
