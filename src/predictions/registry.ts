/** The folder is the registry: every file that exports a `prediction` is one. */
import type { Prediction } from './prediction.ts';

const files = import.meta.glob<{ prediction?: Prediction }>('./*.ts', { eager: true });

export const predictions = Object.fromEntries(
  Object.values(files).flatMap(({ prediction }) => (prediction ? [[prediction.id, prediction]] : [])),
) as Readonly<Record<Prediction['id'], Prediction>>;
