/**
 * Recordings: one folder per run, one numbered file per entity, and a `metadata.json` that lists them.
 * Nothing is reported as saved before it is, and what was saved stays whole whatever fails later.
 */
import { StudioError, assert } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import type { Entity } from '../core/job.ts';
import type { RunEntity, RunOpening, RunRecord, RunStage } from '../../workers/protocol.ts';
import { ENTITY_TYPE, filename, jsonBlob, mediaType, parseFilename, throughJson, toFile } from './entity_file.ts';
import type { FileStore } from './file_store.ts';
import {
  METADATA,
  SCHEMA_VERSION,
  byNewest,
  isRunId,
  parseRecord,
  rebuildRecord,
  withoutPictures,
} from './run_record.ts';

const ROOT = 'exports/json';
const DEVICE_ID = 'device_id.txt';

interface OpenRun {
  readonly folder: string;
  record: RunRecord;
  /** The save that is going on; saves of one run follow one another. */
  last: Promise<unknown>;
}

export class Recorder {
  readonly #store: FileStore;
  readonly #now: () => Date;
  readonly #open = new Map<string, OpenRun>();
  #deviceId: Promise<string> | null = null;

  constructor(store: FileStore, now: () => Date = () => new Date()) {
    this.#store = store;
    this.#now = now;
  }

  async openRun(opening: RunOpening): Promise<string> {
    return guarded(async () => {
      const now = this.#now();
      const run = `run_${now.getTime()}_${randomHex(3)}`;
      const deviceId = await this.#device();
      const folder = `${ROOT}/${localDay(now)}/${deviceId}/${run}`;
      const record: RunRecord = {
        schema_version: SCHEMA_VERSION,
        run_id: run,
        timestamp: now.toISOString(),
        device_id: deviceId,
        config_name: opening.config_name,
        operation: withoutPictures(opening.operation),
        expected_outputs: opening.expected_outputs,
        current_state: { stage: 'running' },
        entities: [],
      };
      await this.#writeRecord(folder, record);
      this.#open.set(run, { folder, record, last: Promise.resolve() });
      return run;
    });
  }

  /** Numbers the entity, writes its file and lists it; resolves when all of it is stored. */
  async saveEntity(
    run: string,
    entityType: string,
    content: Blob | string | object,
    metadata: Record<string, unknown> = {},
  ): Promise<Entity> {
    assert(ENTITY_TYPE.test(entityType), `"${entityType}" is an entity type like "output_image"`);
    return this.#inTurn(run, async (open) => {
      const { blob, extension } = await toFile(content, metadata.format);
      const sequence = (await this.#highest(open)) + 1;
      const entity: RunEntity = {
        sequence,
        type: entityType,
        filename: filename(sequence, entityType, extension),
        timestamp: this.#now().toISOString(),
        sha256: await sha256(blob),
        metadata: throughJson(metadata),
      };
      await this.#writeWhole(open.folder, entity.filename, blob);
      await this.#commit(open, { ...open.record, entities: [...open.record.entities, entity] }).catch(
        async (error: unknown) => {
          // Unlisted files are not shown, but they would take room.
          await this.#store.remove(`${open.folder}/${entity.filename}`).catch(() => {});
          throw error;
        },
      );
      return { run, ...entity };
    });
  }

  async closeRun(run: string, stage: Exclude<RunStage, 'running'>, error?: StudioErrorData): Promise<void> {
    await this.#inTurn(run, async (open) => {
      await this.#commit(open, { ...open.record, current_state: { stage, ...(error ? { error } : {}) } });
      this.#open.delete(run);
    });
  }

  /** Newest first. Leftovers of interrupted writes are passed over, a torn `metadata.json` is rebuilt from the files. */
  async listRuns({ limit, before }: { limit: number; before?: string }): Promise<RunRecord[]> {
    return guarded(async () => {
      const folders = await this.#folders();
      const runs = [...folders.keys()].sort(byNewest);
      const after = before === undefined ? runs : runs.filter((run) => byNewest(before, run) < 0);
      return Promise.all(after.slice(0, limit).map((run) => this.#record(run, folders.get(run) as string)));
    });
  }

  async readRun(run: string): Promise<RunRecord> {
    return guarded(async () => this.#record(run, await this.#folder(run)));
  }

  async readEntity(run: string, name: string): Promise<Blob> {
    return guarded(async () => {
      const folder = await this.#folder(run);
      // A path from outside must not lead out of the run's folder.
      const known = name === METADATA || parseFilename(name) !== null;
      const file = known ? await this.#store.read(`${folder}/${name}`) : null;
      if (!file) {
        throw new StudioError('invalid_operation', `The run "${run}" has no file "${name}".`);
      }
      return file.slice(0, file.size, mediaType(name));
    });
  }

  async deleteRun(run: string): Promise<void> {
    await guarded(async () => {
      await this.#store.remove(await this.#folder(run));
      this.#open.delete(run);
    });
  }

  #inTurn<T>(run: string, save: (open: OpenRun) => Promise<T>): Promise<T> {
    const open = this.#open.get(run);
    assert(open, `the run "${run}" is open`);
    const result = open.last.then(() => guarded(() => save(open)));
    open.last = result.catch(() => {});
    return result;
  }

  /** One above the highest number so far, listed or not; never a count, which would repeat a number after a deletion. */
  async #highest(open: OpenRun): Promise<number> {
    const files = await this.#store.list(open.folder);
    const stored = files.map(({ name }) => parseFilename(name)?.sequence ?? 0);
    return Math.max(0, ...stored, ...open.record.entities.map(({ sequence }) => sequence));
  }

  async #commit(open: OpenRun, record: RunRecord): Promise<void> {
    await this.#writeRecord(open.folder, record);
    open.record = record;
  }

  #writeRecord(folder: string, record: RunRecord): Promise<void> {
    return this.#writeWhole(folder, METADATA, jsonBlob(record));
  }

  /** Either the whole new file is there afterwards, or what was there before. */
  async #writeWhole(folder: string, name: string, content: Blob): Promise<void> {
    const part = `${name}.part`;
    try {
      await this.#store.write(`${folder}/${part}`, content);
      await this.#store.move(folder, part, name);
    } catch (error) {
      await this.#store.remove(`${folder}/${part}`).catch(() => {});
      throw error;
    }
  }

  async #record(run: string, folder: string): Promise<RunRecord> {
    const names = (await this.#store.list(folder)).filter(({ kind }) => kind === 'file').map(({ name }) => name);
    const text = await (await this.#store.read(`${folder}/${METADATA}`))?.text();
    const record = text === undefined ? null : parseRecord(text);
    if (!record) {
      return rebuildRecord(run, folder.split('/').at(-2) as string, names);
    }
    return { ...record, entities: record.entities.filter((entity) => names.includes(entity.filename)) };
  }

  async #folder(run: string): Promise<string> {
    const folder = this.#open.get(run)?.folder ?? (await this.#folders()).get(run);
    if (!folder) {
      throw new StudioError('invalid_operation', `There is no recorded run "${run}".`);
    }
    return folder;
  }

  async #folders(): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    for (const day of await this.#subfolders(ROOT)) {
      for (const device of await this.#subfolders(day)) {
        for (const folder of await this.#subfolders(device)) {
          const run = folder.slice(folder.lastIndexOf('/') + 1);
          if (isRunId(run)) {
            found.set(run, folder);
          }
        }
      }
    }
    return found;
  }

  async #subfolders(path: string): Promise<string[]> {
    const entries = await this.#store.list(path);
    return entries.filter(({ kind }) => kind === 'folder').map(({ name }) => `${path}/${name}`);
  }

  #device(): Promise<string> {
    this.#deviceId ??= this.#readDevice();
    this.#deviceId.catch(() => {
      this.#deviceId = null;
    });
    return this.#deviceId;
  }

  async #readDevice(): Promise<string> {
    const kept = (await (await this.#store.read(DEVICE_ID))?.text())?.trim();
    if (kept !== undefined && /^[0-9a-f-]{36}$/.test(kept)) {
      return kept;
    }
    const id = crypto.randomUUID();
    await this.#store.write(DEVICE_ID, new Blob([id]));
    return id;
  }
}

/** What a storage throws, as the sentence that a person can act on. */
async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof StudioError) {
      throw error;
    }
    if (error instanceof DOMException && error.name === 'QuotaExceededError') {
      throw new StudioError(
        'storage_full',
        'The browser has no room left for recordings; delete some runs or free space on the disk, then try again. What is recorded so far is kept.',
        { retry: 'same', cause: error },
      );
    }
    throw new StudioError(
      'storage_unavailable',
      'The browser could not read or write the recordings; reload the page and try again. What is recorded so far is kept.',
      { retry: 'same', cause: error },
    );
  }
}

async function sha256(blob: Blob): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', await blob.arrayBuffer())));
}

function randomHex(bytes: number): string {
  return hex(crypto.getRandomValues(new Uint8Array(bytes)));
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** The day as the person's own calendar has it. */
function localDay(date: Date): string {
  const part = (value: number) => String(value).padStart(2, '0');
  return `${date.getFullYear()}-${part(date.getMonth() + 1)}-${part(date.getDate())}`;
}
