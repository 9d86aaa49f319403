/** A plot as it is kept, recorded and shown. */
import * as v from 'valibot';
import { refName, REF } from '../../core/further_checkpoints.ts';
import type { JobState } from '../../core/job.ts';
import type { Operation } from '../../core/operation.ts';
import type { PlotAxis } from '../../core/plots.ts';

export const axesSchema = v.array(
  v.object({
    parameter: v.string(),
    kind: v.picklist(['integer', 'real', 'choice', 'replace']),
    label: v.string(),
    values: v.pipe(v.array(v.string()), v.minLength(1)),
  }),
);

/** Run and file of each cell, the first axis changing fastest; null = it is missing. */
export const madeSchema = v.array(v.nullable(v.object({ run: v.string(), file: v.string() })));

/** The entity `plot` of a recorded one; foreign data where it is read. */
export const recordedSchema = v.object({ axes: v.pipe(axesSchema, v.minLength(1)), cells: madeSchema });

export interface RecordedPlot {
  schema_version: 1;
  axes: PlotAxis[];
  /** What every cell shares, without pictures. */
  operation: Operation;
  cells: v.InferOutput<typeof madeSchema>;
}

export interface Cell {
  state: JobState | 'missing';
  made: { run: string; file: string } | null;
}

/** "Steps: 20"; words that replace others speak for themselves. */
export function captionOf({ kind, label }: PlotAxis, value: string): string {
  return kind === 'replace' ? value : `${label}: ${kind === 'choice' && REF.test(value) ? refName(value) : value}`;
}
