/** What a stored job needs, even if the catalogue changed since it was submitted. */
import type { Operation } from '../core/operation.ts';
import { requirementsOf } from '../core/plan.ts';
import type { Requirements } from '../core/plan.ts';
import { catalogue } from '../pipelines/catalogue.ts';

/** A job whose config no longer exists runs like any other; planning it reports the problem. */
export function needsOf(operation: Operation): Requirements {
  try {
    return requirementsOf(operation, catalogue);
  } catch {
    const { checkpoint } = operation;
    return {
      gpu: true,
      refs: checkpoint === null ? [] : [checkpoint],
      lacking: checkpoint === null ? [] : null,
      graphs: true,
      languageSteps: [],
      engines: [],
      standsBy: false,
    };
  }
}
