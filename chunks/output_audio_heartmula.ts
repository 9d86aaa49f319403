/**
 * A song from lyrics and tags with HeartMuLa, which writes it frame by frame. In: lyrics, tags and settings. Out: one song. Cost: a run of the
 * backbone and eight of the decoder for each of 12.5 frames a second, a run of the backbone for each token that is read, and then the codec.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import { drawnSeed, integer, phased, prompt, real, steps, weights } from '../src/core/parameters.ts';
import type { Sound } from '../src/core/media.ts';
import type { WrittenSong } from '../src/core/song_model.ts';
import { SOUNDING_STAGES, sayWithoutSections, shownSeconds } from '../src/core/sounding.ts';

const [ENCODE, SAMPLE, DECODE] = SOUNDING_STAGES;

export const meta = {
  id: 'output_audio_heartmula',
  media: 'audio',
  operations: ['audio_generation'],
  needs: { gpu: true, checkpoint: ['HeartMuLaGenPipeline'] },
  stages: [{ ...ENCODE, unit: 'tokens' }, { ...SAMPLE, unit: 'frames' }, DECODE],
  outputs: { sounds: { medium: 'audio', many: true } },
  records: [],
} as const satisfies ChunkMeta;

const MAIN = { group: 'main' } satisfies FieldMetadata;
const SECONDS = 'seconds must be a number above 0.';

export const parameters = v.strictObject({
  operation: v.picklist(meta.operations),
  /** With sections such as [verse] and [chorus]; in lower case for the model, whatever is written. */
  lyrics: v.pipe(
    prompt('lyrics'),
    v.metadata({
      words: 'sectioned_lyrics',
      control: 'lyrics',
      placeholder: { en: '[verse]\n…\n\n[chorus]\n…', de: '[verse]\n…\n\n[chorus]\n…' },
    } satisfies FieldMetadata),
  ),
  tags: v.pipe(
    prompt('tags'),
    v.metadata({
      words: 'music_tags',
      placeholder: { en: 'piano, happy, wedding', de: 'piano, happy, wedding' },
    } satisfies FieldMetadata),
  ),
  /** At most; the model may end a song before. */
  seconds: v.optional(
    v.pipe(
      v.number(SECONDS),
      v.finite(SECONDS),
      v.gtValue(0, SECONDS),
      v.metadata({ ...MAIN, words: 'song_seconds' } satisfies FieldMetadata),
    ),
    60,
  ),
  /** 1 = none, which halves the work. */
  guidance_scale: v.optional(real('guidance_scale', 1, 20), 1.5),
  temperature: v.optional(v.pipe(real('temperature', 0.05, 5), v.metadata({ words: 'song_temperature' })), 1),
  top_k: v.optional(v.pipe(integer('top_k', 1, 8192), v.metadata({ words: 'song_top_k' })), 50),
  /** Of the codec. */
  steps: v.optional(v.pipe(steps(1, 100), v.metadata({ words: 'codec_steps' } satisfies FieldMetadata)), 10),
  seed: drawnSeed(),
  phased: v.optional(phased()),
  weights: v.optional(weights(), 'auto'),
});

type Input = v.InferOutput<typeof parameters>;

export async function execute(input: Input, context: Context): Promise<Outputs> {
  const { progress, signal, resume, keep, keepPart, notice } = context;
  const model = await context.models.loadSongModel(context.checkpoint);
  const { seconds } = input;
  if (seconds > model.form.seconds) {
    throw new StudioError(
      'invalid_operation',
      `"${model.summary.name}" makes at most ${shownSeconds(model.form.seconds)} seconds of music, and this would be ${shownSeconds(seconds)}; choose fewer seconds.`,
    );
  }
  sayWithoutSections(input.lyrics, context);
  progress('encode');
  let finished: (() => Sound) | null = null;
  /** Frames, while it is written: what is decoded meanwhile is no progress of its own. */
  let writing: readonly [done: number, most: number] | null = null;
  const playing = model.play({
    ...input,
    signal,
    onPart(done, parts, sofar) {
      finished = sofar;
      if (writing) {
        progress('sample', ...writing);
      } else {
        progress('decode', done, parts);
      }
    },
    onSound(from, { rate, channels }) {
      context.sound({ from, rate, channels });
    },
  });
  try {
    const song = await model.write({
      ...input,
      signal,
      resume,
      keep,
      onRead(done, tokens) {
        progress('encode', done, tokens);
      },
      async onFrame(done, most, sofar) {
        progress('sample', done, most);
        writing = [done, most];
        await playing.advance(sofar);
      },
    });
    writing = null;
    await recordCodes(song, context);
    const written = song.values.length / song.codes / model.framesPerSecond;
    if (written < seconds) {
      notice(`The model ended the song after ${shownSeconds(written)} seconds.`);
    }
    progress('decode');
    return { sounds: [await playing.finish(song)] };
  } catch (thrown) {
    const part = signal.aborted ? (finished as (() => Sound) | null)?.() : undefined;
    if (part && part.channels[0].length > 0) {
      // Cancelled half way it is a shorter song.
      await keepPart('sounds', part);
    }
    throw thrown;
  }
}

/** The song in the model's own signs, [codes, frames], as the reference has it. */
async function recordCodes({ codes, values }: WrittenSong, { wants, recordTensors }: Context): Promise<void> {
  if (!wants('latents')) {
    return;
  }
  const frames = values.length / codes;
  const data = Float32Array.from(values, (_, at) => values[(at % frames) * codes + Math.floor(at / frames)]);
  await recordTensors('latents', { tokens: { dims: [codes, frames], data } });
}
