/**
 * Recipes in sound files. A readable comment goes where every player looks, our JSON under the name `darkroom`:
 *
 * - WAV: in LIST/INFO (ICMT, and DKRM of our own), which Windows and audio editors show, and which ffmpeg carries along into other formats,
 *   entries that it does not know included; and in an `id3 ` chunk, which Mutagen, TagLib and foobar2000 read. Programs drop iXML and
 *   chunks of our own.
 * - FLAC: Vorbis comments COMMENT and DARKROOM.
 * - Ogg, M4A: written by the encoder (`codecs.ts`) under the same names.
 */
import { join, latin1, latin1Bytes, utf8, utf8Bytes, viewOf } from '../../formats/bytes.ts';
import { emptyMetadata, MAX_TEXT } from '../../formats/metadata.ts';
import type { Inscription, Metadata } from '../../formats/metadata.ts';
import { StudioError } from '../../core/errors.ts';
import { VENDOR, VORBIS_COMMENT, blocksOf, flacOf, isFlac } from './flac_blocks.ts';
import { id3Length, readId3, writeId3 } from './id3.ts';
import { chunksOf, isWav, wavOf } from './riff.ts';
import type { Chunk } from './riff.ts';
import { readVorbisComment, writeVorbisComment } from './vorbis_comment.ts';

/** Chunks of a WAV that say something about it, and nothing about how it is played. */
const ABOUT = new Set(['id3 ', 'ID3 ', 'iXML', 'bext', '_PMX', 'axml']);

/** Names of LIST/INFO have four letters. */
const INFO_DARKROOM = 'DKRM';

/** The texts to write, by name. */
export function tagsOf(inscription: Inscription): Record<'comment' | 'darkroom' | 'software', string> {
  const { parameters, darkroom, software } = inscription;
  return { comment: parameters, darkroom, software };
}

/**
 * @returns null for files of other containers, whose tags mediabunny reads (`codecs.ts`)
 * @throws StudioError `media_unreadable`
 */
export function readTags(bytes: Uint8Array<ArrayBuffer>): Metadata | null {
  if (isWav(bytes)) {
    const chunks = chunksOf(bytes);
    const id3 = chunks.find(({ id }) => id.toLowerCase() === 'id3 ');
    const info = chunks.find(isInfo);
    return metadataOf(new Map([...(info ? readInfo(info.data) : []), ...(id3 ? readId3(id3.data) : [])]));
  }
  if (isFlac(bytes.subarray(id3Length(bytes)))) {
    const comment = blocksOf(bytes).blocks.find(({ type }) => type === VORBIS_COMMENT);
    return metadataOf(comment ? readVorbisComment(comment.data) : new Map<string, string>());
  }
  return id3Length(bytes) > 0 ? metadataOf(readId3(bytes)) : null;
}

/** As tools of pictures have them: what stands in the comment is the infotext. */
export function metadataOf(texts: Map<string, string>): Metadata {
  const comment = texts.get('comment');
  // What went through ffmpeg keeps the name that it had in a WAV.
  const darkroom = texts.get('darkroom') ?? texts.get(INFO_DARKROOM.toLowerCase());
  if (darkroom !== undefined) {
    texts.set('darkroom', darkroom);
  }
  if (comment !== undefined && !texts.has('parameters')) {
    texts.set('parameters', comment);
  }
  return { ...emptyMetadata(), texts };
}

/** @throws StudioError `media_unreadable` */
export async function inscribeSound(file: Blob, inscription: Inscription | null): Promise<Blob> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const texts = inscription && tagsOf(inscription);
  if (isWav(bytes)) {
    const kept = chunksOf(bytes).filter((chunk) => !ABOUT.has(chunk.id) && !isInfo(chunk));
    const added = texts
      ? [
          { id: 'LIST', data: infoOf({ ICMT: texts.comment, ISFT: texts.software, [INFO_DARKROOM]: texts.darkroom }) },
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

/** Names as ID3's and Vorbis's; of other entries their own four characters. */
function readInfo(data: Uint8Array<ArrayBuffer>): Map<string, string> {
  const texts = new Map<string, string>();
  const view = viewOf(data);
  for (let position = 4; position + 8 <= data.length;) {
    const id = latin1(data.subarray(position, position + 4));
    const length = view.getUint32(position + 4, true);
    const content = data.subarray(position + 8, position + 8 + length);
    if (content.length === length && length <= MAX_TEXT) {
      texts.set(id === 'ICMT' ? 'comment' : id.toLowerCase(), utf8(content).replace(/\0+$/, ''));
    }
    position += 8 + length + (length % 2);
  }
  return texts;
}

/** Each ends in a zero. The specification wants some code page; everybody writes and reads UTF-8. */
function infoOf(texts: Record<string, string>): Uint8Array<ArrayBuffer> {
  const entries = Object.entries(texts).flatMap(([id, text]) => {
    const content = utf8Bytes(`${text.replaceAll('\0', '\ufffd')}\0`);
    const length = new Uint8Array(4);
    viewOf(length).setUint32(0, content.length, true);
    return [latin1Bytes(id), length, content, new Uint8Array(content.length % 2)];
  });
  return join([latin1Bytes('INFO'), ...entries]);
}
