/** The folders are the registry: every file that exports a `sampler` or a `schedule` is one. */
import type { Schedule } from '../schedules/schedule.ts';
import type { Sampler } from './sampler.ts';

function byId<T extends { id: string }>(entries: (T | undefined)[]): Readonly<Record<string, T>> {
  return Object.fromEntries(entries.flatMap((entry) => (entry ? [[entry.id, entry]] : [])));
}

export const samplers = byId(
  Object.values(import.meta.glob<{ sampler?: Sampler }>('./*.ts', { eager: true })).map((file) => file.sampler),
);

export const schedules = byId(
  Object.values(import.meta.glob<{ schedule?: Schedule }>('../schedules/*.ts', { eager: true })).map(
    (file) => file.schedule,
  ),
);
