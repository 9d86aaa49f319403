/** The run a job records into: newly opened, or continued from an interrupted attempt. */
import type * as Comlink from 'comlink';
import { StudioError } from '../src/core/errors.ts';
import type { Entity } from '../src/core/job.ts';
import type { NewEntity, RecorderApi, RunEntity, RunOpening } from '../src/recorder/recorder_api.ts';
import type { EventSender } from './connection.ts';

export class RecordedRun {
  #id = '';
  #isClosed = false;
  #first: Entity[] = [];
  /** What an earlier attempt recorded, by step and type, in order; each is used once instead of recording it again. */
  readonly #earlier = new Map<string, RunEntity[]>();
  readonly #recorder: Comlink.Remote<RecorderApi>;
  readonly #events: EventSender;

  constructor(recorder: Comlink.Remote<RecorderApi>, events: EventSender) {
    this.#recorder = recorder;
    this.#events = events;
  }

  get id(): string {
    return this.#id;
  }

  async open(asked: RunOpening): Promise<void> {
    this.#id = await this.#recorder.openRun(asked);
  }

  /** The same with its first entities, for which the recorder is not waited for in between: networks keep this worker busy. */
  async openWith(asked: RunOpening, first: readonly NewEntity[]): Promise<void> {
    const { run, entities } = await this.#recorder.openRunWith(asked, first);
    this.#id = run;
    this.#first = entities;
  }

  /** Tells of what {@link openWith} has recorded. */
  tellFirst(): void {
    for (const entity of this.#first.splice(0)) {
      this.#events.send({ type: 'entity', entity });
    }
  }

  /**
   * Continues the run of an earlier attempt.
   * @returns `gone` if somebody deleted it, `held` if another tab does not let go of it
   * @throws StudioError
   */
  async resume(run: string): Promise<'resumed' | 'gone' | 'held'> {
    try {
      const { entities } = await this.#recorder.resumeRun(run);
      for (const entity of entities) {
        const key = keyOf(entity.type, entity.metadata);
        this.#earlier.set(key, [...(this.#earlier.get(key) ?? []), entity]);
      }
      this.#id = run;
      return 'resumed';
    } catch (error) {
      const { code } = StudioError.from(error);
      if (code === 'storage_unavailable') {
        // If nothing can be stored at all, opening another run will say so.
        return 'held';
      }
      if (code === 'invalid_operation') {
        return 'gone';
      }
      throw error;
    }
  }

  /** @returns the name of the file */
  record(type: string, content: Blob | string | object, metadata?: Record<string, unknown>): Promise<string> {
    return this.#recorded(type, metadata, () => this.#recorder.saveEntity(this.#id, type, content, metadata));
  }

  /** Like {@link record}, for what completes the run: one message and one writing for both. */
  recordLast(type: string, content: Blob | Uint8Array, metadata: Record<string, unknown>): Promise<string> {
    return this.#recorded(type, metadata, async () => {
      try {
        const entity = await this.#recorder.saveLast(this.#id, type, content, metadata);
        this.#isClosed = true;
        return entity;
      } catch (error) {
        if (!(error instanceof StudioError && error.code === 'storage_full')) {
          throw error;
        }
        // There may be room for the file alone.
        return this.#recorder.saveEntity(this.#id, type, content, metadata);
      }
    });
  }

  /**
   * Like {@link record}, for a file made by another machine. The recorder cannot reach other machines: it fetches the file from this
   * worker by a blob address.
   */
  async recordMade(type: string, file: Blob, metadata: Record<string, unknown>): Promise<string> {
    const url = URL.createObjectURL(file);
    try {
      return await this.#recorded(type, metadata, () => this.#recorder.saveFromUrl(this.#id, type, url, metadata));
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  async #recorded(
    type: string,
    metadata: Record<string, unknown> | undefined,
    save: () => Promise<Entity>,
  ): Promise<string> {
    // Runs started by an earlier version name no steps.
    const known = this.#earlier.get(keyOf(type, metadata))?.shift() ?? this.#earlier.get(type)?.shift();
    const entity = known ? { ...known, run: this.#id } : await save();
    this.#events.send({ type: 'entity', entity });
    return entity.filename;
  }

  /** What a step recorded as this type in an earlier attempt, in order. */
  async readBack(type: string, step: string): Promise<Blob[]> {
    const files: Blob[] = [];
    for (const entity of this.#earlier.get(keyOf(type, { step })) ?? []) {
      files.push(await this.#recorder.readEntity(this.#id, entity.filename));
      this.#events.send({ type: 'entity', entity: { ...entity, run: this.#id } });
    }
    return files;
  }

  async close(): Promise<void> {
    if (!this.#isClosed) {
      await this.#recorder.closeRun(this.#id, 'completed');
    }
  }
}

/** Includes the step, since a chunk used twice records the same types twice. */
function keyOf(type: string, metadata: Record<string, unknown> = {}): string {
  return typeof metadata.step === 'string' ? `${metadata.step}/${type}` : type;
}
