/**
 * Several ComfyUI servers as one engine. A job goes to the least busy server that has its nodes and models, with one of our jobs per
 * server at a time; if a server fails, another takes over. A job is only recorded once all of it is here, so nothing is recorded twice.
 */
import * as v from 'valibot';
import type { ComfyGraph, ComfyJobRef, ComfyNews, ComfyResult, ComfySurvey, ComfyUi } from '../../core/comfyui.ts';
import { classesOf, editorSchema, graphOfEditor } from '../../core/editor_workflow.ts';
import { StudioError, cancelled } from '../../core/errors.ts';
import { keyOf } from '../http/server_key.ts';
import type { RemoteServer } from '../../core/remote.ts';
import { fieldsOfGraph, readGraph } from '../../core/workflow.ts';
import type { EngineSurroundings } from '../engine.ts';
import { ServerCalls } from '../http/server_calls.ts';
import type { CallPatience } from '../http/server_calls.ts';
import { GraphRun, RUN_PATIENCE } from './graph_run.ts';
import type { RunPatience } from './graph_run.ts';
import { optionsOf } from './needs_of_graph.ts';
import { forget, infosOf, judge, nobodyAnswers } from './server_judgement.ts';
import { ServerFailure } from './server_failure.ts';

export const NAME = 'ComfyUI';

/** In milliseconds. */
export interface PoolPatience extends RunPatience {
  /** Timeout for a server's status once others have answered. */
  judge: number;
  /** How long a server that did not answer is asked last. */
  rest: number;
  /** How long to wait for a server to come back if no other can continue a job. */
  back: number;
}

export const POOL_PATIENCE: PoolPatience = { ...RUN_PATIENCE, judge: 1500, rest: 30_000, back: 120_000 };

/** Replaced in tests. */
export interface ComfyMeans {
  fetch?: typeof fetch;
  socket: typeof WebSocket | null;
  newId: () => string;
  patience: PoolPatience;
  calls?: Partial<CallPatience>;
}

/** Node has a built-in WebSocket since version 22. */
const usual: ComfyMeans = {
  socket: (globalThis as { WebSocket?: typeof WebSocket }).WebSocket ?? null,
  newId: () => crypto.randomUUID(),
  patience: POOL_PATIENCE,
};

interface Member {
  server: RemoteServer;
  calls: ServerCalls;
}

/** How many times an accepted job is handed to another server, or again to one that forgot it: the job itself may be what crashes them. */
const HANDED_ON = 3;

/** What this worker's jobs know about a server, by address. */
interface Shared {
  /** Our jobs running there: at most one, apart from those found again after a reload. */
  ours: number;
  /** The model files of its last graph; a server that has them loaded is preferred. */
  models: string;
  /** When it last failed to answer; -Infinity if it answers. */
  missedAt: number;
  /** Whether it has ever answered, and so is worth waiting for. */
  isKnown: boolean;
}

const shared = new Map<string, Shared>();

/** Jobs waiting for a free server. */
const waiting = new Set<() => void>();

export class ComfyPool implements ComfyUi {
  readonly #members: Member[];
  readonly #signal: AbortSignal;
  readonly #means: ComfyMeans;

  /** @throws StudioError `invalid_operation` if no server was entered */
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
          through: server.through,
          name: NAME,
          key: server.hasKey ? await keyOf(server, secret) : null,
          signal,
          fetch: means.fetch,
          patience: means.calls,
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
    throw failure ?? nobodyAnswers();
  }

  async survey(workflow: unknown): Promise<ComfySurvey> {
    const graph = v.is(editorSchema, workflow) ? await this.convert(workflow) : readGraph(workflow);
    const places = fieldsOfGraph(graph).filter(({ kind }) => kind === 'choice');
    const choices: ComfySurvey['choices'] = {};
    const servers = await Promise.all(
      this.#members.map(async ({ calls }) => {
        try {
          const { lacks } = await judge(calls, graph);
          const infos = await infosOf(calls, [...new Set(Object.values(graph).map((node) => node.class_type))]);
          for (const { place } of places) {
            const [node, input] = [place.slice(0, place.indexOf('.')), place.slice(place.indexOf('.') + 1)];
            const info = infos.get(graph[node].class_type);
            choices[place] = [...new Set([...(choices[place] ?? []), ...((info && optionsOf(info, input)) ?? [])])];
          }
          return { server: calls.address, problem: lacks };
        } catch (error) {
          return { server: calls.address, problem: StudioError.from(error).message };
        }
      }),
    );
    return { graph, choices, servers };
  }

  async run(graph: ComfyGraph, files: Readonly<Record<string, Blob>>, news: ComfyNews = {}): Promise<ComfyResult> {
    const failed = new Map<Member, ServerFailure>();
    let handed = 0;
    for (;;) {
      const member = await this.#choose(graph, failed);
      let isAccepted = false;
      const told: ComfyNews = {
        ...news,
        onAccepted: (job) => {
          isAccepted = true;
          news.onAccepted?.(job);
        },
      };
      try {
        return await this.#use(member, graph, (run) => run.run(files), told);
      } catch (thrown) {
        const error = StudioError.from(thrown);
        const failure = this.#signal.aborted ? null : ServerFailure.of(error);
        if (!failure || handed === HANDED_ON) {
          throw failure ?? error;
        }
        handed += isAccepted ? 1 : 0;
        failed.set(member, failure);
        news.onHandedOn?.(failure.message);
      }
    }
  }

  async rejoin(
    { server, promptId }: ComfyJobRef,
    graph: ComfyGraph,
    news: ComfyNews = {},
  ): Promise<ComfyResult | null> {
    const member = this.#members.find(({ calls }) => calls.address === server);
    if (!member) {
      return null;
    }
    const state = stateOf(member);
    state.ours += 1;
    state.isKnown = true;
    try {
      return await this.#use(member, graph, (run) => run.rejoin(promptId), news);
    } catch (thrown) {
      const error = StudioError.from(thrown);
      if (this.#signal.aborted || !ServerFailure.of(error)) {
        throw error;
      }
      return null; // Then it starts over, wherever possible.
    }
  }

  /** A chosen server, until it is released. */
  async #use<T>(member: Member, graph: ComfyGraph, work: (run: GraphRun) => Promise<T>, news: ComfyNews): Promise<T> {
    const { socket, newId, patience } = this.#means;
    let isFree = false;
    const free = () => {
      if (!isFree) {
        isFree = true;
        stateOf(member).ours -= 1;
        waiting.forEach((wake) => wake());
      }
    };
    // Browsers send no headers with a socket, so a server behind a key is polled instead.
    const isOpen = member.calls.options.key === null;
    const run = new GraphRun(
      graph,
      {
        calls: member.calls,
        signal: this.#signal,
        socket: isOpen ? socket : null,
        newId,
        patience: this.#members.length > 1 ? patience : { ...patience, stuck: Infinity },
        onComputed: free,
      },
      news,
    );
    try {
      const result = await work(run);
      stateOf(member).models = modelsOf(graph);
      return result;
    } catch (error) {
      forget(member.calls);
      if (ServerFailure.of(StudioError.from(error))?.kind === 'gone' && !this.#signal.aborted) {
        stateOf(member).missedAt = Date.now();
      }
      throw error;
    } finally {
      free();
    }
  }

  /**
   * Waits for a free server that can run the graph.
   * @param failed servers that failed this job; one that is gone may come back, and one that forgot the job may get it again
   * @throws StudioError what each server lacks, or why none answers
   */
  async #choose(graph: ComfyGraph, failed: ReadonlyMap<Member, ServerFailure>): Promise<Member> {
    const begun = Date.now();
    const { poll, back } = this.#means.patience;
    for (;;) {
      const freed = this.#nextFree(poll);
      const fresh = this.#members.filter((member) => !failed.has(member));
      const usable = [...failed].filter(([, { kind }]) => kind !== 'unable').map(([member]) => member);
      const first = await this.#judge(graph, fresh);
      const { able, refusals, lacking } = first.able.length > 0 ? first : await this.#judge(graph, usable, first);
      if (this.#signal.aborted) {
        throw cancelled();
      }
      // Waiting for a server that runs our jobs beats one with a queue of others' jobs.
      const best = able.find(({ member, load }) => stateOf(member).ours === 0 && load <= able[0].load + 1);
      if (best) {
        stateOf(best.member).ours += 1;
        return best.member;
      }
      // While the only server restarts, the waiting jobs must not fail one after another.
      const isAwaited = [...fresh, ...usable].some((member) => stateOf(member).isKnown && !lacking.has(member));
      const isComing = able.length > 0 || (isAwaited && Date.now() - begun < back);
      if (!isComing) {
        // A missing model is more informative than a server that is gone, and how the job failed most of all.
        const said = refusals.find(({ code }) => code === 'invalid_operation') ?? refusals[0];
        throw [...failed.values()].at(-1) ?? said ?? nobodyAnswers();
      }
      // Waiting jobs know who can run them, so a server that becomes free need not be asked again.
      const next = (await freed)
        ? able.find(({ member }) => stateOf(member).ours === 0 && !this.#isResting(member))
        : undefined;
      if (next && !this.#signal.aborted) {
        stateOf(next.member).ours += 1;
        return next.member;
      }
    }
  }

  /** The servers that can run a graph, best first, and why the others cannot. */
  async #judge(
    graph: ComfyGraph,
    members: readonly Member[],
    others: Pick<Verdict, 'refusals' | 'lacking'> = { refusals: [], lacking: new Set() },
  ): Promise<Verdict> {
    const within = this.#means.patience.judge;
    const asked = new Map<Member, Promise<Judged>>();
    const ask = (member: Member) => {
      const answer = asked.get(member) ?? judged(member, graph);
      asked.set(member, answer);
      return answer;
    };
    const awake = members.filter((member) => !this.#isResting(member));
    let answers = await Promise.all(awake.map((member) => inTime(ask(member), within)));
    if (!answers.some(isAble)) {
      // Nobody else can do it, so wait for the slower ones.
      answers = await Promise.all(members.map(ask));
    }
    awake.filter((_, at) => answers[at] === null).forEach((member) => (stateOf(member).missedAt = Date.now()));
    const models = modelsOf(graph);
    const refused = answers.flatMap((answer) => (answer === null || isAble(answer) ? [] : [answer]));
    const lacking = refused.filter(({ refusal }) => refusal.code === 'invalid_operation').map(({ member }) => member);
    const able = answers.filter(isAble);
    const isWarm = ({ member }: Able) => Number(stateOf(member).models === models);
    able.sort((a, b) => a.load - b.load || isWarm(b) - isWarm(a) || b.memory - a.memory);
    return {
      able,
      refusals: [...others.refusals, ...refused.map(({ refusal }) => refusal)],
      lacking: new Set([...others.lacking, ...lacking]),
    };
  }

  /** Whether it recently failed to answer. */
  #isResting(member: Member): boolean {
    return Date.now() - stateOf(member).missedAt < this.#means.patience.rest;
  }

  /** @returns true once one of our jobs released its server, false after some milliseconds, since others may have released one */
  #nextFree(within: number): Promise<boolean> {
    return new Promise((over) => {
      const end = (isFreed: boolean) => {
        clearTimeout(timer);
        waiting.delete(wake);
        this.#signal.removeEventListener('abort', wake);
        over(isFreed);
      };
      const wake = () => end(true);
      const timer = setTimeout(end, within, false);
      waiting.add(wake);
      this.#signal.addEventListener('abort', wake);
    });
  }
}

interface Able {
  member: Member;
  load: number;
  memory: number;
}

interface Verdict {
  /** The best one first. */
  able: Able[];
  refusals: StudioError[];
  /** The servers that answer but lack something. */
  lacking: ReadonlySet<Member>;
}

type Judged = Able | { member: Member; refusal: StudioError };

async function judged(member: Member, graph: ComfyGraph): Promise<Judged> {
  const state = stateOf(member);
  try {
    const { queue, memory, lacks } = await judge(member.calls, graph);
    state.missedAt = -Infinity;
    state.isKnown = true;
    return lacks === null
      ? { member, memory, load: Math.max(queue, state.ours) }
      : { member, refusal: new StudioError('invalid_operation', lacks) };
  } catch (error) {
    state.missedAt = Date.now();
    return { member, refusal: StudioError.from(error) };
  }
}

function isAble(answer: Judged | null): answer is Able {
  return answer !== null && !('refusal' in answer);
}

/** Null on timeout. */
async function inTime<T>(answer: Promise<T>, within: number): Promise<T | null> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<null>((over) => {
    timer = setTimeout(over, within, null);
  });
  return Promise.race([answer, late]).finally(() => clearTimeout(timer));
}

function stateOf({ calls: { address } }: Member): Shared {
  const state = shared.get(address) ?? { ours: 0, models: '', missedAt: -Infinity, isKnown: false };
  shared.set(address, state);
  return state;
}

function modelsOf(graph: ComfyGraph): string {
  const names = Object.values(graph).flatMap(({ inputs }) => Object.values(inputs));
  return names
    .filter((value) => typeof value === 'string' && value.endsWith('.safetensors'))
    .sort()
    .join('\n');
}
