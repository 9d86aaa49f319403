/** What a stored job waits for and runs on, whatever became of the catalogue since it was submitted. */
import type { Operation } from '../core/operation.ts';
import { requirementsOf } from '../core/plan.ts';
import type { Requirements } from '../core/plan.ts';
import { catalogue } from '../pipelines/catalogue.ts';

/** One of a config that is gone runs like any other: whoever plans it says what is wrong. */
export function needsOf(operation: Operation): Requirements {
  try {
    return requirementsOf(operation, catalogue);
  } catch {
    const { checkpoint } = operation;
    return {
      gpu: true,
      refs: checkpoint === null ? [] : [checkpoint],
      lacksCheckpoint: checkpoint === null,
      graphs: true,
      languageSteps: [],
      remote: false,
    };
  }
}
