/**
 * Recipes written into video files: a readable comment where every player looks, our JSON under the name `darkroom`. What a file says
 * already stays. Pictures and sounds are not encoded anew. In a ZIP of frames the two are files beside them.
 *
 * `src/formats/media/tags.ts` reads them.
 */
import {
  BlobSource,
  BufferTarget,
  Conversion,
  EncodedPacketSink,
  EncodedVideoPacketSource,
  Input,
  MATROSKA,
  MkvOutputFormat,
  Output,
  WEBM,
  WebMOutputFormat,
} from 'mediabunny';
import type { InputVideoTrack, MetadataTags } from 'mediabunny';
import { StudioError } from '../../core/errors.ts';
import { utf8Bytes } from '../../formats/bytes.ts';
import { isMatroska } from '../../formats/media/matroska.ts';
import { DARKROOM_FILE, PARAMETERS_FILE, ZipWriter, isZip, readStoredFiles } from '../../formats/media/zip.ts';
import type { Inscription } from '../../formats/metadata.ts';
import { withMp4Texts } from './mp4.ts';
import { unwritable } from './unwritable.ts';

/** @throws StudioError `media_unreadable` */
export async function inscribeVideo(file: Blob, inscription: Inscription | null): Promise<Blob> {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (isZip(head)) {
    return inscribeFrames(file, inscription);
  }
  if (isMatroska(head)) {
    return inscribeMatroska(file, inscription);
  }
  const texts = inscription && { darkroom: inscription.darkroom, comment: inscription.parameters };
  return withMp4Texts(file, texts);
}

async function inscribeFrames(file: Blob, inscription: Inscription | null): Promise<Blob> {
  const files = readStoredFiles(new Uint8Array(await file.arrayBuffer()));
  if (files.length === 0) {
    throw unwritable();
  }
  const writer = new ZipWriter();
  for (const { name, data } of files) {
    if (name !== DARKROOM_FILE && name !== PARAMETERS_FILE) {
      writer.add(name, data);
    }
  }
  if (inscription) {
    writer.add(DARKROOM_FILE, utf8Bytes(inscription.darkroom));
    writer.add(PARAMETERS_FILE, utf8Bytes(inscription.parameters));
  }
  return writer.finish(file.type);
}

async function inscribeMatroska(file: Blob, inscription: Inscription | null): Promise<Blob> {
  const input = new Input({ source: new BlobSource(file), formats: [WEBM, MATROSKA] });
  try {
    const { mimeType } = await input.getFormat();
    const format = mimeType.includes('webm') ? new WebMOutputFormat() : new MkvOutputFormat();
    const output = new Output({ format, target: new BufferTarget() });
    const tags = (present: MetadataTags) => tagsWith(present, inscription);
    const tracks = await input.getTracks();
    const track = await input.getPrimaryVideoTrack();
    if (track && tracks.length === 1) {
      output.setMetadataTags(tags(await input.getMetadataTags()));
      await copyPackets(track, output);
    } else {
      const conversion = await Conversion.init({ input, output, tags, showWarnings: false });
      if (!conversion.isValid) {
        throw unwritable();
      }
      await conversion.execute();
    }
    return new Blob([output.target.buffer ?? new ArrayBuffer(0)], { type: file.type });
  } catch (error) {
    throw error instanceof StudioError ? error : unwritable(error);
  } finally {
    input.dispose();
  }
}

/** The last packet of such a file has no length of its own, which a conversion takes for none; frames of one rate are as long as each other. */
async function copyPackets(track: InputVideoTrack, output: Output): Promise<void> {
  const codec = await track.getCodec();
  const decoderConfig = await track.getDecoderConfig();
  if (!codec || !decoderConfig) {
    throw unwritable();
  }
  const source = new EncodedVideoPacketSource(codec);
  output.addVideoTrack(source);
  await output.start();
  let length = 0;
  for await (const packet of new EncodedPacketSink(track).packets()) {
    length = packet.duration || length;
    await source.add(packet.clone({ duration: length }), { decoderConfig });
  }
  await output.finalize();
}

function tagsWith({ raw = {} }: MetadataTags, inscription: Inscription | null): MetadataTags {
  const { DARKROOM: ours, COMMENT: comment, ...others } = raw;
  const kept = ours === undefined && comment !== undefined ? { ...others, COMMENT: comment } : others;
  return {
    raw: inscription ? { COMMENT: inscription.parameters, ...kept, DARKROOM: inscription.darkroom } : kept,
  };
}
