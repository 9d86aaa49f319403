/** The parameters that chunks which make videos have in common. */
import * as v from 'valibot';
import type { FieldMetadata } from './field.ts';
import { image, real } from './parameters.ts';
import { VIDEO_FORMATS } from './video.ts';

/** In pixels. */
const [SMALLEST, LARGEST] = [16, 2048];

/**
 * Size, rate and format.
 * @param multiple of which the sides are, in pixels
 * @param rate frames per second where nobody says otherwise
 */
export const videoEntries = ({ multiple, rate }: { multiple: number; rate: number }) => ({
  width: v.optional(side('width', multiple)),
  height: v.optional(side('height', multiple)),
  rate: v.optional(
    v.pipe(
      real('rate', 1, 60),
      v.metadata({
        label: { en: 'Frames per second', de: 'Bilder pro Sekunde' },
        slider: { min: 4, max: 30, step: 1 },
        group: 'main',
      } satisfies FieldMetadata),
    ),
    rate,
  ),
  format: v.optional(
    v.pipe(
      v.picklist(VIDEO_FORMATS, 'format must be auto, mp4, webm or zip.'),
      v.metadata({
        label: { en: 'Written as', de: 'Geschrieben als' },
        choices: {
          auto: { en: 'Automatic', de: 'Automatisch' },
          mp4: { en: 'MP4', de: 'MP4' },
          webm: { en: 'WebM', de: 'WebM' },
          zip: { en: 'ZIP of pictures', de: 'ZIP aus Bildern' },
        },
      } satisfies FieldMetadata),
    ),
    'auto',
  ),
});

/**
 * How many frames there are, where each of the latents but the first stands for some.
 * @param piece that number
 * @param most and
 * @param usual are 1 more than a multiple of it
 * @param slider ends
 */
export function framesEntry(piece: number, most: number, usual: number, slider: { min: number; max: number }) {
  const nearest = (frames: number) => Math.min(most, Math.max(1, Math.round((frames - 1) / piece) * piece + 1));
  const problem = ({ input }: { input: unknown }) => {
    const rule = `frames must be 1 more than a multiple of ${piece}, from 1 to ${most}`;
    return typeof input === 'number' && Number.isFinite(input)
      ? `${rule}; the nearest is ${nearest(input)}.`
      : `${rule}.`;
  };
  return v.optional(
    v.pipe(
      v.number(problem),
      v.check((frames) => frames === nearest(frames), problem),
      v.metadata({
        label: { en: 'Frames', de: 'Bilder' },
        slider: { ...slider, step: piece },
        group: 'main',
      } satisfies FieldMetadata),
    ),
    usual,
  );
}

/** The picture that a video begins with, of checkpoints that are made for that. */
export const firstImage = () => v.pipe(image('image'), v.metadata({ takenAs: 'firstFrame' } satisfies FieldMetadata));

/** The picture that a video ends with, of checkpoints that are made for that. */
export const lastImage = () =>
  v.pipe(
    image('last_image'),
    v.metadata({
      label: { en: 'Last picture', de: 'Letztes Bild' },
      takenAs: 'lastFrame',
    } satisfies FieldMetadata),
  );

/** What checkpoints that begin with a picture may be given, beside words. */
export const BACKGROUND_PROBLEM = 'background counts only where an image is given; leave it out.';

function side(name: string, multiple: number) {
  const message = ({ input }: { input: unknown }) => {
    const sentence = `${name} must be a multiple of ${multiple} from ${SMALLEST} to ${LARGEST} pixels`;
    return typeof input === 'number' && Number.isFinite(input)
      ? `${sentence}; the nearest is ${nearest(input, multiple)}.`
      : `${sentence}.`;
  };
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(SMALLEST, message),
    v.maxValue(LARGEST, message),
    v.multipleOf(multiple, message),
  );
}

function nearest(value: number, multiple: number): number {
  return Math.min(LARGEST, Math.max(SMALLEST, Math.round(value / multiple) * multiple));
}

/** Timesteps of training, the noisiest. */
const NOISIEST = 1000;
const MOST_STEPS = 150;

/** The timesteps that a distilled checkpoint was trained with, in place of a schedule. */
export const timesteps = (name = 'timesteps') => {
  const message = `${name} must be numbers that fall, from ${NOISIEST} at most to above 0, such as [1000, 750, 500, 250].`;
  return v.pipe(
    v.array(v.number(message), message),
    v.minLength(1, message),
    v.maxLength(MOST_STEPS, message),
    v.check(
      (all) => all.every((one, n) => one > 0 && one <= (n === 0 ? NOISIEST : all[n - 1]) && one !== all[n - 1]),
      message,
    ),
    v.metadata({
      label: { en: 'Timesteps', de: 'Zeitschritte' },
      help: {
        en: 'For distilled checkpoints: the time at which each step begins, from 1000, noise, down towards 0. As many as there are steps.',
        de: 'Für destillierte Checkpoints: die Zeit, zu der jeder Schritt beginnt, von 1000, Rauschen, abwärts gegen 0. So viele, wie es Schritte gibt.',
      },
    } satisfies FieldMetadata),
  );
};

interface Timed {
  steps: number;
  timesteps?: readonly number[] | undefined;
  sampler?: string | undefined;
  schedule?: string | undefined;
}

/** Whether there are as many timesteps as steps, and nothing else places these. For `v.check`, with {@link timestepsProblem} as its message. */
export const hasItsTimesteps = (input: Timed): boolean => problemOfTimes(input) === null;

export const timestepsProblem = ({ input }: { input: Timed }): string => problemOfTimes(input) ?? '';

/** What is wrong with timesteps. @param prefix of the names of theirs and of the steps */
export function problemOfTimes({ steps, timesteps: times, sampler, schedule }: Timed, prefix = ''): string | null {
  if (times === undefined) {
    return null;
  }
  if (schedule !== undefined || (sampler !== undefined && sampler !== 'euler')) {
    return `${prefix}timesteps go with the sampler euler and with no schedule; leave them out, or sampler and schedule.`;
  }
  return times.length === steps
    ? null
    : `${prefix}timesteps has ${times.length} values, so ${prefix}steps must be ${times.length}, not ${steps}; change one of them.`;
}
