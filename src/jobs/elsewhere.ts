/** The same thing made on another machine, for an operation that this device cannot carry out. Loaded when a job fails. */
import { own } from '../core/catalogue.ts';
import type { Catalogue } from '../core/catalogue.ts';
import type { Offer } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { courseOf, fieldsOf } from '../core/steps.ts';

/** Say how this device computes, which means nothing to another one. */
const OF_THIS_DEVICE = ['weights', 'precision', 'guidance_mode', 'tile_size', 'phased'];

/**
 * @param engines of the servers that are entered
 * @returns the operation for the first config that makes the same there; null if there is none. Its label names what that cannot follow
 */
export function offerElsewhere(operation: Operation, catalogue: Catalogue, engines: readonly string[]): Offer | null {
  for (const config of Object.values(catalogue.configs)) {
    const here = config.here === undefined ? undefined : own(catalogue.configs, config.here);
    const course = courseOf(config, catalogue);
    if (!here || typeof course === 'string') {
      continue;
    }
    const isSame =
      operation.config === here.id ||
      (here.checkpoint !== null && operation.checkpoint?.startsWith(`hub:${here.checkpoint.repo}@`) === true);
    const { remote } = course.main.chunk.meta.needs;
    if (
      !isSame ||
      remote === undefined ||
      !engines.includes(remote) ||
      !course.operations.includes(operation.operation)
    ) {
      continue;
    }
    const fields = fieldsOf(course);
    const entries = Object.entries(operation.parameters);
    const lost = entries.map(([name]) => name).filter((name) => !fields.has(name) && !OF_THIS_DEVICE.includes(name));
    const name = config.name.en;
    return {
      label: lost.length === 0 ? `Make it with ${name}` : `Make it with ${name}, without ${lost.join(', ')}`,
      operation: {
        operation: operation.operation,
        config: config.id,
        parameters: Object.fromEntries(entries.filter(([field]) => fields.has(field))),
        priority: operation.priority,
        checkpoint: null,
        record: [],
      },
    };
  }
  return null;
}
