/**
 * A second record of the waiting jobs, outside their database. If the browser has thrown the database away, they are submitted again from
 * here, and the person is told.
 */
import * as v from 'valibot';
import { holdsFiles, parseOperation, withoutPictures } from '../core/operation.ts';
import type { Witness } from '../storage/witness.ts';
import type { StoredJobs } from './stored_jobs.ts';
import { isFinished } from './state.ts';

const SCHEMA_VERSION = 1;
/** Changes within this many milliseconds are recorded together. */
const TOGETHER_MS = 300;

const witnessSchema = v.object({
  schema_version: v.literal(SCHEMA_VERSION),
  isPaused: v.boolean(),
  /** Ids of all known jobs, including ended ones. */
  ids: v.array(v.string()),
  waiting: v.array(v.object({ id: v.string(), startsFromPicture: v.boolean(), operation: v.looseObject({}) })),
});

export class QueueWitness {
  readonly #jobs: StoredJobs;
  readonly #witness: Witness;
  #written = '';
  #isDue = false;

  constructor(jobs: StoredJobs, witness: Witness) {
    this.#jobs = jobs;
    this.#witness = witness;
  }

  /**
   * Resubmits jobs from a lost queue, and records every change from then on.
   * @returns a sentence for the person, or null if nothing was lost
   */
  async begin(): Promise<string | null> {
    const outcome = await this.#restore().catch(() => null);
    this.#jobs.subscribe(() => {
      if (!this.#isDue) {
        this.#isDue = true;
        setTimeout(() => {
          this.#isDue = false;
          void this.#takeDown();
        }, TOGETHER_MS);
      }
    });
    await this.#takeDown();
    return outcome;
  }

  async #restore(): Promise<string | null> {
    const read = await this.#witness.read();
    // Not written again unless something changes: the first write of a visit waits until it is safe to store files.
    this.#written = read === undefined ? '' : JSON.stringify(read);
    const told = v.safeParse(witnessSchema, read);
    if (!told.success || told.output.waiting.length === 0) {
      return null;
    }
    const { waiting, ids, isPaused } = told.output;
    const known = new Set((await this.#jobs.list()).map(({ id }) => id));
    if (ids.some((id) => known.has(id))) {
      return null;
    }
    if (isPaused) {
      await this.#jobs.pause(true);
    }
    let restored = 0;
    for (const { id, operation, startsFromPicture } of waiting) {
      if (!startsFromPicture) {
        // Under its own id, so that two tabs that both notice submit it once.
        try {
          await this.#jobs.submit(parseOperation(operation), id);
          restored += 1;
        } catch {
          // It is counted among those that could not be put back.
        }
      }
    }
    return [sentenceOfLoss(restored), ...sentenceOfRest(waiting.length - restored)].join(' ');
  }

  async #takeDown(): Promise<void> {
    const all = this.#jobs.jobs;
    const value = {
      schema_version: SCHEMA_VERSION,
      isPaused: this.#jobs.state.isPaused,
      ids: all.map(({ id }) => id),
      waiting: all
        .filter((job) => !isFinished(job))
        .map(({ id, operation }) => ({
          id,
          startsFromPicture: holdsFiles(operation),
          operation: withoutPictures(operation),
        })),
    };
    const text = JSON.stringify(value);
    if (text !== this.#written) {
      this.#written = text;
      await this.#witness.write(value);
    }
  }
}

function sentenceOfLoss(restored: number): string {
  switch (restored) {
    case 0:
      return 'The browser had lost the queue, which can happen when it is killed.';
    case 1:
      return 'The browser had lost the queue, which can happen when it is killed; 1 job that waited is in it again.';
    default:
      return `The browser had lost the queue, which can happen when it is killed; ${restored} jobs that waited are in it again.`;
  }
}

function sentenceOfRest(lost: number): string[] {
  switch (lost) {
    case 0:
      return [];
    case 1:
      return ['1 job could not be put back, with its pictures; submit it anew.'];
    default:
      return [`${lost} jobs could not be put back, with their pictures; submit them anew.`];
  }
}
