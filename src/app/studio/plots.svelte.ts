import * as v from 'valibot';
import type { Job, JobState } from '../../core/job.ts';
import { parseOperation, type Operation } from '../../core/operation.ts';
import { cellOperation, cellsOf, type PlotAxis } from '../../core/plots.ts';
import { isFile } from '../../core/parameters.ts';
import type { JobClient } from '../../jobs/client.ts';
import { resultMedium } from '../../media/registry.ts';
import { keep, readKept } from '../parts/kept.ts';
import { axesSchema, madeSchema, type Cell, type RecordedPlot } from '../parts/plot.ts';
import { fromRecord } from '../recordings/runs.ts';
import type { Studio } from './studio.svelte.ts';
import { rememberPlots } from './plots_kept.ts';
import { drawSheet } from './plot_sheet.ts';

const KEY = 'plots';
/** Older ones are in the recordings. */
const MOST = 8;

const plotSchema = v.object({
  id: v.string(),
  /** Milliseconds since 1970. */
  time: v.number(),
  /** What every cell shares, pictures included. */
  operation: v.custom<Operation>((value) => typeof value === 'object' && value !== null),
  axes: axesSchema,
  /** The finished cells, by cell. */
  made: madeSchema,
  /** How often the cell was begun, which is part of its job's id. */
  turns: v.array(v.number()),
  /** The run that the whole plot is recorded as; null until it is. */
  run: v.nullable(v.string()),
});

export type Plot = v.InferOutput<typeof plotSchema>;

/**
 * Plots are lists of ordinary jobs and what tells them apart: the ids of the jobs say which cell of which plot they are. The queue keeps and
 * resumes them, as any others.
 */
export class Plots {
  /** Newest first. */
  list = $state.raw<Plot[]>([]);
  /** States of the cells' jobs, by id. */
  #states = $state.raw<Readonly<Partial<Record<string, JobState>>>>({});
  readonly #studio: Studio;
  readonly #client: JobClient;
  #recording = Promise.resolve();

  constructor(studio: Studio, client: JobClient) {
    this.#studio = studio;
    this.#client = client;
    void this.#restore();
  }

  async #restore(): Promise<void> {
    const kept = v.safeParse(v.array(plotSchema), await readKept(KEY));
    this.list = kept.success ? [...this.list, ...kept.output] : this.list;
    // Jobs that ended while nobody looked.
    this.#take(await this.#client.list());
    this.#client.onChange(({ jobs }) => this.#take(jobs));
  }

  /** Submits a job for each cell; none when one of them cannot run. */
  async begin(input: unknown, axes: PlotAxis[]): Promise<void> {
    const operation = parseOperation(input);
    const count = cellsOf(axes).length;
    const plot: Plot = {
      id: crypto.randomUUID().slice(0, 8),
      time: Date.now(),
      operation,
      axes,
      made: Array.from({ length: count }, () => null),
      turns: Array.from({ length: count }, () => 0),
      run: null,
    };
    const cells = Array.from({ length: count }, (_, cell) => cell);
    await this.#submit(plot, cells, () => {
      this.list = [plot, ...this.list].slice(0, MOST);
      this.#keep();
    });
  }

  async #submit(plot: Plot, cells: readonly number[], onJudged: () => void): Promise<void> {
    const places = cellsOf(plot.axes);
    const operations = cells.map((cell) => ({
      id: jobOf(plot, cell),
      operation: cellOperation(plot.operation, plot.axes, places[cell]),
    }));
    onJudged();
    try {
      await this.#studio.submitAll(operations);
    } catch (error) {
      if (plot.made.every((one) => one === null) && plot.turns.every((turn) => turn === 0)) {
        this.dismiss(plot);
      }
      throw error;
    }
  }

  cell(plot: Plot, cell: number): Cell {
    const made = plot.made[cell];
    return { made, state: made ? 'completed' : (this.#states[jobOf(plot, cell)] ?? 'missing') };
  }

  /** The cells that nobody is making and that are not made. */
  missing(plot: Plot): number[] {
    return plot.made.flatMap((_, cell) => {
      const { state } = this.cell(plot, cell);
      return state === 'missing' || state === 'failed' || state === 'cancelled' ? [cell] : [];
    });
  }

  /** Goes on with what is missing. */
  async goOn(plot: Plot): Promise<void> {
    const cells = this.missing(plot);
    const turns = plot.turns.map((turn, cell) => (cells.includes(cell) ? turn + 1 : turn));
    const next = { ...plot, turns };
    await this.#submit(next, cells, () => this.#replace(next));
  }

  /** Takes it off the page. Its pictures stay, and so does the grid once it was recorded; what waits is cancelled. */
  dismiss(plot: Plot): void {
    this.list = this.list.filter(({ id }) => id !== plot.id);
    this.#keep();
    for (const cell of plot.made.keys()) {
      if (['pending', 'running'].includes(this.cell(plot, cell).state)) {
        void this.#studio.queue.cancel(jobOf(plot, cell));
      }
    }
  }

  /** Shows what a cell made on the stage. */
  async show({ run }: { run: string }): Promise<void> {
    await this.#studio.told.report(async () => {
      this.#studio.newest.show(fromRecord(await this.#client.run(run)));
    });
  }

  /** The labelled picture of all cells. */
  sheet(plot: Plot): Promise<Blob> {
    return drawSheet(plot.axes, plot.made, ({ run, file }) => this.#client.entity(run, file));
  }

  #take(jobs: readonly Job[]): void {
    const states: Partial<Record<string, JobState>> = {};
    const changed: Partial<Record<string, Plot>> = {};
    for (const { id, state, run, entities } of jobs) {
      const match = /^plot-([0-9a-f]{8})-(\d+)-(\d+)$/.exec(id);
      const plot = match && (changed[match[1]] ?? this.list.find((one) => one.id === match[1]));
      if (match && plot) {
        states[id] = state;
        const cell = Number(match[2]);
        const file = entities.find((entity) => resultMedium(entity) !== null)?.filename;
        if (
          state === 'completed' &&
          run !== null &&
          file !== undefined &&
          cell < plot.made.length &&
          !plot.made[cell]
        ) {
          changed[plot.id] = { ...plot, made: plot.made.with(cell, { run, file }) };
        }
      }
    }
    this.#states = states;
    Object.values(changed).forEach((plot) => plot && this.#replace(plot));
    for (const plot of this.list) {
      if (plot.run === null && plot.made.every((one) => one !== null)) {
        this.#recording = this.#recording.then(() => this.#record(plot.id));
      }
    }
  }

  /** Records the grid as a run of its own: its labelled picture, and what it is of. */
  async #record(id: string): Promise<void> {
    const plot = this.list.find((one) => one.id === id);
    if (plot?.run === null) {
      try {
        const { parameters } = withoutFiles(plot.operation);
        const metadata = { name: nameOf(plot), parameters };
        const run = await this.#client.recordings.keepPlot(await this.sheet(plot), descriptionOf(plot), metadata);
        const latest = this.list.find((one) => one.id === id);
        if (latest) {
          this.#replace({ ...latest, run });
        }
      } catch {
        // A cell's picture was deleted, or nothing can be stored; the grid can be downloaded all the same.
      }
    }
  }

  #replace(plot: Plot): void {
    this.list = this.list.map((one) => (one.id === plot.id ? plot : one));
    this.#keep();
  }

  #keep(): void {
    rememberPlots(this.list.length > 0);
    // Where storage is blocked they live as long as the page.
    keep(KEY, $state.snapshot(this.list)).catch(() => undefined);
  }
}

function jobOf({ id, turns }: Plot, cell: number): string {
  return `plot-${id}-${cell}-${turns[cell]}`;
}

/** What the recording of a grid is found by. */
function nameOf({ axes, operation }: Plot): string {
  const { prompt } = operation.parameters;
  return `${axes.map(({ label }) => label).join(' × ')} · ${typeof prompt === 'string' ? prompt : ''}`;
}

/** What is recorded beside the picture of a grid. */
function descriptionOf({ operation, axes, made }: Plot): RecordedPlot {
  return { schema_version: 1, axes, operation: withoutFiles(operation), cells: made.map((one) => one && { ...one }) };
}

function withoutFiles(operation: Operation): Operation {
  const words = Object.entries(operation.parameters).filter(([, value]) => ![value].flat().some(isFile));
  return { ...operation, parameters: Object.fromEntries(words) };
}
