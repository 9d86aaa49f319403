/**
 * A song from words and lyrics with ACE-Step 1.5, or from another sound: one part of it made anew, or all of it in another style. In: prompt,
 * lyrics, facts about the music and settings. Out: `batch_size` songs. Cost: one run of the transformer per step and song, two with guidance, and one
 * more for a cover that follows the sound in part.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import type { Latents } from '../src/core/model.ts';
import { MUSIC_TASKS, type MusicConditioning, type MusicModel } from '../src/core/music_model.ts';
import { sayWhatWasCut } from '../src/core/painting.ts';
import {
  batchSize,
  drawnSeed,
  guidanceScale,
  integer,
  prompt,
  real,
  sound,
  steps,
  weights,
} from '../src/core/parameters.ts';
import { SOUNDING_STAGES, decodeSounds, sayWithoutSections, shownSeconds, toldSampling } from '../src/core/sounding.ts';

export const meta = {
  id: 'output_audio_ace_step',
  media: 'audio',
  operations: ['audio_generation'],
  needs: { gpu: true, checkpoint: ['AceStepPipeline'] },
  stages: SOUNDING_STAGES,
  outputs: { sounds: { medium: 'audio', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

const MAIN = { group: 'main' } satisfies FieldMetadata;
const USUAL_SECONDS = 60;
/** Used where neither the operation nor the checkpoint says. */
const USUAL = { steps: 8, guidance_scale: 7 };
const SECONDS = 'seconds must be a number above 0.';
const SHIFT = 'shift must be a number above 0 and up to 10.';
const START = 'repaint_start must be a number from 0.';
const END = 'repaint_end must be a number above 0.';
const LANGUAGE = 'vocal_language must be the code of a language, such as en.';

const text = (name: string) => v.string(`${name} must be text.`);

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: v.pipe(prompt('prompt'), v.metadata({ words: 'music_prompt' } satisfies FieldMetadata)),
    /** With sections such as [verse] and [chorus]; empty = nobody sings. */
    lyrics: v.optional(
      v.pipe(
        text('lyrics'),
        v.metadata({
          words: 'sectioned_lyrics',
          control: 'lyrics',
          placeholder: { en: '[verse]\n…\n\n[chorus]\n…', de: '[verse]\n…\n\n[chorus]\n…' },
        } satisfies FieldMetadata),
      ),
      '',
    ),
    /** A minute by default. */
    seconds: v.optional(
      v.pipe(
        v.number(SECONDS),
        v.finite(SECONDS),
        v.gtValue(0, SECONDS),
        v.metadata({ ...MAIN, words: 'music_seconds' }),
      ),
    ),
    vocal_language: v.optional(
      v.pipe(text('vocal_language'), v.regex(/^[a-z]{2,8}$/, LANGUAGE), v.metadata(MAIN)),
      'en',
    ),
    bpm: v.optional(
      v.pipe(
        integer('bpm', 1, 400),
        v.metadata({ ...MAIN, slider: { min: 40, max: 220, step: 1 } } satisfies FieldMetadata),
      ),
    ),
    keyscale: v.optional(
      v.pipe(
        text('keyscale'),
        v.metadata({ ...MAIN, placeholder: { en: 'such as C major', de: 'etwa C major' } } satisfies FieldMetadata),
      ),
    ),
    timesignature: v.optional(
      v.pipe(
        v.picklist(['2', '3', '4', '6'], 'timesignature must be 2, 3, 4 or 6, the beats of a bar.'),
        v.metadata({
          choices: {
            '2': { en: '2/4', de: '2/4' },
            '3': { en: '3/4', de: '3/4' },
            '4': { en: '4/4', de: '4/4' },
            '6': { en: '6/8', de: '6/8' },
          },
        } satisfies FieldMetadata),
      ),
    ),
    /** What to do with `audio`. */
    task: v.optional(
      v.pipe(
        v.picklist(MUSIC_TASKS, 'task must be text2music, repaint or cover.'),
        v.metadata({
          words: 'music_task',
          choices: {
            text2music: { en: 'A new song', de: 'Ein neues Lied' },
            repaint: { en: 'A part of the sound anew', de: 'Einen Teil des Klangs neu' },
            cover: { en: 'The sound in another style', de: 'Den Klang in anderem Stil' },
          },
        } satisfies FieldMetadata),
      ),
      'text2music',
    ),
    audio: v.optional(v.pipe(sound('audio'), v.metadata({ words: 'music_source' } satisfies FieldMetadata))),
    /** In seconds; absent = from the beginning, and to the end. */
    repaint_start: v.optional(v.pipe(v.number(START), v.finite(START), v.minValue(0, START))),
    repaint_end: v.optional(v.pipe(v.number(END), v.finite(END), v.gtValue(0, END))),
    cover_strength: v.optional(real('cover_strength', 0, 1)),
    /** A sound whose timbre the voices and instruments take on. */
    reference_audio: v.optional(sound('reference_audio')),
    /** By default what suits the checkpoint: 8 for a distilled one, 50 for others. The same goes for the guidance. */
    steps: v.optional(steps(1, 200)),
    /** Has an effect above 1, and only on checkpoints that are not distilled. */
    guidance_scale: v.optional(guidanceScale()),
    shift: v.optional(v.pipe(v.number(SHIFT), v.gtValue(0, SHIFT), v.maxValue(10, SHIFT)), 3),
    seed: drawnSeed(),
    batch_size: v.optional(v.pipe(batchSize(), v.metadata({ words: 'sounds_at_once' } satisfies FieldMetadata)), 1),
    weights: v.optional(weights(), 'auto'),
  }),
  v.check(
    ({ task, audio }) => (task === 'text2music') === (audio === undefined),
    'task repaint or cover and an audio count only together; give both, or neither.',
  ),
  v.check(
    ({ audio, seconds }) => audio === undefined || seconds === undefined,
    'seconds counts only without an audio, as the song is as long as the given sound; leave it out.',
  ),
  v.check(
    ({ task, repaint_start: start, repaint_end: end }) =>
      task === 'repaint' || (start === undefined && end === undefined),
    'repaint_start and repaint_end count only where task is repaint; leave them out.',
  ),
  v.check(
    ({ repaint_start: start = 0, repaint_end: end = Infinity }) => start < end,
    'repaint_start must lie before repaint_end.',
  ),
  v.check(
    ({ task, cover_strength }) => task === 'cover' || cover_strength === undefined,
    'cover_strength counts only where task is cover; leave it out.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

export async function execute(input: Input, context: Context): Promise<Outputs> {
  const { progress, signal, notice, resume, keep } = context;
  const { task, cover_strength = 1 } = input;
  const model = await context.models.loadMusicModel(context.checkpoint);
  const { rate } = model.form;
  const usual = { ...USUAL, ...model.summary.defaults };
  const { steps: count = usual.steps, guidance_scale: scale = usual.guidance_scale } = input;
  requireTask(task, model);
  const source = input.audio === undefined ? undefined : await context.readSound(input.audio, rate);
  const voice = input.reference_audio === undefined ? undefined : await context.readSound(input.reference_audio, rate);
  const seconds = source ? source.channels[0].length / rate : (input.seconds ?? usualSeconds(model));
  requireLength(seconds, input, model);
  sayWithoutSections(input.lyrics, context);
  if (scale > 1 && model.summary.ignores?.includes('guidance_scale')) {
    notice(
      `"${model.summary.name}" was taught to do without guidance, so a guidance_scale of ${scale} changed nothing.`,
    );
  }
  const { noiseSource } = await import('../src/core/noise_sources.ts');
  const random = noiseSource(input);

  progress('encode');
  // In the order in which the reference draws: of the sound, of the timbre, then the noise to start from.
  const given = source && (await model.encodeSound(source, { random, signal }));
  const timbre = voice && (await model.encodeTimbre(voice, { random, signal }));
  let text: MusicConditioning | undefined;
  let latents: Latents | undefined;
  try {
    text = await model.encodeText({ ...input, guidance_scale: scale, seconds, cover_strength, timbre });
    const { tokens, texts, lyrics } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('text of the lyrics', lyrics.tokens, lyrics.limit, context);
    context.recordBeside('encoded_prompt', { prompt: texts.prompt, tokens, lyrics });
    latents = await model.sample(text, {
      ...input,
      steps: count,
      guidance_scale: scale,
      cover_strength,
      seconds,
      source: given,
      random,
      signal,
      resume,
      keep,
      ...toldSampling(context),
    });
    const made = latents;
    const sounds = await decodeSounds(made, context, (request) => model.decode(made, request));
    return { sounds };
  } finally {
    text?.dispose();
    latents?.dispose();
  }
}

function usualSeconds({ form }: MusicModel): number {
  return Math.min(USUAL_SECONDS, form.seconds);
}

/** @throws StudioError `invalid_operation` */
function requireTask(task: Input['task'], { tasks, summary }: MusicModel): void {
  if (!tasks.includes(task)) {
    throw new StudioError(
      'invalid_operation',
      `"${summary.name}" lacks the networks that covers are made with (audio_tokenizer and audio_token_detokenizer); choose another task, or another checkpoint.`,
    );
  }
}

/** @throws StudioError `invalid_operation` for a song beyond the model, and a part that lies behind the sound */
function requireLength(
  seconds: number,
  { repaint_start: start = 0, audio }: Input,
  { form, summary }: MusicModel,
): void {
  // Sums of decimal fractions may come out slightly too large.
  if (seconds - form.seconds > 1e-9 * form.seconds) {
    throw new StudioError(
      'invalid_operation',
      `"${summary.name}" makes at most ${shownSeconds(form.seconds)} seconds of music, and this would be ${shownSeconds(seconds)}; choose ${audio === undefined ? 'fewer seconds' : 'a shorter sound'}.`,
    );
  }
  if (start >= seconds) {
    throw new StudioError(
      'invalid_operation',
      `The given sound is ${shownSeconds(seconds)} seconds long, so nothing of it lies after second ${shownSeconds(start)}; choose an earlier repaint_start.`,
    );
  }
}
