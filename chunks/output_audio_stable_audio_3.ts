/**
 * A sound from words with Stable Audio 3, or from another sound, of which the whole is varied or a part is made anew. In: prompt, seconds and settings.
 * Out: `batch_size` sounds. Cost: one run of the transformer per step and sound, two with guidance, over as many latents as the sound has.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import type { Sound } from '../src/core/media.ts';
import type { Conditioning, Latents } from '../src/core/model.ts';
import { noiseSource } from '../src/core/noise_sources.ts';
import { sayWhatWasCut } from '../src/core/painting.ts';
import {
  batchSize,
  drawnSeed,
  guidanceScale,
  prompt,
  sound,
  steps,
  strength,
  weights,
} from '../src/core/parameters.ts';
import type { SoundModel } from '../src/core/sound_model.ts';
import { SOUNDING_STAGES, decodeSounds, shownSeconds, toldSampling } from '../src/core/sounding.ts';

export const meta = {
  id: 'output_audio_stable_audio_3',
  media: 'audio',
  operations: ['audio_generation'],
  needs: {
    gpu: true,
    checkpoint: ['StableAudio3Pipeline', 'StableAudio3AudioToAudioPipeline', 'StableAudio3InpaintPipeline'],
  },
  stages: SOUNDING_STAGES,
  outputs: { sounds: { medium: 'audio', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

const MAIN = { group: 'main' } satisfies FieldMetadata;
const USUAL_SECONDS = 10;
/** As in the reference's example; at 1 nothing would be left of the sound. */
const USUAL_STRENGTH = 0.6;
/** Where neither somebody nor the checkpoint says more. */
const USUAL = { steps: 8, guidance_scale: 1 };
const SECONDS = 'seconds must be a number above 0.';
const START = 'repaint_start must be a number from 0.';
const END = 'repaint_end must be a number above 0.';

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Counts with guidance above 1. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    /** As long as the given sound where nothing is said, and ten without one. */
    seconds: v.optional(
      v.pipe(
        v.number(SECONDS),
        v.finite(SECONDS),
        v.gtValue(0, SECONDS),
        v.metadata({ ...MAIN, words: 'sound_seconds' } satisfies FieldMetadata),
      ),
    ),
    audio: v.optional(v.pipe(sound('audio'), v.metadata(MAIN))),
    strength: v.optional(v.pipe(strength(), v.metadata({ words: 'sound_strength' } satisfies FieldMetadata))),
    /** In seconds; either of them says that the rest of the audio stays. Absent = from the beginning, and to the end. */
    repaint_start: v.optional(
      v.pipe(
        v.number(START),
        v.finite(START),
        v.minValue(0, START),
        v.metadata({ ...MAIN, words: 'sound_repaint_start' } satisfies FieldMetadata),
      ),
    ),
    repaint_end: v.optional(
      v.pipe(
        v.number(END),
        v.finite(END),
        v.gtValue(0, END),
        v.metadata({ ...MAIN, words: 'sound_repaint_end' } satisfies FieldMetadata),
      ),
    ),
    /** What suits the checkpoint where nothing is said: 8 for a distilled one, 100 for others. */
    steps: v.optional(steps(1, 500)),
    /** A distilled checkpoint does without. */
    guidance_scale: v.optional(guidanceScale()),
    seed: drawnSeed(),
    batch_size: v.optional(v.pipe(batchSize(), v.metadata({ words: 'sounds_at_once' } satisfies FieldMetadata)), 1),
    weights: v.optional(weights(), 'auto'),
  }),
  v.check(
    ({ audio, strength }) => audio !== undefined || strength === undefined,
    'strength counts only where an audio is given; leave it out.',
  ),
  v.check(
    ({ audio, repaint_start: start, repaint_end: end }) =>
      audio !== undefined || (start === undefined && end === undefined),
    'repaint_start and repaint_end count only where an audio is given; leave them out.',
  ),
  v.check(
    ({ strength, repaint_start: start, repaint_end: end }) =>
      strength === undefined || (start === undefined && end === undefined),
    'strength is for the whole audio, and repaint_start and repaint_end make a part of it anew; give one or the other.',
  ),
  v.check(
    ({ repaint_start: start = 0, repaint_end: end = Infinity }) => start < end,
    'repaint_start must lie before repaint_end.',
  ),
);

type Input = v.InferOutput<typeof parameters>;

export async function execute(input: Input, context: Context): Promise<Outputs> {
  const { progress, signal, notice, resume, keep } = context;
  const model = await context.models.loadSoundModel(context.checkpoint);
  const { form, summary } = model;
  const usual = { ...USUAL, ...summary.defaults };
  const { steps: count = usual.steps, guidance_scale: scale = usual.guidance_scale } = input;
  const start = input.audio === undefined ? undefined : await context.readSound(input.audio, form.rate);
  const until = secondsOf(input, start, model);
  if (start && lengthOf(start) > until) {
    notice(
      `The sound to start from is longer than the ${shownSeconds(until)} seconds that are made; what comes after them was left out.`,
    );
  }
  const anew = partOf(input, until);
  if (start && anew && lengthOf(start) < until && (lengthOf(start) < anew.from || anew.until < until)) {
    notice(
      `The given sound ends at second ${shownSeconds(lengthOf(start))}; what comes after that and is not made anew has nothing to follow.`,
    );
  }

  progress('encode');
  const negative = input.negative_prompt === '' ? undefined : input.negative_prompt;
  const span = { from: 0, until };
  let text: Conditioning | undefined;
  let latents: Latents | undefined;
  try {
    text = await model.encodeText({ ...input, ...span, guidance_scale: scale, negative_prompt: negative });
    const { tokens, texts } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    await context.record('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    latents = await model.sample(text, {
      ...input,
      until,
      start,
      anew,
      steps: count,
      guidance_scale: scale,
      strength: input.strength ?? USUAL_STRENGTH,
      random: noiseSource(input),
      signal,
      resume,
      keep,
      ...toldSampling(context),
    });
    const made = latents;
    const sounds = await decodeSounds(made, context, (request) => model.decode(made, { ...span, ...request }));
    return { sounds };
  } finally {
    text?.dispose();
    latents?.dispose();
  }
}

function lengthOf({ channels, rate }: Sound): number {
  return channels[0].length / rate;
}

/** @throws StudioError `invalid_operation` for a sound beyond the model, and one that has no sample */
function secondsOf({ seconds }: Input, start: Sound | undefined, { form, summary }: SoundModel): number {
  const { seconds: longest, rate } = form;
  const wanted = seconds ?? (start ? lengthOf(start) : Math.min(USUAL_SECONDS, longest));
  // Sums of decimal fractions may be a little beyond.
  if (wanted - longest > 1e-9 * longest) {
    throw new StudioError(
      'invalid_operation',
      `"${summary.name}" makes at most ${shownSeconds(longest)} seconds of sound, and this would be ${shownSeconds(wanted)}; choose fewer seconds.`,
    );
  }
  if (Math.trunc(wanted * rate) < 1) {
    throw new StudioError(
      'invalid_operation',
      `A sound of ${wanted} seconds has no sample at ${rate} samples per second; choose more seconds.`,
    );
  }
  return wanted;
}

/** @throws StudioError `invalid_operation` for a part that lies behind the sound */
function partOf({ repaint_start, repaint_end }: Input, until: number): { from: number; until: number } | undefined {
  if (repaint_start === undefined && repaint_end === undefined) {
    return undefined;
  }
  const from = repaint_start ?? 0;
  if (from >= until) {
    throw new StudioError(
      'invalid_operation',
      `The sound that is made is ${shownSeconds(until)} seconds long, so nothing of it lies after second ${shownSeconds(from)}; choose an earlier repaint_start, or more seconds.`,
    );
  }
  return { from, until: repaint_end ?? until };
}
