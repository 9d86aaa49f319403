/** What the folders hold, as the page shows it. */
import type { DeviceReport } from '../../core/job.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import type { Operation } from '../../core/operation.ts';
import type { Config } from '../../core/catalogue.ts';
import { checkpointStep, plan } from '../../core/plan.ts';
import type { PlanResult } from '../../core/plan.ts';
import { courseOf, entriesOf, fieldsOf } from '../../core/steps.ts';
import type { Course, Step } from '../../core/steps.ts';
import { catalogue } from '../../pipelines/catalogue.ts';
import { ofLanguage, t } from '../messages/messages.svelte.ts';
import { predictionOf } from './chosen.ts';
import type { Suggestions } from './form.svelte.ts';

/** What the form of pictures sets, whatever it is filled in with; a config that does not know all of it has a form of its own. */
const PAINTING_FIELDS = [
  'prompt',
  'negative_prompt',
  'width',
  'height',
  'steps',
  'guidance_scale',
  'seed',
  'batch_size',
] as const;

/**
 * Whether the form of pictures, which follows the checkpoint, says all that a config of these steps needs. It gives no pictures to work
 * from.
 */
export function paints(course: Course): boolean {
  const fields = fieldsOf(course);
  const isSaid = PAINTING_FIELDS.every((name) => fields.has(name)) && !('images' in entriesOf(course.main.chunk));
  return course.main.chunk.meta.needs.checkpoint !== undefined && isSaid;
}

/** What people call the checkpoints that a config of these steps runs: the name of the config that brings none of its own. */
export function familyOf({ main: { chunk } }: Course): string {
  const own = Object.values(catalogue.configs).find(
    ({ checkpoint, parameters }) => checkpoint === null && parameters.OUTPUT_CHUNK === chunk.meta.id,
  );
  return own ? configName(own.name) : chunk.meta.id;
}

/** Whether a config's pictures are painted from words that other steps give. */
export function rewritesWords(config: string): boolean {
  const course = Object.hasOwn(catalogue.configs, config) ? courseOf(catalogue.configs[config], catalogue) : '';
  return typeof course !== 'string' && before(course).length > 0 && paints(course);
}

/** The steps that the words of a picture go through first. */
export function before({ steps, main }: Course): Step[] {
  return steps.slice(0, steps.indexOf(main));
}

/** The config that makes pictures from the form of pictures with this checkpoint, with what it suggests; null when none can. */
export function configFor(checkpoint: CheckpointSummary): { id: string; suggestions: Suggestions } | null {
  for (const { id } of inOrder(checkpoint)) {
    const result = planFor(
      {
        operation: 'image_generation',
        config: id,
        parameters: { prompt: '' },
        priority: 'normal',
        checkpoint: checkpoint.ref,
        record: [],
      },
      checkpoint,
      null,
    );
    if (result.ok) {
      const step = checkpointStep(result.plan);
      const { operations = [] } = step ? catalogue.chunks[step.chunk].meta : {};
      const outpaints = operations.includes('image_outpaint');
      return { id, suggestions: { ...suggestions(checkpoint, step?.parameters ?? {}), outpaints } };
    }
  }
  return null;
}

/**
 * Those configs first that bring this very checkpoint, then those that take any of its family, those with fewer steps first; never one that
 * brings another.
 */
function inOrder({ ref, pipelineClass }: CheckpointSummary): Config[] {
  const configs = Object.values(catalogue.configs)
    .flatMap((config) => {
      const course = courseOf(config, catalogue);
      return typeof course === 'string' ? [] : [{ config, course }];
    })
    .filter(({ course }) => {
      return paints(course) && course.main.chunk.meta.needs.checkpoint?.includes(pipelineClass);
    })
    .sort((a, b) => before(a.course).length - before(b.course).length)
    .map(({ config }) => config);
  return [
    ...configs.filter(({ checkpoint }) => checkpoint && ref.startsWith(`hub:${checkpoint.repo}@`)),
    ...configs.filter(({ checkpoint }) => checkpoint === null),
  ];
}

export function planFor(
  operation: Operation,
  checkpoint: CheckpointSummary | null,
  device: DeviceReport | null,
): PlanResult {
  const { checkpoints = {} } = operation;
  const isOther = (step: string) => Object.hasOwn(checkpoints, step) && checkpoints[step] !== checkpoint?.ref;
  const summaries = (step: string, further?: string) =>
    further !== undefined || isOther(step) ? undefined : checkpoint;
  return plan(operation, catalogue, summaries, device);
}

/** What a stage of a job is called, as its chunk says; null for one that no chunk declares. */
export function stageLabel(configId: string, step: string | null, stage: string): string | null {
  const config = Object.hasOwn(catalogue.configs, configId) ? catalogue.configs[configId] : null;
  const course = config && courseOf(config, catalogue);
  const steps = course === null || typeof course === 'string' ? [] : course.steps;
  const stages = steps.find(({ id }) => id === step)?.chunk.meta.stages ?? [];
  const label = stages.find(({ id }) => id === stage)?.label;
  return label ? ofLanguage(label) : null;
}

/**
 * An operation that goes on after a step of another one, to its end.
 * @param written what its steps gave, up to that one, as the person edited it
 */
export function continued(operation: Operation, step: string, written: Readonly<Record<string, string>>): Operation {
  const course = courseOf(catalogue.configs[operation.config], catalogue);
  const steps = typeof course === 'string' ? [] : course.steps;
  const done = steps.slice(0, steps.findIndex(({ id }) => id === step) + 1).filter(({ id }) => id in written);
  const given = done.map(({ id, chunk }) => [id, { [Object.keys(chunk.meta.outputs)[0]]: written[id] }] as const);
  const rest = Object.fromEntries(Object.entries(operation).filter(([name]) => name !== 'until')) as Operation;
  return { ...rest, given: { ...operation.given, ...Object.fromEntries(given) } };
}

/** A config's name; English where it has no other one. */
export function configName(name: Readonly<Record<string, string>>): string {
  return ofLanguage({ en: name.en ?? '', de: name.de ?? name.en ?? '' });
}

/** What a step of a pipeline is called, for a heading. */
export function stepName(step: string): string {
  const known: Readonly<Record<string, () => string>> = {
    interception: () => t('Rewritten'),
    translation: () => t('Translated'),
    output: () => t('Made'),
    upscale: () => t('Upscaled'),
  };
  return known[step]?.() ?? readable(step);
}

function suggestions(checkpoint: CheckpointSummary, planned: Record<string, unknown>): Omit<Suggestions, 'outpaints'> {
  const number = (name: string, otherwise: number) => (typeof planned[name] === 'number' ? planned[name] : otherwise);
  const { width, height, sampler, schedule } = checkpoint.defaults;
  return {
    prompts: checkpoint.prompts,
    width,
    height,
    steps: number('steps', 25),
    guidance: number('guidance_scale', 7.5),
    sampler,
    schedule,
    prediction: predictionOf(checkpoint.defaults) || (checkpoint.defaults.prediction_type ?? ''),
    takesSizes: checkpoint.takesSizes === true,
    upscale: checkpoint.defaults.upscale ?? 1,
    multiple: checkpoint.multiple ?? 8,
    samplers: checkpoint.samplers ?? null,
  };
}

/** `dpmpp_2m` → "DPM++ 2M", `euler_ancestral` → "Euler ancestral", `ddim` → "DDIM". */
export function readable(id: string): string {
  const words = id.split('_').map((word) => {
    if (word === 'dpmpp') {
      return 'DPM++';
    }
    const isAbbreviation = /\d/.test(word) || !/[aeiou]/.test(word) || word === 'ddim' || word === 'deis';
    return isAbbreviation ? word.toUpperCase() : word;
  });
  const text = words.join(' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}
