/** What the command line in Node asks before it creates a Darkroom. */
import { parseOperation } from '../core/operation.ts';
import { namedFiles, type NamedFile } from '../core/named_files.ts';
import { requirementsOf } from '../core/plan.ts';
import type { EngineFacts } from '../core/remote.ts';
import { catalogue } from '../pipelines/catalogue.ts';
import { RemoteOwner } from '../../workers/remote_owner.ts';

export { readAddress } from '../core/remote.ts';

/** The steps of an operation that a language model or a voice runs, and that name none. @throws StudioError `invalid_operation` */
export function languageStepsOf(operation: unknown): string[] {
  return requirementsOf(parseOperation(operation), catalogue).languageSteps.map(({ id }) => id);
}

/** Where an operation names files. @throws StudioError `invalid_operation` */
export function namedFilesOf(operation: unknown): NamedFile[] {
  return namedFiles(parseOperation(operation), catalogue);
}

/** The engines on other machines that an operation needs. @throws StudioError `invalid_operation` */
export async function enginesFor(operation: unknown): Promise<EngineFacts[]> {
  const { engines } = requirementsOf(parseOperation(operation), catalogue);
  return engines.length === 0 ? [] : (await new RemoteOwner().engines()).filter(({ id }) => engines.includes(id));
}
