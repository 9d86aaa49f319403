/**
 * A sound from words with Stable Audio, from nothing or from another sound. In: prompt, seconds and settings. Out: `batch_size` sounds. Cost: one
 * run of the transformer per step and sound, two with guidance, over the model's whole length, however short the sound is.
 */
import * as v from 'valibot';
import type { ChunkMeta, Context, Outputs } from '../src/core/chunk.ts';
import { StudioError } from '../src/core/errors.ts';
import type { FieldMetadata } from '../src/core/field.ts';
import type { Latents } from '../src/core/model.ts';
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
import type { SoundForm } from '../src/core/sound_model.ts';
import { SOUNDING_STAGES, decodeSounds, shownSeconds, toldSampling } from '../src/core/sounding.ts';

export const meta = {
  id: 'output_audio_stable_audio',
  media: 'audio',
  operations: ['audio_generation'],
  needs: { gpu: true, checkpoint: ['StableAudioPipeline'] },
  stages: SOUNDING_STAGES,
  outputs: { sounds: { medium: 'audio', many: true } },
  records: ['encoded_prompt'],
} as const satisfies ChunkMeta;

const MAIN = { group: 'main' } satisfies FieldMetadata;
const SECONDS = 'seconds must be a number above 0.';
const START = 'seconds_start must be a number from 0.';

export const parameters = v.pipe(
  v.strictObject({
    operation: v.picklist(meta.operations),
    prompt: prompt('prompt'),
    /** Counts with guidance above 1; empty = guidance leads away from no words at all. */
    negative_prompt: v.optional(prompt('negative_prompt'), ''),
    /** As long as the checkpoint goes where nothing is said. */
    seconds: v.optional(
      v.pipe(
        v.number(SECONDS),
        v.finite(SECONDS),
        v.gtValue(0, SECONDS),
        v.metadata({ ...MAIN, words: 'imagined_seconds' } satisfies FieldMetadata),
      ),
    ),
    /** Where in the imagined piece the sound begins. */
    seconds_start: v.optional(v.pipe(v.number(START), v.finite(START), v.minValue(0, START)), 0),
    audio: v.optional(v.pipe(sound('audio'), v.metadata(MAIN))),
    strength: v.optional(strength()),
    steps: v.optional(steps(1, 500), 100),
    guidance_scale: v.optional(guidanceScale(), 7),
    seed: drawnSeed(),
    batch_size: v.optional(v.pipe(batchSize(), v.metadata({ words: 'sounds_at_once' } satisfies FieldMetadata)), 1),
    weights: v.optional(weights(), 'auto'),
  }),
  v.check(
    ({ audio, strength }) => audio !== undefined || strength === undefined,
    'strength counts only where an audio is given; leave it out.',
  ),
);

export async function execute(input: v.InferOutput<typeof parameters>, context: Context): Promise<Outputs> {
  const { progress, signal, notice, resume, keep } = context;
  const model = await context.models.loadSoundModel(context.checkpoint);
  const { from, until } = spanOf(input, model.form, model.summary.name);
  const start = input.audio === undefined ? undefined : await context.readSound(input.audio, model.form.rate);
  if (start && start.channels[0].length > model.form.rate * model.form.seconds) {
    notice(
      `The sound to start from is longer than the ${shownSeconds(model.form.seconds)} seconds of "${model.summary.name}"; what comes after them was left out.`,
    );
  }
  const { noiseWithMotion } = await import('../src/core/noise_sources.ts');

  progress('encode');
  const negative = input.negative_prompt === '' ? undefined : input.negative_prompt;
  const text = await model.encodeText({ ...input, negative_prompt: negative, from, until });
  let latents: Latents | undefined;
  try {
    const { tokens, texts } = text;
    sayWhatWasCut('prompt', tokens.prompt, tokens.limit, context);
    sayWhatWasCut('negative prompt', tokens.negative, tokens.limit, context);
    context.recordBeside('encoded_prompt', { prompt: texts.prompt, negative_prompt: texts.negative, tokens });
    latents = await model.sample(text, {
      ...input,
      strength: input.strength ?? 1,
      start,
      until,
      random: noiseWithMotion(input.seed),
      signal,
      resume,
      keep,
      ...toldSampling(context),
    });
    const made = latents;
    const sounds = await decodeSounds(made, context, (request) => model.decode(made, { from, until, ...request }));
    return { sounds };
  } finally {
    text.dispose();
    latents?.dispose();
  }
}

/**
 * Where the sound lies in what the checkpoint makes, in seconds.
 * @throws StudioError `invalid_operation` for one that goes beyond it, or has no sample
 */
function spanOf(
  { seconds, seconds_start: from }: v.InferOutput<typeof parameters>,
  { seconds: longest, rate }: SoundForm,
  name: string,
): { from: number; until: number } {
  const until = seconds === undefined ? longest : from + seconds;
  // Sums of decimal fractions may be a little beyond.
  if (until - longest > 1e-9 * longest || from >= longest) {
    throw new StudioError(
      'invalid_operation',
      `"${name}" makes at most ${shownSeconds(longest)} seconds of sound, and this would end at second ${shownSeconds(Math.max(until, from))}; choose fewer seconds or an earlier beginning.`,
    );
  }
  if (Math.trunc(until * rate) <= Math.trunc(from * rate)) {
    throw new StudioError(
      'invalid_operation',
      `A sound of ${seconds} seconds has no sample at ${rate} samples per second; choose more seconds.`,
    );
  }
  return { from, until };
}
