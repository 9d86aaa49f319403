/** What the folders hold, as the page shows it. */
import type { DeviceReport } from '../core/job.ts';
import type { CheckpointSummary } from '../core/model.ts';
import type { Operation } from '../core/operation.ts';
import type { CatalogueCheckpoint, Config, PlanResult } from '../core/plan.ts';
import { plan } from '../core/plan.ts';
import { catalogue, offers as allOffers } from '../pipelines/catalogue.ts';
import * as registry from '../samplers/registry.ts';
import type { Suggestions } from './form.svelte.ts';

export interface Choice {
  id: string;
  label: string;
}

export const samplers = choices(Object.keys(registry.samplers));
export const schedules = choices(Object.keys(registry.schedules));

export interface Offer {
  /** Of the config that brings it, or of the language model. */
  id: string;
  name: string;
  checkpoint: Omit<CatalogueCheckpoint, 'recommended'>;
}

/** Checkpoints that can be had, the most permissive licences first. */
export const offers: Offer[] = allOffers.map((offer) => ({ ...offer, name: offer.name.en }));

/** The config that makes pictures with this checkpoint, with what it suggests; null when none can. */
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
      return { id, suggestions: suggestions(checkpoint, result.plan.chunks.at(-1)?.parameters ?? {}) };
    }
  }
  return null;
}

/** Those configs first that bring this very checkpoint, then those that take any; never one that brings another. */
function inOrder({ ref }: CheckpointSummary): Config[] {
  const configs = Object.values(catalogue.configs);
  return [
    ...configs.filter(({ checkpoint }) => checkpoint && ref.startsWith(`hub:${checkpoint.repo}@`)),
    ...configs.filter(({ checkpoint }) => checkpoint === null),
  ];
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
