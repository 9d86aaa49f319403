/** What a server's queue and history say about one job. */
import * as v from 'valibot';
import type { ComfyGraph } from '../../core/comfyui.ts';
import type { StudioError } from '../../core/errors.ts';
import { jsonOf } from '../http/server_calls.ts';
import type { ServerCalls } from '../http/server_calls.ts';
import { failureOf, interrupted, otherStatus } from './refusal.ts';
import { ServerFailure } from './server_failure.ts';
import { readExecutionError } from './socket_messages.ts';

/** A job in the history: how it ended, and its results. */
export interface Ended {
  /** Null if it succeeded. */
  error: StudioError | null;
  outputs: Record<string, unknown>;
}

export type Standing =
  /** @property ahead jobs before it, the running one included */
  { state: 'waiting'; ahead: number } | { state: 'running' } | { state: 'ended'; ended: Ended } | { state: 'unknown' };

const item = v.looseTuple([v.number(), v.string()]);
const queueSchema = v.object({ queue_running: v.array(item), queue_pending: v.array(item) });

const historySchema = v.record(
  v.string(),
  v.object({
    outputs: v.fallback(v.record(v.string(), v.unknown()), {}),
    status: v.fallback(v.object({ status_str: v.string(), messages: v.fallback(v.array(v.unknown()), []) }), {
      status_str: 'success',
      messages: [],
    }),
  }),
);

/** Of queue and history, in bytes: they hold the graphs of every job in them, and texts. */
const LARGEST = 64 * 2 ** 20;

/** Read in this order, since a job moves from the queue to the history atomically. */
export async function standingOf(calls: ServerCalls, promptId: string, graph: ComfyGraph): Promise<Standing> {
  const queue = v.safeParse(queueSchema, await jsonOf(await calls.ask('/queue', {}, undefined, LARGEST)));
  if (queue.success) {
    const { queue_running: running, queue_pending: pending } = queue.output;
    if (running.some(([, id]) => id === promptId)) {
      return { state: 'running' };
    }
    const mine = pending.find(([, id]) => id === promptId);
    if (mine) {
      return { state: 'waiting', ahead: running.length + pending.filter(([number]) => number < mine[0]).length };
    }
  }
  const ended = await endedJob(calls, promptId, graph);
  return ended ? { state: 'ended', ended } : queue.success ? { state: 'unknown' } : { state: 'running' };
}

/** Null if it is not in the history: it has not ended, or the server has forgotten it. */
export async function endedJob(calls: ServerCalls, promptId: string, graph: ComfyGraph): Promise<Ended | null> {
  const answer = await calls.ask(`/history/${promptId}`, {}, undefined, LARGEST);
  const { name } = calls.options;
  if (answer.status !== 200) {
    throw new ServerFailure('unable', 'origin_unavailable', otherStatus(answer.status, name));
  }
  const history = v.safeParse(historySchema, await jsonOf(answer));
  if (!history.success || !Object.hasOwn(history.output, promptId)) {
    return null;
  }
  const { outputs, status } = history.output[promptId];
  return { outputs, error: status.status_str === 'success' ? null : errorOf(status.messages, graph, name) };
}

function errorOf(messages: readonly unknown[], graph: ComfyGraph, server: string): StudioError {
  for (const message of messages) {
    const [type, data] = Array.isArray(message) ? (message as unknown[]) : [];
    const error = type === 'execution_error' ? readExecutionError(data) : null;
    if (error) {
      return failureOf(error, graph, server);
    }
  }
  return interrupted(server);
}
