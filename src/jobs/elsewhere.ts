/** The same thing made on another machine, for what this device cannot carry out. Loaded when a job fails, and with the library. */
import { own } from '../core/catalogue.ts';
import type { Catalogue, Config } from '../core/catalogue.ts';
import type { Offer } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { courseOf, fieldsOf } from '../core/steps.ts';
import type { Course } from '../core/steps.ts';

/** Say how this device computes, which means nothing to another one. */
const OF_THIS_DEVICE = ['weights', 'precision', 'guidance_mode', 'tile_size', 'phased'];

/** Suit one checkpoint of a family, and spoil the pictures of another. */
const OF_THIS_CHECKPOINT = ['steps', 'guidance_scale'];

/** A config that takes pictures cannot do without them. */
const PICTURES = ['image', 'images'];

/** A config that makes something on another machine. */
export interface Elsewhere {
  config: Config;
  course: Course;
  engine: string;
  /** Whether it has the same weights there, not only others of the same family. */
  isSame: boolean;
}

/**
 * @param made the config that makes it here
 * @param checkpoint the ref of what it is made with; null if nothing is named
 * @returns the configs that make the same elsewhere, those with the same weights first
 */
export function configsElsewhere(made: string, checkpoint: string | null, catalogue: Catalogue): Elsewhere[] {
  const found = Object.values(catalogue.configs).flatMap((config) => {
    const here = config.here === undefined ? undefined : own(catalogue.configs, config.here);
    const course = courseOf(config, catalogue);
    if (!here || typeof course === 'string') {
      return [];
    }
    const { remote: engine } = course.main.chunk.meta.needs;
    const isSame = here.checkpoint !== null && checkpoint?.startsWith(`hub:${here.checkpoint.repo}@`) === true;
    return engine !== undefined && (isSame || made === here.id)
      ? [{ config, course, engine, isSame: here.checkpoint !== null }]
      : [];
  });
  return found.sort((a, b) => Number(b.isSame) - Number(a.isSame));
}

/**
 * @param engines of the servers that are entered
 * @returns the operation for the config there that follows most of this one; null if there is none. Its label names what that cannot follow
 */
export function offerElsewhere(operation: Operation, catalogue: Catalogue, engines: readonly string[]): Offer | null {
  const entries = Object.entries(operation.parameters);
  const offers = configsElsewhere(operation.config, operation.checkpoint, catalogue)
    .map((there) => ({ ...there, fields: fieldsOf(there.course) }))
    .filter(
      ({ engine, course, fields }) =>
        engines.includes(engine) &&
        course.operations.includes(operation.operation) &&
        PICTURES.every((name) => !fields.has(name) || operation.parameters[name] !== undefined),
    )
    .map((there) => {
      const follows = (name: string) => there.fields.has(name) && (there.isSame || !OF_THIS_CHECKPOINT.includes(name));
      const lost = entries.map(([name]) => name).filter((name) => !follows(name) && !OF_THIS_DEVICE.includes(name));
      return { ...there, follows, lost };
    });
  // The same weights come first, also among those that lose as much.
  const [there] = offers.sort((a, b) => Number(b.isSame) - Number(a.isSame) || a.lost.length - b.lost.length);
  if (!there) {
    return null;
  }
  const { follows, lost } = there;
  const name = there.config.name.en;
  return {
    label: lost.length === 0 ? `Make it with ${name}` : `Make it with ${name}, without ${lost.join(', ')}`,
    operation: {
      operation: operation.operation,
      config: there.config.id,
      parameters: Object.fromEntries(entries.filter(([field]) => follows(field))),
      priority: operation.priority,
      checkpoint: null,
      record: [],
    },
  };
}
