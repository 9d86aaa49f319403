/** What doors can ask beside jobs: `engine_desk.ts` answers it, in the tab that serves the channel. */
import { StudioError } from '../core/errors.ts';

/** What may be asked; also a message's type on the channel. */
export const ENGINE_QUESTIONS = ['engine', 'prepare', 'unload', 'checkpoints', 'look', 'fetch', 'remove'] as const;
export type EngineQuestion = (typeof ENGINE_QUESTIONS)[number];

/** Rejects with a StudioError. */
export type AskEngine = (type: EngineQuestion, asked: object) => Promise<unknown>;

export const nobody: AskEngine = () =>
  Promise.reject(
    new StudioError('worker_failed', 'No tab of Darkroom is open in this browser; open one, then try again.', {
      retry: 'same',
    }),
  );
