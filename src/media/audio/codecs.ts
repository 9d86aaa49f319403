/**
 * The browser's own encoders and decoders, through mediabunny; loaded when such a file is saved or opened. The available codecs depend on
 * the browser: Opus everywhere, AAC if the system has it, and MP3 encoding nowhere.
 */
import {
  ADTS,
  AudioSample,
  AudioSampleSink,
  AudioSampleSource,
  BlobSource,
  BufferTarget,
  FLAC,
  Input,
  MATROSKA,
  MP3,
  MP4,
  Mp4OutputFormat,
  OGG,
  OggOutputFormat,
  Output,
  QTFF,
  QUALITY_HIGH,
  WAVE,
  WEBM,
  canEncodeAudio,
} from 'mediabunny';
import type { AudioCodec, OutputFormat } from 'mediabunny';
import { StudioError } from '../../core/errors.ts';
import type { Sound } from '../../core/media.ts';
import type { Inscription } from '../../formats/metadata.ts';
import { damagedSound } from './riff.ts';
import { tagsOf } from './tags.ts';

/** Containers of the sounds on people's disks. */
const CONTAINERS = [WAVE, FLAC, MP3, OGG, MP4, QTFF, WEBM, MATROSKA, ADTS];
/** Frames per chunk passed to an encoder. */
const PIECE = 1 << 14;
/** Sample rate of Opus; browsers refuse others. */
const OPUS_RATE = 48_000;

export type Encoding = 'opus' | 'aac';

const ENCODINGS: Record<Encoding, { codec: AudioCodec; mime: string; format: () => OutputFormat }> = {
  opus: { codec: 'opus', mime: 'audio/ogg', format: () => new OggOutputFormat() },
  // Custom tags beside the usual ones, in the way ffmpeg reads and writes them.
  aac: {
    codec: 'aac',
    mime: 'audio/mp4',
    format: () => new Mp4OutputFormat({ fastStart: 'in-memory', metadataFormat: 'mdta' }),
  },
};

/** The formats this browser can encode. */
export async function encodings(): Promise<Encoding[]> {
  const known = Object.entries(ENCODINGS) as [Encoding, { codec: AudioCodec }][];
  const able = await Promise.all(known.map(([, { codec }]) => canEncodeAudio(codec, { quality: QUALITY_HIGH })));
  return known.filter((_, index) => able[index]).map(([id]) => id);
}

/**
 * Lossy, but hardly audibly.
 * @throws StudioError `media_unreadable` if the browser cannot encode it after all, for example because of too many channels
 */
export async function encodeSound(sound: Sound, encoding: Encoding, inscription: Inscription | null): Promise<Blob> {
  const { codec, mime, format } = ENCODINGS[encoding];
  const { rate, channels } = sound;
  const target = new BufferTarget();
  const output = new Output({ format: format(), target });
  const source = new AudioSampleSource({
    codec,
    quality: QUALITY_HIGH,
    ...(codec === 'opus' && rate !== OPUS_RATE ? { transform: { sampleRate: OPUS_RATE } } : {}),
  });
  try {
    output.addAudioTrack(source);
    if (inscription) {
      const { comment, darkroom, software } = tagsOf(inscription);
      output.setMetadataTags(
        encoding === 'opus'
          ? { comment, raw: { DARKROOM: darkroom, ENCODER: software } }
          : { comment, raw: { darkroom, encoder: software } },
      );
    }
    await output.start();
    const frames = channels[0].length;
    for (let start = 0; start < frames; start += PIECE) {
      const end = Math.min(frames, start + PIECE);
      const data = new Float32Array((end - start) * channels.length);
      channels.forEach((plane, channel) => {
        data.set(plane.subarray(start, end), channel * (end - start));
      });
      const sample = new AudioSample({
        data,
        format: 'f32-planar',
        numberOfChannels: channels.length,
        sampleRate: rate,
        timestamp: start / rate,
      });
      await source.add(sample);
      sample.close();
    }
    await output.finalize();
  } catch (cause) {
    throw new StudioError(
      'media_unreadable',
      'This browser cannot write the sound in this format; save it as WAV or FLAC.',
      { cause },
    );
  }
  return new Blob([target.buffer ?? new ArrayBuffer(0)], { type: mime });
}

/**
 * Decodes any file whose sound this browser supports: FLAC, MP3, Ogg, M4A, WebM …
 * @throws StudioError `media_unreadable`
 */
export async function decodeSound(file: Blob): Promise<Sound> {
  const input = new Input({ source: new BlobSource(file), formats: CONTAINERS });
  try {
    const track = await input.getPrimaryAudioTrack();
    if (!track) {
      throw damagedSound('there is no sound in it');
    }
    if (await track.canDecode()) {
      return await decodedBy(new AudioSampleSink(track));
    }
    return await decodedByPage(file, await track.getSampleRate());
  } catch (cause) {
    throw cause instanceof StudioError ? cause : notDecoded(cause);
  } finally {
    input.dispose();
  }
}

async function decodedBy(sink: AudioSampleSink): Promise<Sound> {
  let rate = 0;
  const pieces: Float32Array<ArrayBuffer>[][] = [];
  for await (const sample of sink.samples()) {
    const { numberOfChannels, numberOfFrames, timestamp } = sample;
    rate ||= sample.sampleRate;
    // An encoder's priming samples have negative times.
    const lead = Math.min(numberOfFrames, Math.max(0, Math.round(-timestamp * sample.sampleRate)));
    const planes = Array.from({ length: numberOfChannels }, (_, planeIndex) => {
      const plane = new Float32Array(numberOfFrames);
      sample.copyTo(plane, { planeIndex, format: 'f32-planar' });
      return plane.subarray(lead);
    });
    pieces.push(planes);
    sample.close();
  }
  if (pieces.length === 0) {
    throw damagedSound('there are no samples in it');
  }
  return {
    rate,
    channels: pieces[0].map((_, channel) => joined(pieces.map((planes) => planes[channel] ?? planes[0]))),
  };
}

function joined(planes: Float32Array<ArrayBuffer>[]): Float32Array<ArrayBuffer> {
  const whole = new Float32Array(planes.reduce((sum, { length }) => sum + length, 0));
  let position = 0;
  for (const plane of planes) {
    whole.set(plane, position);
    position += plane.length;
  }
  return whole;
}

interface OfflineContext {
  decodeAudioData(bytes: ArrayBuffer): Promise<{
    sampleRate: number;
    numberOfChannels: number;
    getChannelData(channel: number): Float32Array<ArrayBuffer>;
  }>;
}

/** If WebCodecs lacks a codec, the page's audio decoder may have it; workers have none. */
async function decodedByPage(file: Blob, rate: number): Promise<Sound> {
  const { OfflineAudioContext } = globalThis as {
    OfflineAudioContext?: new (channels: number, length: number, rate: number) => OfflineContext;
  };
  if (!OfflineAudioContext) {
    throw notDecoded(null);
  }
  const decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, channel) => decoded.getChannelData(channel));
  return { rate: decoded.sampleRate, channels };
}

function notDecoded(cause: unknown): StudioError {
  return new StudioError(
    'media_unreadable',
    'This sound cannot be read here: it is damaged, or in a form that this browser does not decode; convert it to WAV or FLAC.',
    { cause },
  );
}
