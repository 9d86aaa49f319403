/** The service worker's way to the engine: it asks whichever tab serves the channel. */
import { StudioError } from '../core/errors.ts';
import type { StudioErrorData } from '../core/errors.ts';
import { TASKS_CHANNEL, UPDATES_CHANNEL } from './channel.ts';
import type { TaskChannel } from './channel.ts';
import { nobody } from './engine_questions.ts';
import type { AskEngine } from './engine_questions.ts';

/** Milliseconds after which a message counts as lost. */
const AGAIN_AFTER = 1000;
/** Tries before concluding that no tab is open. */
const TRIES = 5;

/**
 * Asks the tab that serves the channel.
 * @returns its answer; rejects with its StudioError, or with `worker_failed` if no tab is open
 */
export function askTab(open: (name: string) => TaskChannel, pause: (ms: number) => Promise<void>): AskEngine {
  return async (type, asked) => {
    const id = crypto.randomUUID();
    const tasks = open(TASKS_CHANNEL);
    const updates = open(UPDATES_CHANNEL + id);
    let isHeard = false;
    try {
      const answer = new Promise<unknown>((resolve, reject) => {
        updates.onmessage = ({ data }) => {
          const update = data as { type?: unknown; answer?: unknown; error?: StudioErrorData };
          isHeard = true;
          if (update.type === 'answer') {
            resolve(update.answer);
          } else if (update.type === 'error' && update.error) {
            reject(StudioError.fromData(update.error));
          }
        };
      });
      const silence = async (): Promise<unknown> => {
        for (let tries = 0; tries < TRIES && !isHeard; tries++) {
          tasks.postMessage({ ...asked, type, id });
          await pause(AGAIN_AFTER);
        }
        if (!isHeard) {
          return nobody(type, asked);
        }
        return answer;
      };
      return await Promise.race([answer, silence()]);
    } finally {
      tasks.close();
      updates.close();
    }
  };
}
