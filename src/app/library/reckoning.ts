import { estimateRequest } from '../../core/fit.ts';
import type { CheckpointSummary, EstimateRequest } from '../../core/model.ts';
import { parseOperation } from '../../core/operation.ts';
import { checkpointStep } from '../../core/plan.ts';
import { courseOf, fieldsOf } from '../../core/steps.ts';
import { catalogue } from '../../pipelines/catalogue.ts';
import { configFor, planFor } from '../studio/catalogue.ts';

/** What a checkpoint is reckoned with before anybody asks it for something. */
export interface Reckoning {
  config: string;
  /** Null where what it makes neither samples nor works in tiles. */
  request: EstimateRequest | null;
}

/**
 * With the checkpoint's own steps and guidance.
 * @param size of the pictures, in pixels
 * @returns null where no config makes anything with such a checkpoint
 */
export function reckoningWith(
  summary: CheckpointSummary,
  { width, height }: { width: number; height: number },
): Reckoning | null {
  const way = wayWith(summary);
  if (!way) {
    return null;
  }
  const operation = parseOperation({
    operation: way.operation,
    config: way.config,
    checkpoint: summary.ref,
    parameters: { prompt: '', ...(way.hasSize && { width, height }) },
  });
  const planned = planFor(operation, summary, null);
  const step = planned.ok ? checkpointStep(planned.plan) : undefined;
  return { config: way.config, request: step ? estimateRequest(step, summary) : null };
}

/** The config of the form of pictures, else one that takes any checkpoint of this family; null where there is none. */
function wayWith(summary: CheckpointSummary): { config: string; operation: string; hasSize: boolean } | null {
  const painting = configFor(summary);
  if (painting) {
    return { config: painting.id, operation: 'image_generation', hasSize: true };
  }
  for (const config of Object.values(catalogue.configs)) {
    const course = courseOf(config, catalogue);
    const classes = typeof course === 'string' ? undefined : course.main.chunk.meta.needs.checkpoint;
    if (typeof course !== 'string' && config.checkpoint === null && classes?.includes(summary.pipelineClass)) {
      return { config: config.id, operation: course.operations[0], hasSize: fieldsOf(course).has('width') };
    }
  }
  return null;
}
