/** What the folders hold, as far as the page needs it: names, metas and schemas, never the code that runs a model. */
import type * as v from 'valibot';
import type { ChunkContract, ChunkMeta } from '../core/chunk.ts';
import type { DeviceReport } from '../core/job.ts';
import type { CheckpointSummary } from '../core/model.ts';
import type { Operation } from '../core/operation.ts';
import type { Catalogue, Config, Pipeline, PlanResult } from '../core/plan.ts';
import { plan } from '../core/plan.ts';
import * as registry from '../samplers/registry.ts';
import type { Suggestions } from './form.svelte.ts';

export interface Choice {
  id: string;
  label: string;
}

export const samplers = choices(Object.keys(registry.samplers));
export const schedules = choices(Object.keys(registry.schedules));

const metas = import.meta.glob<ChunkMeta>('/chunks/*.ts', { eager: true, import: 'meta' });
const schemas = import.meta.glob<v.GenericSchema>('/chunks/*.ts', { eager: true, import: 'parameters' });
const configs = import.meta.glob<Omit<Config, 'id'>>('../configs/*.json', { eager: true, import: 'default' });
const pipelines = import.meta.glob<Pipeline>('../pipelines/*.json', { eager: true, import: 'default' });

const catalogue: Catalogue = {
  pipelines: Object.fromEntries(Object.values(pipelines).map((pipeline) => [pipeline.name, pipeline])),
  configs: Object.fromEntries(
    Object.entries(configs).map(([path, config]): [string, Config] => {
      const id = path.replace(/^.*\//, '').replace(/\.json$/, '');
      return [id, { ...config, id }];
    }),
  ),
  chunks: Object.fromEntries(
    Object.entries(metas).map(([path, meta]): [string, ChunkContract] => [
      meta.id,
      { meta, parameters: schemas[path] },
    ]),
  ),
};

/** The config that makes pictures with this checkpoint, with what it suggests; null when none can. */
export function configFor(checkpoint: CheckpointSummary): { id: string; suggestions: Suggestions } | null {
  for (const id of Object.keys(catalogue.configs)) {
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
      return { id, suggestions: suggestions(checkpoint, result.plan.chunks.at(-1)?.parameters ?? {}) };
    }
  }
  return null;
}

export function planFor(operation: Operation, checkpoint: CheckpointSummary, device: DeviceReport | null): PlanResult {
  return plan(operation, catalogue, checkpoint, device);
}

function suggestions(checkpoint: CheckpointSummary, planned: Record<string, unknown>): Suggestions {
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
  };
}

function choices(ids: string[]): Choice[] {
  return ids.map((id) => ({ id, label: readable(id) })).sort((a, b) => a.label.localeCompare(b.label));
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
