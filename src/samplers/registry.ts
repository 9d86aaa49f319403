/** The folder is the registry: every file that exports a `sampler` is one. */
import { byId } from '../core/by_id.ts';
import type { Sampler } from './sampler.ts';

export const samplers = byId(
  Object.values(import.meta.glob<{ sampler?: Sampler }>('./*.ts', { eager: true })).map((file) => file.sampler),
);
