/** What can vary in a plot of the form's pictures. */
import { BUILTIN_CHECKPOINTS, BUILTIN_UPSCALER, UPSCALER } from '../../core/builtin_checkpoints.ts';
import { OWN_VAE, parseValues, type AxisKind, type PlotAxis } from '../../core/plots.ts';
import { StudioError } from '../../core/errors.ts';
import { t } from '../messages/messages.svelte.ts';
import { guidanceMethods, hiresUpscalers, samplers, schedules, type Choice } from './sampling.ts';
import type { Studio } from './studio.svelte.ts';

export interface AxisChoice {
  parameter: string;
  kind: AxisKind;
  label: string;
  /** How its values are written. */
  example: string;
  /** All that there are; null for numbers and words. */
  choices: readonly Choice[] | null;
}

export function axisChoices({ form, loras, picture, opened, library }: Studio): AxisChoice[] {
  const number = (parameter: string, kind: 'integer' | 'real', label: string, example: string): AxisChoice => {
    return { parameter, kind, label, example, choices: null };
  };
  const one = (parameter: string, label: string, choices: readonly Choice[]): AxisChoice => {
    return {
      parameter,
      kind: 'choice',
      label,
      example: choices
        .map(({ id }) => id)
        .slice(0, 3)
        .join(', '),
      choices,
    };
  };
  const stored = (kind: string) =>
    library.additions
      .filter(({ ref, state }) => ref.startsWith(`${kind}:`) && state === 'complete')
      .map(({ ref, name }) => ({ id: ref, label: name }));
  const checkpoints = [
    ...BUILTIN_CHECKPOINTS.map(({ id, name }) => ({ id: `builtin:${id}`, label: name })),
    ...library.checkpoints
      .filter(({ state }) => state === 'complete')
      .map(({ ref, name }) => ({ id: ref, label: name })),
  ];
  const vaes = stored('vae');
  const usable = samplers.filter(({ id }) => form.takes(id));
  return [
    number('steps', 'integer', t('Steps'), '10, 20, 30-50 (+10)'),
    number('guidance_scale', 'real', t('Guidance'), '1-10 [5]'),
    number('seed', 'integer', t('Seed'), '1-4'),
    {
      parameter: 'prompt',
      kind: 'replace',
      label: t('Words in the prompt'),
      example: t('cat, dog, fox'),
      choices: null,
    },
    ...(usable.length > 1 ? [one('sampler', t('Sampler'), usable)] : []),
    one('schedule', t('Schedule'), schedules),
    ...(form.isFlow ? [] : [one('checkpoint', t('Checkpoint'), checkpoints)]),
    ...(opened.checkpoint?.takesVae === true && vaes.length > 0
      ? [one('vae', t('Autoencoder (VAE)'), [{ id: OWN_VAE, label: t("The checkpoint's own") }, ...vaes])]
      : []),
    ...(opened.checkpoint?.takesLoras
      ? loras.used.map(({ ref, name }) =>
          number(`lora:${ref}`, 'real', t('Weight of {lora}', { lora: name }), '0-1 (+0.25)'),
        )
      : []),
    ...(picture.loaded ? [number('strength', 'real', t('Strength'), '0.2-1 (+0.2)')] : []),
    ...(form.isFlow
      ? []
      : [
          number('clip_skip', 'integer', t('Clip skip'), '1, 2'),
          number('guidance_rescale', 'real', t('Rescaled guidance'), '0-1 [3]'),
          one('guidance_method', t('Kind of guidance'), guidanceMethods()),
        ]),
    ...(!form.isFlow && !picture.loaded && form.hiresScale.value > 1
      ? [
          number('hires_denoising_strength', 'real', t('Strength of the second pass'), '0.3-0.7 (+0.2)'),
          one('hires_upscaler', t('Enlarged between the passes'), [
            ...hiresUpscalers(),
            { id: UPSCALER, label: BUILTIN_UPSCALER.name },
          ]),
        ]
      : []),
  ];
}

/** @throws StudioError `invalid_operation` for values that are none */
export function axisOf({ parameter, kind, label, choices }: AxisChoice, text: string): PlotAxis | null {
  const typed = parseValues(text, kind);
  const values = choices ? typed.map((word) => idOf(word, choices)) : typed;
  return values.length > 0 ? { parameter, kind, label, values } : null;
}

/** By its id or its label, however it is spelled. */
function idOf(word: string, choices: readonly Choice[]): string {
  const plain = (text: string) => text.toLowerCase().replaceAll(/[\s_-]/g, '');
  const found = choices.find(({ id, label }) => plain(id) === plain(word) || plain(label) === plain(word));
  if (!found) {
    throw new StudioError(
      'invalid_operation',
      `There is no "${word}" to choose here; fill in all of them to see which there are.`,
    );
  }
  return found.id;
}
