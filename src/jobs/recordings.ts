/** The page's client for recordings: search, stars, retention, and importing and exporting runs as folders. */
import { StudioError } from '../core/errors.ts';
import type { Entity } from '../core/job.ts';
import { recogniseFile } from '../media/registry.ts';
import type { LostRun, RecorderApi, Retention, RunQuery, RunRecord, RunSummary } from '../recorder/recorder_api.ts';
import type { WorkerLink } from './worker_link.ts';

/** A file in a run's folder; the numbered ones are its entities. */
export const METADATA = 'metadata.json';

export class RecordingsClient {
  readonly #link: () => WorkerLink<RecorderApi>;

  /** @param link returns the current recorder, a new one after the last ended */
  constructor(link: () => WorkerLink<RecorderApi>) {
    this.#link = link;
  }

  /** Newest first, from the index alone. */
  find(query: RunQuery): Promise<RunSummary[]> {
    return this.#link().call('findRuns', query);
  }

  /** Runs lost by the browser, newest first. */
  lost(): Promise<LostRun[]> {
    return this.#link().call('lostRuns');
  }

  /** Removes lost runs from that list. */
  forgetLost(runs: string[]): Promise<void> {
    return this.#link().call('forgetLost', runs);
  }

  read(run: string): Promise<RunRecord> {
    return this.#link().call('readRun', run);
  }

  /** One of the run's files, {@link METADATA} included. */
  file(run: string, filename: string): Promise<Blob> {
    return this.#link().call('readEntity', run, filename);
  }

  star(run: string, starred: boolean): Promise<void> {
    return this.#link().call('starRun', run, starred);
  }

  delete(run: string): Promise<void> {
    return this.#link().call('deleteRun', run);
  }

  /** Imports a run from the files of its folder. */
  import(files: { path: string; file: Blob }[]): Promise<RunRecord> {
    return this.#link().call('importRun', files);
  }

  retention(): Promise<Retention> {
    return this.#link().call('retention');
  }

  /** What {@link setRetention} would delete now. */
  outdated(retention: Retention): Promise<RunSummary[]> {
    return this.#link().call('outdatedRuns', retention);
  }

  setRetention(retention: Retention): Promise<string[]> {
    return this.#link().call('setRetention', retention);
  }

  /**
   * Records the grid of a plot as a run of its own.
   * @param sheet its labelled picture
   * @param plot what it is of, and the runs of its cells
   * @param metadata of the picture; its `name` is what the run is found by
   * @returns the run
   */
  async keepPlot(sheet: Blob, plot: object, metadata: Record<string, unknown>): Promise<string> {
    const recorder = this.#link();
    const expected = ['plot', 'output_image'];
    const run = await recorder.call('openRun', { config_name: 'plot', operation: null, expected_outputs: expected });
    await recorder.call('saveEntity', run, 'plot', plot);
    await recorder.call('saveFromBlob', run, 'output_image', sheet, metadata);
    await recorder.call('closeRun', run, 'completed');
    return run;
  }

  /**
   * Records a file that was not made here, as the `input_image`, `input_audio` … of a run of its own.
   * @param file its bytes, or the address to fetch a picture from; `name` is what it is found by
   * @throws StudioError `origin_unavailable` for an address that gives nothing, `image_unreadable` for one that gives no picture,
   *   `media_unreadable` for bytes that no medium knows
   */
  async keep(file: Blob | string, name: string): Promise<Entity> {
    const recorder = this.#link();
    const kind = typeof file === 'string' ? null : await recogniseFile(file);
    const type = `input_${kind?.medium.id ?? 'image'}`;
    const run = await recorder.call('openRun', { config_name: '', operation: null, expected_outputs: [type] });
    try {
      const entity =
        typeof file === 'string'
          ? await recorder.call('saveFromUrl', run, type, file, { name }).catch(asNoPicture)
          : await recorder.call('saveFromBlob', run, type, file, { name });
      if (typeof file === 'string' && !/\.(png|jpg|webp)$/.test(entity.filename)) {
        throw noPicture();
      }
      await recorder.call('closeRun', run, 'completed');
      return entity;
    } catch (error) {
      // A run with nothing in it would be found with every search.
      await recorder.call('deleteRun', run).catch(() => {});
      throw error;
    }
  }
}

function noPicture(): StudioError {
  return new StudioError(
    'image_unreadable',
    'What was found there is no PNG, JPEG or WebP picture; save the picture on your disk and drop its file here.',
  );
}

/** What no medium knows is no picture either. */
function asNoPicture(thrown: unknown): never {
  const error = StudioError.from(thrown);
  throw error.code === 'media_unreadable' ? noPicture() : error;
}
