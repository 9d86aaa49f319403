/**
 * Checkpoints that a step uses beside its own, such as the upscaler between the two passes of hires fix. Its chunk says which of its parameters
 * may name one (`needs.further`); whether a value does, its colon tells.
 */
import type { ChunkMeta } from './chunk.ts';
import { loraName } from './loras.ts';
import type { CheckpointRef } from './model.ts';

export interface FurtherCheckpoint {
  parameter: string;
  ref: CheckpointRef;
  /** The `_class_name`s that it may be of. */
  classes: readonly string[];
}

/** Whether it is written as refs of checkpoints are. */
export const REF = /^\w+:./;

/** What a step's values name, be they parsed or not. */
export function furtherCheckpoints({ needs }: ChunkMeta, values: Record<string, unknown>): FurtherCheckpoint[] {
  return Object.entries(needs.further ?? {}).flatMap(([parameter, classes]) => {
    const ref = values[parameter];
    return typeof ref === 'string' && REF.test(ref) ? [{ parameter, ref, classes }] : [];
  });
}

/** Tells it from the step's own among a job's checkpoints; ids of steps have no slash. */
export function furtherKey(step: string, ref: CheckpointRef): string {
  return `${step}/${ref}`;
}

/** What a file or repository is called that a ref names, where nobody knows more of it. */
export function refName(ref: CheckpointRef): string {
  return loraName(ref.slice(ref.indexOf(':') + 1).replace(/[@#].*$/, ''));
}
