/** What the recorder does for page and engines: its interface, and what is recorded of a run. */
import type { StudioErrorData } from '../core/errors.ts';
import type { Entity } from '../core/job.ts';
import type { Operation } from '../core/operation.ts';

/** What is said about a run when it is opened. */
export interface RunOpening {
  config_name: string;
  /**
   * The operation as accepted; `metadata.json` keeps its pictures as type and size only, so record them as entities. Null for what was
   * not made here, such as a picture that somebody keeps.
   */
  operation: Operation | null;
  /** Entity types that the run is expected to produce, in order. */
  expected_outputs: string[];
}

/** `interrupted`: the tab, the browser or the machine went away while it ran. */
export type RunStage = 'running' | 'completed' | 'failed' | 'cancelled' | 'interrupted';

/** How whoever runs a run says that it ended. */
export type RunEnd = Exclude<RunStage, 'running' | 'interrupted'>;

/** `metadata.json` of one run folder. */
export interface RunRecord {
  /** 2; runs of the layout before journals keep their 1 until they are changed. */
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
  /** Only in answers: file names that were saved and are no longer there whole, as when somebody else deleted them. */
  lost?: string[];
}

/** One entry of {@link RunRecord.entities}; `sha256` is empty where a record was rebuilt from the files. */
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
  /** How many there are, and how many of them are results, of whichever medium. */
  entities: number;
  results: number;
  /** File name of what stands for the run: the first result, else the first that was given; empty where there is none. */
  picture: string;
  /** What a kept picture was called; else empty. */
  name: string;
  /** Of all entities. */
  bytes: number;
}

/** A run that the browser has lost, and what is remembered of it. */
export interface LostRun extends RunSummary {
  /** As accepted, of pictures only type and size; null when it is not remembered, or nothing was asked for. */
  operation: Operation | null;
  /** A small picture of the first one made, as a data: URL; null when there is none. */
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

/** Which runs are kept. Starred and running ones always are, and the newest ended one. */
export type Retention = { keep: 'all' } | { keep: 'runs'; runs: number } | { keep: 'bytes'; bytes: number };

export interface StorageReport {
  /** False: recordings live in memory and end with this visit. */
  persistent: boolean;
  /** One sentence for the person when there is something to say. */
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
  /** Goes on with a run that was interrupted or has ended: more can be saved, under the numbers that follow. */
  resumeRun(run: string): Promise<RunRecord>;
  /** Returns when the entity is saved: its file is whole and its journal record is flushed. */
  saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata?: Record<string, unknown>,
  ): Promise<Entity>;
  /** As {@link saveEntity}, of a Blob and nothing else. */
  saveFromBlob(run: string, entityType: string, blob: Blob, metadata?: Record<string, unknown>): Promise<Entity>;
  /** Fetches what the URL names (also `blob:` and `data:`) and saves it; `metadata.source` says where http(s) content came from. */
  saveFromUrl(run: string, entityType: string, url: string, metadata?: Record<string, unknown>): Promise<Entity>;
  /** Writes how the run ended. */
  closeRun(run: string, stage: RunEnd, error?: StudioErrorData): Promise<void>;
  listRuns(query: RunQuery): Promise<RunRecord[]>;
  /** As {@link listRuns}, from the index alone: for long lists. */
  findRuns(query: RunQuery): Promise<RunSummary[]>;
  /** Runs whose folders the browser has lost, newest first. They are in no other list. */
  lostRuns(): Promise<LostRun[]>;
  /** Takes lost runs off that list. */
  forgetLost(runs: string[]): Promise<void>;
  readRun(run: string): Promise<RunRecord>;
  /** The content, after its hash was compared with the recorded one. */
  readEntity(run: string, filename: string): Promise<Blob>;
  starRun(run: string, starred: boolean): Promise<void>;
  deleteRun(run: string): Promise<void>;
  /** Records a run again from the files of its folder, `metadata.json` among them; every byte is compared with the hashes in it. */
  importRun(files: { path: string; file: Blob }[]): Promise<RunRecord>;
  retention(): Promise<Retention>;
  /** What {@link setRetention} would delete now, newest first. */
  outdatedRuns(retention: Retention): Promise<RunSummary[]>;
  /** Applies at once and after every run; answers with the ids of the runs that it deleted. */
  setRetention(retention: Retention): Promise<string[]>;
}
