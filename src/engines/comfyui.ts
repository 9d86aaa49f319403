/** ComfyUI servers: one or several, of which the least busy that has what a graph needs makes it; another one takes over when it dies. */
import * as v from 'valibot';
import type { ComfyGraph, ComfyJobRef, ComfyNews, ComfyResult, ComfyUi } from '../core/comfyui.ts';
import { classesOf, editorSchema, graphOfEditor } from '../core/editor_workflow.ts';
import { StudioError } from '../core/errors.ts';
import { secretOf } from '../core/remote.ts';
import type { Probe, RemoteServer } from '../core/remote.ts';
import { GraphRun, RUN_PATIENCE, ServerGone } from './comfyui/graph_run.ts';
import type { RunPatience } from './comfyui/graph_run.ts';
import { missingOf, missingSentence, optionsOf } from './comfyui/needs_of_graph.ts';
import type { NodeInfo } from './comfyui/needs_of_graph.ts';
import { otherStatus } from './comfyui/refusal.ts';
import type { EngineSurroundings, ProbeSurroundings, RemoteEngine } from './engine.ts';
import { ServerCalls, jsonOf } from './http/server_calls.ts';
import { refusedByBrowser } from './http/reach.ts';

const NAME = 'ComfyUI';

export const engine: RemoteEngine = {
  id: 'comfyui',
  label: { en: 'ComfyUI', de: 'ComfyUI' },
  servers: {
    address: 'http://127.0.0.1:8188',
    leaves: 'Your words, settings and pictures go to this server; whoever can reach it sees them there.',
    key: 'optional',
    settings: [],
  },
  probe,
  open: (surroundings) => ComfyPool.open(surroundings),
};

/** What tests replace. */
export interface ComfyMeans {
  fetch?: typeof fetch;
  socket: typeof WebSocket | null;
  newId: () => string;
  patience: RunPatience;
}

/** Node has had a WebSocket of its own since version 22. */
const usual: ComfyMeans = {
  socket: (globalThis as { WebSocket?: typeof WebSocket }).WebSocket ?? null,
  newId: () => crypto.randomUUID(),
  patience: RUN_PATIENCE,
};

interface Member {
  server: RemoteServer;
  calls: ServerCalls;
}

/** `/object_info` by address and class: it changes when a server is started anew, so it lasts as long as the worker or until a refusal. */
const known = new Map<string, Map<string, NodeInfo | null>>();

/** By address, jobs of ours that were given to a server and are not over: its own queue shows them a moment later. */
const ours = new Map<string, number>();

/** By address, the model files of the last graph: a server that has them loaded comes first. */
const warm = new Map<string, string>();

export class ComfyPool implements ComfyUi {
  readonly #members: Member[];
  readonly #signal: AbortSignal;
  readonly #means: ComfyMeans;

  /** @throws StudioError `invalid_operation` where no server is entered */
  static async open({ servers, secret, signal }: EngineSurroundings, means: ComfyMeans = usual): Promise<ComfyPool> {
    const entered = await servers();
    if (entered.length === 0) {
      throw new StudioError(
        'invalid_operation',
        'No ComfyUI server is entered; enter one under "Engines", then try again.',
      );
    }
    const members = await Promise.all(
      entered.map(async (server) => ({
        server,
        calls: new ServerCalls({
          address: server.address,
          name: NAME,
          key: server.hasKey ? await keyOf(server, secret) : null,
          signal,
          fetch: means.fetch,
        }),
      })),
    );
    return new ComfyPool(members, signal, means);
  }

  private constructor(members: Member[], signal: AbortSignal, means: ComfyMeans) {
    this.#members = members;
    this.#signal = signal;
    this.#means = means;
  }

  async convert(saved: unknown): Promise<ComfyGraph> {
    const workflow = v.parse(editorSchema, saved);
    const types = classesOf(workflow);
    let failure: StudioError | null = null;
    for (const { calls } of this.#members) {
      try {
        const infos = await infosOf(calls, types);
        return graphOfEditor(workflow, (type) => infos.get(type) ?? null);
      } catch (error) {
        failure = StudioError.from(error);
      }
    }
    throw failure ?? new StudioError('origin_unavailable', 'No ComfyUI server answers; try again.', { retry: 'same' });
  }

  async run(graph: ComfyGraph, files: Readonly<Record<string, Blob>>, news: ComfyNews = {}): Promise<ComfyResult> {
    const first = await this.#choose(graph, null);
    try {
      return await this.#runOn(first, graph, files, news);
    } catch (error) {
      const gone = StudioError.from(error);
      if (gone.code !== 'origin_unavailable' || this.#signal.aborted) {
        throw gone;
      }
      // Nothing of a job is recorded before all of it is here, so that another one may make it, once.
      const other = await this.#choose(graph, first).catch(() => null);
      if (!other && !(gone instanceof ServerGone)) {
        throw gone;
      }
      return this.#runOn(other ?? (await this.#choose(graph, null)), graph, files, news);
    }
  }

  async rejoin(
    { server, promptId }: ComfyJobRef,
    graph: ComfyGraph,
    news: ComfyNews = {},
  ): Promise<ComfyResult | null> {
    const member = this.#members.find(({ calls }) => calls.address === server);
    return member ? this.#newRun(member, graph, news).rejoin(promptId) : null;
  }

  async #runOn(
    member: Member,
    graph: ComfyGraph,
    files: Readonly<Record<string, Blob>>,
    news: ComfyNews,
  ): Promise<ComfyResult> {
    try {
      const result = await this.#newRun(member, graph, news).run(files);
      warm.set(member.calls.address, modelsOf(graph));
      return result;
    } catch (error) {
      // What it can do may have changed.
      known.delete(member.calls.address);
      throw error;
    } finally {
      count(member, -1);
    }
  }

  #newRun({ calls }: Member, graph: ComfyGraph, news: ComfyNews): GraphRun {
    const { socket, newId, patience } = this.#means;
    // A browser sends no header with a socket, so a server behind a key is asked instead.
    const isOpen = calls.options.key === null;
    return new GraphRun(graph, { calls, signal: this.#signal, socket: isOpen ? socket : null, newId, patience }, news);
  }

  /**
   * The least busy server that has the nodes and models of a graph; of equally busy ones the one that has used these models last.
   * @param except one that has just failed
   * @throws StudioError what each of them lacks, or why none answers
   */
  async #choose(graph: ComfyGraph, except: Member | null): Promise<Member> {
    const members = this.#members.filter((member) => member !== except);
    const judged = await Promise.all(
      members.map(async (member) => {
        try {
          return { member, ...(await judge(member, graph)) };
        } catch (error) {
          return { member, load: Infinity, refusal: StudioError.from(error) };
        }
      }),
    );
    const able = judged.filter(({ refusal }) => refusal === null);
    const models = modelsOf(graph);
    able.sort(
      (a, b) =>
        a.load - b.load ||
        Number(warm.get(b.member.calls.address) === models) - Number(warm.get(a.member.calls.address) === models),
    );
    const [best] = able;
    if (best) {
      count(best.member, 1);
      return best.member;
    }
    const refusals = judged.flatMap(({ refusal }) => (refusal ? [refusal] : []));
    // One that lacks something says more than one that is not there.
    const said = refusals.find(({ code }) => code === 'invalid_operation') ?? refusals[0];
    throw said ?? new StudioError('origin_unavailable', 'No ComfyUI server answers; try again.', { retry: 'same' });
  }
}

async function keyOf(server: RemoteServer, secret: EngineSurroundings['secret']): Promise<string> {
  try {
    return await secret(secretOf(server));
  } catch (cause) {
    throw new StudioError(
      'invalid_operation',
      `The key of ${server.address} is not here any more; enter it under "Engines", then try again.`,
      { cause },
    );
  }
}

async function judge({ calls }: Member, graph: ComfyGraph): Promise<{ load: number; refusal: StudioError | null }> {
  const types = [...new Set(Object.values(graph).map(({ class_type: type }) => type))];
  const [infos, queue] = await Promise.all([infosOf(calls, types), queueLength(calls)]);
  const lacks = missingSentence(
    missingOf(graph, (type) => infos.get(type) ?? null),
    calls.address,
  );
  if (lacks !== null) {
    // Models that are put there later are seen then.
    known.delete(calls.address);
  }
  return {
    load: Math.max(queue, ours.get(calls.address) ?? 0),
    refusal: lacks === null ? null : new StudioError('invalid_operation', lacks),
  };
}

async function infosOf(calls: ServerCalls, types: readonly string[]): Promise<Map<string, NodeInfo | null>> {
  const infos = known.get(calls.address) ?? new Map<string, NodeInfo | null>();
  known.set(calls.address, infos);
  await Promise.all(
    types.filter((type) => !infos.has(type)).map(async (type) => infos.set(type, await infoOf(calls, type))),
  );
  return infos;
}

/** Null for a class that the server does not have, of which it says `{}`. */
async function infoOf(calls: ServerCalls, type: string): Promise<NodeInfo | null> {
  const answer = await calls.ask(`/object_info/${encodeURIComponent(type)}`);
  if (answer.status !== 200) {
    throw new StudioError('origin_unavailable', otherStatus(answer.status, NAME), { retry: 'same' });
  }
  const info = (await jsonOf(answer)) as Record<string, NodeInfo> | undefined;
  return info && Object.hasOwn(info, type) ? info[type] : null;
}

const promptSchema = v.object({ exec_info: v.object({ queue_remaining: v.number() }) });

async function queueLength(calls: ServerCalls): Promise<number> {
  const result = v.safeParse(promptSchema, await jsonOf(await calls.ask('/prompt')));
  return result.success ? result.output.exec_info.queue_remaining : 0;
}

function count({ calls: { address } }: Member, change: number): void {
  ours.set(address, (ours.get(address) ?? 0) + change);
}

function modelsOf(graph: ComfyGraph): string {
  const names = Object.values(graph).flatMap(({ inputs }) => Object.values(inputs));
  return names
    .filter((value) => typeof value === 'string' && value.endsWith('.safetensors'))
    .sort()
    .join('\n');
}

const statsSchema = v.object({
  system: v.object({ comfyui_version: v.optional(v.string()) }),
  devices: v.fallback(v.array(v.object({ name: v.string() })), []),
});

/** How long a server may take to say what it is, in milliseconds. */
const PROBE_WITHIN = 15_000;

async function probe(server: RemoteServer, { key, origin, signal }: ProbeSurroundings): Promise<Probe> {
  const calls = new ServerCalls({ address: server.address, name: NAME, key, signal });
  const flag = ['--enable-cors-header', origin].join(' ');
  try {
    const answer = await calls.ask('/system_stats', {}, PROBE_WITHIN);
    if (answer.status !== 200) {
      return { isUp: false, sentence: otherStatus(answer.status, NAME), flag };
    }
    const stats = v.safeParse(statsSchema, await jsonOf(answer));
    if (!stats.success) {
      return { isUp: false, sentence: `What answers at ${server.address} is not ComfyUI; check host and port.` };
    }
    const { system, devices } = stats.output;
    if (system.comfyui_version === undefined) {
      return {
        isUp: false,
        sentence: 'This ComfyUI is too old: it does not say its version; update it, then look again.',
      };
    }
    const [device] = devices;
    const loader = await infoOf(calls, 'CheckpointLoaderSimple');
    return {
      isUp: true,
      sentence: `ComfyUI ${[system.comfyui_version, ...(device ? [`(${device.name})`] : [])].join(' ')} answers.`,
      models: (loader && optionsOf(loader, 'ckpt_name')) ?? [],
    };
  } catch (error) {
    const { code, message } = StudioError.from(error);
    return code === 'origin_unavailable'
      ? refusedByBrowser(server.address, { name: NAME, path: '/system_stats', flag, signal })
      : { isUp: false, sentence: message };
  }
}
