/** The folder is the registry: every file that exports a `scheduler` is one. */
import type { Scheduler } from './scheduler.ts';

export const schedulers: readonly Scheduler[] = Object.values(
  import.meta.glob<{ scheduler?: Scheduler }>('./*.ts', { eager: true }),
).flatMap(({ scheduler }) => scheduler ?? []);
