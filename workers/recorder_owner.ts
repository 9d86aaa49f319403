/** One recorder, served to the page and to whoever records. */
import type { Recorder } from '../src/recorder/recorder.ts';
import { StudioError } from '../src/core/errors.ts';
import type { NewEntity, RecorderApi, RunOpening, StorageReport } from '../src/recorder/recorder_api.ts';
import { serveOn } from './connection.ts';
import './media_files.ts';

export interface OpenedRecorder {
  recorder: Recorder;
  report: StorageReport;
}

export class RecorderOwner implements RecorderApi {
  readonly #open: () => Promise<OpenedRecorder>;
  #opening: Promise<OpenedRecorder> | undefined;

  constructor(open: () => Promise<OpenedRecorder>) {
    this.#open = open;
  }

  /** Opens on first use: a start that shows Generate first need not share the processor with it. */
  get #opened(): Promise<OpenedRecorder> {
    return (this.#opening ??= this.#open());
  }

  connect(port: MessagePort): Promise<void> {
    serveOn(port, this);
    return Promise.resolve();
  }

  async storage(): Promise<StorageReport> {
    return (await this.#opened).report;
  }

  async openRun(...args: Parameters<RecorderApi['openRun']>) {
    return (await this.#recorder()).openRun(...args);
  }

  async openRunWith(opening: RunOpening, first: readonly NewEntity[]) {
    const recorder = await this.#recorder();
    const run = await recorder.openRun(opening);
    try {
      const entities = await Promise.all(
        first.map(({ type, content, metadata }) => recorder.saveEntity(run, type, content, metadata)),
      );
      return { run, entities };
    } catch (error) {
      // Nobody else knows that it is open.
      await recorder.closeRun(run, 'failed', StudioError.from(error).toData()).catch(() => undefined);
      throw error;
    }
  }

  async runOf(...args: Parameters<RecorderApi['runOf']>) {
    return (await this.#recorder()).runOf(...args);
  }

  async resumeRun(...args: Parameters<RecorderApi['resumeRun']>) {
    return (await this.#recorder()).resumeRun(...args);
  }

  async saveEntity(...args: Parameters<RecorderApi['saveEntity']>) {
    return (await this.#recorder()).saveEntity(...args);
  }

  async saveLast(...args: Parameters<RecorderApi['saveLast']>) {
    return (await this.#recorder()).saveLast(...args);
  }

  async saveFromBlob(...args: Parameters<RecorderApi['saveFromBlob']>) {
    return (await this.#recorder()).saveFromBlob(...args);
  }

  async saveFromUrl(...args: Parameters<RecorderApi['saveFromUrl']>) {
    return (await this.#recorder()).saveFromUrl(...args);
  }

  async closeRun(...args: Parameters<RecorderApi['closeRun']>) {
    return (await this.#recorder()).closeRun(...args);
  }

  async settled() {
    // Nothing ended before it was opened.
    await (this.#opening && (await this.#recorder()).settled());
  }

  async listRuns(...args: Parameters<RecorderApi['listRuns']>) {
    return (await this.#recorder()).listRuns(...args);
  }

  async lostRuns() {
    return (await this.#recorder()).lostRuns();
  }

  async forgetLost(...args: Parameters<RecorderApi['forgetLost']>) {
    return (await this.#recorder()).forgetLost(...args);
  }

  async findRuns(...args: Parameters<RecorderApi['findRuns']>) {
    return (await this.#recorder()).findRuns(...args);
  }

  async readRun(...args: Parameters<RecorderApi['readRun']>) {
    return (await this.#recorder()).readRun(...args);
  }

  async readEntity(...args: Parameters<RecorderApi['readEntity']>) {
    return (await this.#recorder()).readEntity(...args);
  }

  async starRun(...args: Parameters<RecorderApi['starRun']>) {
    return (await this.#recorder()).starRun(...args);
  }

  async deleteRun(...args: Parameters<RecorderApi['deleteRun']>) {
    return (await this.#recorder()).deleteRun(...args);
  }

  async importRun(...args: Parameters<RecorderApi['importRun']>) {
    return (await this.#recorder()).importRun(...args);
  }

  async outdatedRuns(...args: Parameters<RecorderApi['outdatedRuns']>) {
    return (await this.#recorder()).outdatedRuns(...args);
  }

  async retention() {
    return (await this.#recorder()).retention();
  }

  async setRetention(...args: Parameters<RecorderApi['setRetention']>) {
    return (await this.#recorder()).setRetention(...args);
  }

  async #recorder(): Promise<Recorder> {
    return (await this.#opened).recorder;
  }
}
