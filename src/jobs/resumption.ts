/** Continues a job that ended midway: outputs its steps recorded are given instead of made again. */
import type { Catalogue } from '../core/catalogue.ts';
import { own } from '../core/catalogue.ts';
import type { Job } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';
import { courseOf, entityTypeOf } from '../core/steps.ts';

/**
 * @param read reads a recorded file
 * @returns the job's operation with `given` for every step before the last that recorded all of its outputs
 */
export async function resumed(
  { operation, run, entities }: Pick<Job, 'operation' | 'run' | 'entities'>,
  { configs, ...others }: Catalogue,
  read: (run: string, filename: string) => Promise<Blob>,
): Promise<Operation> {
  const config = own(configs, operation.config);
  const course = config && courseOf(config, { configs, ...others });
  if (run === null || course === undefined || typeof course === 'string') {
    return operation;
  }
  const given: NonNullable<Operation['given']> = { ...operation.given };
  for (const { id, chunk } of course.steps.slice(0, -1)) {
    const outputs = Object.entries(chunk.meta.outputs).map(([name, declared]) => {
      const type = entityTypeOf(id, chunk.meta, name, false);
      return { name, declared, files: entities.filter((one) => one.type === type && one.metadata.step === id) };
    });
    if (id in given || outputs.some(({ files }) => files.length === 0)) {
      continue;
    }
    given[id] = {};
    for (const { name, declared, files } of outputs) {
      const values: unknown[] = [];
      for (const { filename } of files) {
        const file = await read(run, filename);
        values.push(declared.medium === 'text' ? await file.text() : file);
      }
      given[id][name] = declared.many ? values : values[0];
    }
  }
  return Object.keys(given).length === 0 ? operation : { ...operation, given };
}
