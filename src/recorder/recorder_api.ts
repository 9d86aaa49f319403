/** The recorder's interface for page and engines, and the records of a run. */
import type { StudioErrorData } from '../core/errors.ts';
import type { Entity } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';

/** What is known about a run when it is opened. */
export interface RunOpening {
  config_name: string;
  /**
   * The operation as accepted. `metadata.json` only keeps type and size of its pictures, so record them as entities. Null for anything not
   * made here, such as an imported picture.
   */
  operation: Operation | null;
  /** The entity types the run should produce, in order. */
  expected_outputs: string[];
  /** The job that opens it, by which {@link RecorderApi.runOf} finds it. It is not part of the record. */
  job?: string;
}

/** What {@link RecorderApi.saveEntity} takes. */
export interface NewEntity {
  type: string;
  content: Blob | string | object;
  metadata?: Record<string, unknown>;
}

/** `interrupted`: the tab, the browser or the machine went away while it ran. */
export type RunStage = 'running' | 'completed' | 'failed' | 'cancelled' | 'interrupted';

/** The outcome reported for a run. */
export type RunEnd = Exclude<RunStage, 'running' | 'interrupted'>;

/** `metadata.json` of one run folder. */
export interface RunRecord {
  /** 2; runs from before journals keep their 1 until they are changed. */
  schema_version: number;
  run_id: string;
  timestamp: string;
  device_id: string;
  config_name: string;
  operation: Operation | null;
  expected_outputs: string[];
  current_state: { stage: RunStage; error?: StudioErrorData };
  /** A starred run is never deleted by {@link Retention}. Absent = false. */
  starred?: boolean;
  entities: RunEntity[];
  /** Only in answers: saved files that are now missing or damaged, for example deleted by somebody else. */
  lost?: string[];
}

/** One entry of {@link RunRecord.entities}; `sha256` is empty if the record was rebuilt from the files. */
export type RunEntity = Omit<Entity, 'run'>;

/** What a list shows of a run, without opening its folder. */
export interface RunSummary {
  run_id: string;
  timestamp: string;
  stage: RunStage;
  starred: boolean;
  config_name: string;
  checkpoint: string;
  prompt: string;
  negative_prompt: string;
  /** Number of entities, and how many of them are results. */
  entities: number;
  results: number;
  /** Name of the file representing the run: the first result, else the first input; empty if there is none. */
  picture: string;
  /** An imported picture's original name; else empty. */
  name: string;
  /** Of all entities. */
  bytes: number;
}

/** A run lost by the browser, and what is remembered of it. */
export interface LostRun extends RunSummary {
  /** As accepted, with only type and size of pictures; null if not remembered, or if there was no operation. */
  operation: Operation | null;
  /** A thumbnail of its first picture, as a data: URL; null if there is none. */
  thumbnail: string | null;
}

/** Which runs to list, newest first. */
export interface RunQuery {
  limit: number;
  /** The last run id of the previous page of results. */
  before?: string;
  /** Words that all occur in prompt, negative prompt, config, checkpoint, name or run id; case does not matter. */
  text?: string;
  starred?: boolean;
}

/** Which runs to keep. Starred and running ones are always kept, and so is the newest ended one. */
export type Retention = { keep: 'all' } | { keep: 'runs'; runs: number } | { keep: 'bytes'; bytes: number };

export interface StorageReport {
  /** False if recordings are in memory and end with this visit. */
  persistent: boolean;
  /** A sentence for the person, if there is something to say. */
  note: string | null;
}

/**
 * The owner of the recordings: one per recorder worker. Errors: `storage_unavailable`, `storage_full`, `invalid_operation` (no such run or
 * file), `origin_unavailable` (a URL that does not answer).
 */
export interface RecorderApi {
  /** Serves this same interface on another port, for the generation worker. */
  connect(port: MessagePort): Promise<void>;
  storage(): Promise<StorageReport>;
  /** Creates the run's folder and returns its id. */
  openRun(opening: RunOpening): Promise<string>;
  /** The same with its first entities, for those who are too busy to be told of each. */
  openRunWith(opening: RunOpening, entities: readonly NewEntity[]): Promise<{ run: string; entities: Entity[] }>;
  /**
   * The newest run that a job opened, also if nobody heard of it because who asked for it died; null if there is none or it was deleted.
   * @param since when the job was submitted, in milliseconds since 1970: ids of jobs may be given again
   */
  runOf(job: string, since: number): Promise<string | null>;
  /** Reopens an interrupted or ended run: more can be saved, under the next numbers. */
  resumeRun(run: string): Promise<RunRecord>;
  /**
   * Resolves once the entity is saved: its file is whole and its journal record flushed.
   * @param content bytes (`Uint8Array`) are those of a file, as a Blob's are
   */
  saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata?: Record<string, unknown>,
  ): Promise<Entity>;
  /** The same, and the run is completed by it: both are in the journal, or only the entity where the tab is killed in between, or neither. */
  saveLast: RecorderApi['saveEntity'];
  /** Like {@link saveEntity}, for Blobs only. */
  saveFromBlob(run: string, entityType: string, blob: Blob, metadata?: Record<string, unknown>): Promise<Entity>;
  /** Fetches a URL (also `blob:` and `data:`) and saves the content; for http(s), `metadata.source` is the origin of the content. */
  saveFromUrl(run: string, entityType: string, url: string, metadata?: Record<string, unknown>): Promise<Entity>;
  /** Writes how the run ended; resolves once that is sure to be found again. `metadata.json` and the list of runs follow. */
  closeRun(run: string, stage: RunEnd, error?: StudioErrorData): Promise<void>;
  /** Resolves when that has followed for all runs that have ended, and those not kept any more are deleted. */
  settled(): Promise<void>;
  listRuns(query: RunQuery): Promise<RunRecord[]>;
  /** Like {@link listRuns}, from the index alone: for long lists. */
  findRuns(query: RunQuery): Promise<RunSummary[]>;
  /** Runs whose folders the browser lost, newest first. They are in no other list. */
  lostRuns(): Promise<LostRun[]>;
  /** Takes lost runs off that list. */
  forgetLost(runs: string[]): Promise<void>;
  readRun(run: string): Promise<RunRecord>;
  /** The content, with its hash verified. */
  readEntity(run: string, filename: string): Promise<Blob>;
  starRun(run: string, starred: boolean): Promise<void>;
  deleteRun(run: string): Promise<void>;
  /** Imports a run from the files of its folder, including `metadata.json`, whose hashes every file must match. */
  importRun(files: { path: string; file: Blob }[]): Promise<RunRecord>;
  retention(): Promise<Retention>;
  /** What {@link setRetention} would delete now, newest first. */
  outdatedRuns(retention: Retention): Promise<RunSummary[]>;
  /** Applies at once and after every run; returns the ids of the deleted runs. */
  setRetention(retention: Retention): Promise<string[]>;
}
