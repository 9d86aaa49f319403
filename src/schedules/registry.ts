/** The folder is the registry: every file that exports a `schedule` is one. */
import { byId } from '../core/by_id.ts';
import type { Schedule } from './schedule.ts';

export const schedules = byId(
  Object.values(import.meta.glob<{ schedule?: Schedule }>('./*.ts', { eager: true })).map((file) => file.schedule),
);
