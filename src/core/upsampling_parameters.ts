/** The parameters of a video's second pass at twice the sides. */
import * as v from 'valibot';
import type { FieldMetadata } from './field.ts';
import { REF } from './further_checkpoints.ts';
import { integer, real } from './parameters.ts';
import { problemOfTimes, timesteps } from './video_parameters.ts';

/** Sides are doubled; the rest as in the authors' example. */
export const UPSAMPLING = { factor: 2, strength: 0.4, steps: 10 } as const;

export interface Upsampling {
  /** The ref of the network that doubles the sides between the passes; absent = there is one pass. */
  latent_upsampler?: string | undefined;
  upsampled_strength?: number | undefined;
  upsampled_steps?: number | undefined;
  upsampled_timesteps?: number[] | undefined;
  adain_factor?: number | undefined;
  tone_map_compression_ratio?: number | undefined;
}

const PROBLEM =
  'latent_upsampler must be the ref of a stored latent upsampler, such as import:ltxv-spatial-upscaler-0.9.8.';

export const upsamplingEntries = () => ({
  latent_upsampler: v.optional(
    v.pipe(
      v.string(PROBLEM),
      v.regex(REF, PROBLEM),
      v.metadata({
        control: 'latent_upsampler',
        label: { en: 'Second pass', de: 'Zweiter Durchgang' },
        help: {
          en: 'A latent upsampler of LTX-Video doubles the width and height of what the first pass made, and it is sampled again from there.',
          de: 'Ein Latent-Upsampler von LTX-Video verdoppelt Breite und Höhe dessen, was der erste Durchgang gemacht hat; von dort wird noch einmal gesampelt.',
        },
      } satisfies FieldMetadata),
    ),
  ),
  upsampled_strength: v.optional(
    v.pipe(
      real('upsampled_strength', 0, 1),
      v.metadata({
        with: 'latent_upsampler',
        label: { en: 'Strength of the second pass', de: 'Stärke des zweiten Durchgangs' },
        help: {
          en: 'How much of the steps of the second pass is run; 0 leaves the video as it was enlarged.',
          de: 'Welcher Anteil der Schritte des zweiten Durchgangs läuft; bei 0 bleibt das Video, wie es vergrößert wurde.',
        },
      } satisfies FieldMetadata),
    ),
  ),
  upsampled_steps: v.optional(
    v.pipe(
      integer('upsampled_steps', 2, 150),
      v.metadata({
        with: 'latent_upsampler',
        label: { en: 'Steps of the second pass', de: 'Schritte des zweiten Durchgangs' },
      } satisfies FieldMetadata),
    ),
  ),
  upsampled_timesteps: v.optional(
    v.pipe(
      timesteps('upsampled_timesteps'),
      v.metadata({
        with: 'latent_upsampler',
        label: { en: 'Timesteps of the second pass', de: 'Zeitschritte des zweiten Durchgangs' },
      } satisfies FieldMetadata),
    ),
  ),
  adain_factor: v.optional(
    v.pipe(
      real('adain_factor', 0, 1),
      v.metadata({
        with: 'latent_upsampler',
        label: { en: 'Contrast as in the first pass', de: 'Kontrast wie im ersten Durchgang' },
        help: {
          en: 'How far each channel gets back the mean and spread that it had before it was enlarged (AdaIN).',
          de: 'Wie weit jeder Kanal Mittel und Streuung zurückbekommt, die er vor dem Vergrößern hatte (AdaIN).',
        },
      } satisfies FieldMetadata),
    ),
  ),
  tone_map_compression_ratio: v.optional(
    v.pipe(
      real('tone_map_compression_ratio', 0, 1),
      v.metadata({
        with: 'latent_upsampler',
        label: { en: 'Tone mapping', de: 'Tonwertkompression' },
        help: {
          en: 'How far large values are made smaller before the second pass, against glaring colours.',
          de: 'Wie weit große Werte vor dem zweiten Durchgang verkleinert werden, gegen grelle Farben.',
        },
      } satisfies FieldMetadata),
    ),
  ),
});

/** Steps of the second pass, of which the share that its strength says is run. */
export function stepsAgain({ upsampled_steps: steps, upsampled_timesteps: times }: Upsampling): number {
  return steps ?? times?.length ?? UPSAMPLING.steps;
}

interface Sampled {
  sampler?: string | undefined;
  schedule?: string | undefined;
}

/** For `v.check`, with {@link upsamplingProblem} as its message. */
export const isWholeUpsampling = (input: Upsampling & Sampled): boolean => problemOf(input) === null;

export const upsamplingProblem = ({ input }: { input: Upsampling & Sampled }): string => problemOf(input) ?? '';

function problemOf(input: Upsampling & Sampled): string | null {
  const { latent_upsampler: upsampler, adain_factor, tone_map_compression_ratio, upsampled_strength } = input;
  const { upsampled_steps, upsampled_timesteps, sampler, schedule } = input;
  const others = { adain_factor, tone_map_compression_ratio, upsampled_strength, upsampled_steps, upsampled_timesteps };
  const first = Object.entries(others).find(([, value]) => value !== undefined);
  if (upsampler === undefined && first !== undefined) {
    return `${first[0]} counts only in a second pass; name a latent_upsampler, or leave it out.`;
  }
  const again = { steps: stepsAgain(input), timesteps: upsampled_timesteps, sampler, schedule };
  return problemOfTimes(again, 'upsampled_');
}
