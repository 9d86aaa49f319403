/**
 * Recipes written into sound files: a readable comment where every player looks, our JSON under the name `darkroom`.
 *
 * - WAV: in LIST/INFO (ICMT, and DKRM of our own), which Windows and audio editors show, and which ffmpeg carries along into FLAC, MP3 and
 *   Ogg, entries that it does not know included; and in an `id3 ` chunk, which Mutagen, TagLib and foobar2000 read. Programs drop iXML and
 *   chunks of our own.
 * - FLAC: Vorbis comments COMMENT and DARKROOM.
 * - Ogg, M4A: written by the encoder (`codecs.ts`) under the same names.
 *
 * `src/formats/media/tags.ts` reads all of them.
 */
import { join, latin1, latin1Bytes, utf8Bytes, viewOf } from '../../formats/bytes.ts';
import { isFlac, isWav } from '../../formats/signatures.ts';
import type { Inscription } from '../../formats/metadata.ts';
import { StudioError } from '../../core/errors.ts';
import { VENDOR, VORBIS_COMMENT, blocksOf, flacOf } from './flac_blocks.ts';
import { writeId3 } from './id3.ts';
import { chunksOf, wavOf } from './riff.ts';
import type { Chunk } from './riff.ts';
import { writeVorbisComment } from './vorbis_comment.ts';

/** Chunks of a WAV that say something about it, and nothing about how it is played. */
const ABOUT = new Set(['id3 ', 'ID3 ', 'iXML', 'bext', '_PMX', 'axml']);

/** The texts to write, by name. */
export function tagsOf(inscription: Inscription): Record<'comment' | 'darkroom' | 'software', string> {
  const { parameters, darkroom, software } = inscription;
  return { comment: parameters, darkroom, software };
}

/** @throws StudioError `media_unreadable` */
export async function inscribeSound(file: Blob, inscription: Inscription | null): Promise<Blob> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const texts = inscription && tagsOf(inscription);
  if (isWav(bytes)) {
    const kept = chunksOf(bytes).filter((chunk) => !ABOUT.has(chunk.id) && !isInfo(chunk));
    const added = texts
      ? [
          { id: 'LIST', data: infoOf({ ICMT: texts.comment, ISFT: texts.software, DKRM: texts.darkroom }) },
          { id: 'id3 ', data: writeId3(texts) },
        ]
      : [];
    return new Blob(wavOf([...kept, ...added]), { type: file.type });
  }
  if (isFlac(bytes)) {
    const { blocks, sound } = blocksOf(bytes);
    const kept = blocks.filter(({ type }) => type !== VORBIS_COMMENT);
    const comment = { type: VORBIS_COMMENT, data: writeVorbisComment(VENDOR, texts ?? {}) };
    return new Blob([flacOf([kept[0], comment, ...kept.slice(1)]), sound], { type: file.type });
  }
  throw new StudioError('media_unreadable', 'Settings can be written only into WAV and FLAC files as they stand.');
}

function isInfo({ id, data }: Chunk): boolean {
  return id === 'LIST' && latin1(data.subarray(0, 4)) === 'INFO';
}

/** Each is zero-terminated. The specification wants some code page, but everybody reads and writes UTF-8. */
function infoOf(texts: Record<string, string>): Uint8Array<ArrayBuffer> {
  const entries = Object.entries(texts).flatMap(([id, text]) => {
    const content = utf8Bytes(`${text.replaceAll('\0', '\ufffd')}\0`);
    const length = new Uint8Array(4);
    viewOf(length).setUint32(0, content.length, true);
    return [latin1Bytes(id), length, content, new Uint8Array(content.length % 2)];
  });
  return join([latin1Bytes('INFO'), ...entries]);
}
