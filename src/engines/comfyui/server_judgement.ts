/** What a server has and how busy it is: nodes and models, queue, memory. */
import * as v from 'valibot';
import type { ComfyGraph } from '../../core/comfyui.ts';
import { StudioError } from '../../core/errors.ts';
import { jsonOf } from '../http/server_calls.ts';
import type { ServerCalls } from '../http/server_calls.ts';
import { missingOf, missingSentence } from './needs_of_graph.ts';
import type { NodeInfo } from './needs_of_graph.ts';
import { otherStatus } from './refusal.ts';
import { ServerFailure } from './server_failure.ts';

export interface Judgement {
  /** Jobs in its queue, including the running one. */
  queue: number;
  /** Total memory of its largest device in bytes; 0 if unknown. */
  memory: number;
  /** A sentence on what it lacks for a graph; null if nothing. */
  lacks: string | null;
}

/** By address and class. `/object_info` changes when a server restarts, so it is cached only until a failure. */
const known = new Map<string, { infos: Map<string, NodeInfo | null>; memory: number | null }>();

export async function judge(calls: ServerCalls, graph: ComfyGraph): Promise<Judgement> {
  const types = [...new Set(Object.values(graph).map(({ class_type: type }) => type))];
  const [infos, queue, memory] = await Promise.all([infosOf(calls, types), queueLength(calls), memoryOf(calls)]);
  const lacks = missingSentence(
    missingOf(graph, (type) => infos.get(type) ?? null),
    calls.address,
  );
  if (lacks !== null) {
    // This also notices models added later.
    forget(calls);
  }
  return { queue, memory, lacks };
}

/** Its nodes and models may have changed. */
export function forget({ address }: ServerCalls): void {
  known.delete(address);
}

/** Definitions of node classes; null for one the server does not have. */
export async function infosOf(calls: ServerCalls, types: readonly string[]): Promise<Map<string, NodeInfo | null>> {
  const { infos } = knownOf(calls);
  await Promise.all(
    types.filter((type) => !infos.has(type)).map(async (type) => infos.set(type, await infoOf(calls, type))),
  );
  return infos;
}

/** Null for a class the server does not have, for which it answers `{}`. */
export async function infoOf(calls: ServerCalls, type: string): Promise<NodeInfo | null> {
  const answer = await calls.ask(`/object_info/${encodeURIComponent(type)}`, {}, undefined, LARGEST);
  if (answer.status !== 200) {
    throw new ServerFailure('unable', 'origin_unavailable', otherStatus(answer.status, calls.options.name));
  }
  const info = (await jsonOf(answer)) as Record<string, NodeInfo> | undefined;
  return info && Object.hasOwn(info, type) ? info[type] : null;
}

/** Of an answer, in bytes. */
const LARGEST = 64 * 2 ** 20;

const promptSchema = v.object({ exec_info: v.object({ queue_remaining: v.number() }) });

async function queueLength(calls: ServerCalls): Promise<number> {
  const result = v.safeParse(promptSchema, await jsonOf(await calls.ask('/prompt', {}, undefined, LARGEST)));
  return result.success ? result.output.exec_info.queue_remaining : 0;
}

const devicesSchema = v.object({ devices: v.array(v.object({ vram_total: v.fallback(v.number(), 0) })) });

async function memoryOf(calls: ServerCalls): Promise<number> {
  const facts = knownOf(calls);
  if (facts.memory === null) {
    const stats = v.safeParse(devicesSchema, await jsonOf(await calls.ask('/system_stats', {}, undefined, LARGEST)));
    facts.memory = stats.success ? Math.max(0, ...stats.output.devices.map(({ vram_total: bytes }) => bytes)) : 0;
  }
  return facts.memory;
}

function knownOf({ address }: ServerCalls) {
  const facts = known.get(address) ?? { infos: new Map<string, NodeInfo | null>(), memory: null };
  known.set(address, facts);
  return facts;
}

/** @throws StudioError where nothing answers */
export function nobodyAnswers(): StudioError {
  return new StudioError('origin_unavailable', 'No ComfyUI server answers; start one, then try again.', {
    retry: 'same',
  });
}
