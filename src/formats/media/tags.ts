/** Metadata of video and sound files. */
import { startsWith } from '../bytes.ts';
import { emptyMetadata, type Metadata } from '../metadata.ts';
import { ByteWindow } from './byte_window.ts';
import { readId3 } from './id3.ts';
import { isMatroska, readMatroskaTags } from './matroska.ts';
import { isMp4, readMp4Tags } from './mp4.ts';
import { id3Length, isFlac, isId3, isOgg } from '../signatures.ts';
import { readFlacTags, readOggTags } from './vorbis_comment.ts';
import { isWav, readWavTags } from './wav.ts';
import { isFrameArchive, readZipTexts } from './zip.ts';

/** Long enough for the name of a ZIP's first file. */
const HEAD = 64;
/** Cover art is in the same tag as the texts. */
const MAX_ID3 = 2 ** 25;

/**
 * Reads the tags of MP4, MOV, M4A, WebM, Matroska, ZIPs of frames, FLAC, Ogg, Opus, MP3 and WAV without loading the rest of the file.
 * @returns texts by lower-case name; null for other kinds of files
 * @throws StudioError `image_unreadable` if the file contradicts itself
 */
export async function readMediaMetadata(source: Blob | Uint8Array<ArrayBuffer>): Promise<Metadata | null> {
  const file = new ByteWindow(source, 'video or sound');
  const head = (await file.read(0, HEAD)).slice();
  const texts = await textsOf(file, head);
  return texts && { ...emptyMetadata(), texts };
}

async function textsOf(file: ByteWindow, head: Uint8Array): Promise<Map<string, string> | null> {
  if (isMp4(head)) {
    return readMp4Tags(file);
  }
  if (isMatroska(head)) {
    return readMatroskaTags(file);
  }
  if (isFlac(head)) {
    return readFlacTags(file);
  }
  if (isOgg(head)) {
    return readOggTags(file);
  }
  if (isWav(head)) {
    return readWavTags(file);
  }
  if (isFrameArchive(head)) {
    return readZipTexts(file);
  }
  return isId3(head) && head.length >= 10 ? readId3File(file, id3Length(head)) : null;
}

/** MP3, or a FLAC file behind such a tag. */
async function readId3File(file: ByteWindow, length: number): Promise<Map<string, string>> {
  const texts = length > MAX_ID3 ? new Map<string, string>() : readId3(await file.read(0, length));
  const after = (await file.read(length, 4)).slice();
  return startsWith(after, Uint8Array.of(0x66, 0x4c, 0x61, 0x43))
    ? new Map([...(await readFlacTags(file, length)), ...texts])
    : texts;
}
