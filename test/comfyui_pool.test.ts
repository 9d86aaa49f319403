/** Several ComfyUI servers as one engine: which one takes a job, what happens when it fails, and that nothing is lost or made twice. */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { execute } from '../chunks/comfyui_workflow.ts';
import type { Context } from '../src/core/chunk.ts';
import type { ComfyGraph, ComfyNews } from '../src/core/comfyui.ts';
import { StudioError } from '../src/core/errors.ts';
import type { MadeFile } from '../src/core/remote.ts';
import { ComfyPool, POOL_PATIENCE } from '../src/engines/comfyui/pool.ts';
import { MemoryFileStore } from '../src/recorder/memory_file_store.ts';
import { Recorder } from '../src/recorder/recorder.ts';
import { WorkingComfyUi } from './working_comfyui.ts';

const QUICK = {
  ...POOL_PATIENCE,
  poll: 5,
  silence: 500,
  reconnect: 5,
  gone: 3000,
  judge: 2000,
  rest: 300,
  back: 60_000,
};

const started: WorkingComfyUi[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((server) => server.kill()));
});

async function working(...msPerJob: number[]): Promise<WorkingComfyUi[]> {
  const servers = await Promise.all(msPerJob.map((ms) => WorkingComfyUi.start(ms)));
  started.push(...servers);
  return servers;
}

/** No two are alike. */
function graphOf(number: number, model = 'a.safetensors'): ComfyGraph {
  return { '1': { class_type: 'Make', inputs: { number, model } } };
}

type Pool = typeof ComfyPool;

function poolOf(
  servers: readonly WorkingComfyUi[],
  { signal = new AbortController().signal, means = {}, Pool = ComfyPool } = {},
): Promise<ComfyPool> {
  return Pool.open(
    {
      servers: () =>
        Promise.resolve(
          servers.map(({ url }, at) => ({
            id: String(at),
            engine: 'comfyui',
            address: url,
            settings: {},
            hasKey: false,
          })),
        ),
      secret: () => Promise.reject(new Error('no key')),
      used: () => undefined,
      signal,
    },
    { socket: WebSocket, newId: () => crypto.randomUUID(), patience: QUICK, ...means },
  );
}

async function run(servers: readonly WorkingComfyUi[], graph: ComfyGraph, news?: ComfyNews) {
  return (await poolOf(servers)).run(graph, {}, news);
}

function failure(promise: Promise<unknown>): Promise<StudioError> {
  return promise.then(
    () => {
      throw new Error('It did not fail.');
    },
    (error: unknown) => StudioError.from(error),
  );
}

describe('a job goes', () => {
  test('to one server each, and waits for the next one that is free', async () => {
    const servers = await working(300, 300);
    await Promise.all([1, 2, 3, 4, 5, 6].map((number) => run(servers, graphOf(number))));
    expect(servers.map(({ computed }) => computed.length)).toEqual([3, 3]);
    for (const { computed } of servers) {
      // None waited in one server's queue while another was free.
      expect(computed.every((job, at) => at === 0 || job.acceptedAt >= computed[at - 1].endedAt)).toBe(true);
    }
  });

  test('to the one that has its nodes', async () => {
    const [first, second] = await working(5, 5);
    first.lacks.add('Make');
    expect((await run([first, second], graphOf(1))).server).toBe(second.url);
    expect((await failure(run([first], graphOf(2)))).message).toContain('lacks the node "Make"');
    // As when somebody installs it.
    first.lacks.clear();
    expect((await run([first], graphOf(3))).server).toBe(first.url);
  });

  test('to the one that has its models loaded, and else to the one with more memory', async () => {
    const servers = await working(5, 5);
    servers[1].memory = 24 * 2 ** 30;
    expect((await run(servers, graphOf(1, 'a.safetensors'))).server).toBe(servers[1].url);
    const [away] = [run([servers[1]], graphOf(2, 'a.safetensors'))];
    expect((await run([servers[0]], graphOf(3, 'b.safetensors'))).server).toBe(servers[0].url);
    await away;
    expect((await run(servers, graphOf(4, 'b.safetensors'))).server).toBe(servers[0].url);
    expect((await run(servers, graphOf(5, 'a.safetensors'))).server).toBe(servers[1].url);
  });

  test('to the one without a line of others', async () => {
    const [busy, free] = await working(60_000, 5);
    const strangers = [1, 2, 3].map((number) =>
      fetch(`${busy.url}/prompt`, {
        method: 'POST',
        body: JSON.stringify({ prompt: graphOf(number), client_id: 'x', prompt_id: crypto.randomUUID() }),
      }),
    );
    await Promise.all(strangers);
    const two = await Promise.all([run([busy, free], graphOf(4)), run([busy, free], graphOf(5))]);
    expect(two.map(({ server }) => server)).toEqual([free.url, free.url]);
  });

  test('past a server that hangs, without waiting for it', async () => {
    const servers = await working(5, 5);
    servers[0].isHung = true;
    for (let number = 0; number < 3; number++) {
      expect((await run(servers, graphOf(number))).server).toBe(servers[1].url);
    }
  });
});

describe('a server that fails a job hands it to another one', () => {
  test.each<[string, (server: WorkingComfyUi) => unknown]>([
    ['killed', (server) => server.kill()],
    ['hung', (server) => (server.isHung = true)],
    ['restarted, with its history lost', (server) => server.restart()],
    [
      'out of memory',
      (server) => (server.fails = { exception_type: 'torch.OutOfMemoryError', exception_message: 'no' }),
    ],
    [
      'without space on its disk',
      (server) =>
        (server.fails = { exception_type: 'OSError', exception_message: '[Errno 28] No space left on device' }),
    ],
    ['stuck', (server) => (server.isStuck = true)],
  ])('%s', async (_, breakIt) => {
    const [first, second] = await working(40, 40);
    second.memory = 1;
    const told: string[] = [];
    const means = { patience: { ...QUICK, stuck: 2000 }, calls: { answer: 1500 } };
    const engine = await poolOf([first, second], { means });
    const broken: unknown[] = [];
    const result = await engine.run(
      graphOf(1),
      {},
      {
        onAccepted: ({ server }) => void (server === first.url && broken.push(breakIt(first))),
        onHandedOn: (reason) => told.push(reason),
      },
    );
    expect(broken).toHaveLength(1);
    expect(result.server).toBe(second.url);
    expect(result.files).toHaveLength(1);
    expect(told).toHaveLength(1);
    expect(told[0]).toMatch(/^ComfyUI [^\n]+\.$/);
    expect(second.computed).toHaveLength(1);
  });

  test('or gets it once more where it is the only one and is back', async () => {
    const [server] = await working(40);
    let restarts = 0;
    const result = await run([server], graphOf(1), {
      onAccepted: () => {
        if (restarts++ === 0) {
          void server.kill().then(() => server.restart());
        }
      },
    });
    expect(result.files).toHaveLength(1);
    expect(server.accepted.size).toBe(2);
    expect(server.computed).toHaveLength(1);
  });

  test('and says why where no other one can do it', async () => {
    const [server] = await working(5);
    server.fails = { exception_type: 'torch.OutOfMemoryError', exception_message: 'Allocation on device' };
    expect(await failure(run([server], graphOf(1)))).toMatchObject({
      code: 'out_of_memory',
      retry: 'smaller',
      message: 'ComfyUI ran out of memory in the node "Make"; make it smaller, or free memory there.',
    });
    await server.kill();
    const means = { patience: { ...QUICK, back: 50 } };
    const engine = await poolOf([server], { means });
    expect(await failure(engine.run(graphOf(2), {}))).toMatchObject({ code: 'origin_unavailable', retry: 'same' });
  });

  test('and is told to stop what is made elsewhere now', async () => {
    const [first, second] = await working(1000, 5);
    second.memory = 1;
    const engine = await poolOf([first, second], { means: { patience: { ...QUICK, stuck: 60 } } });
    const taken: string[] = [];
    first.msPerJob = 100_000;
    await engine.run(graphOf(1), {}, { onAccepted: ({ promptId }) => taken.push(promptId) });
    await expect.poll(() => first.accepted.get(taken[0])?.isCancelled).toBe(true);
    expect(second.accepted.get(taken[1])?.isCancelled).toBe(false);
  });
});

/** What another tab loads; nothing is shared. */
async function freshPool(): Promise<Pool> {
  vi.resetModules();
  return (await import('../src/engines/comfyui/pool.ts')).ComfyPool;
}

describe('two tabs on one server', () => {
  test('each get their own results, and cancel their own jobs', async () => {
    // The first job would run on, so it is certainly there to be cancelled.
    const servers = await working(60_000);
    const tabs = [ComfyPool, await freshPool()];
    const stopping = new AbortController();
    const engine = await poolOf(servers, { signal: stopping.signal });
    const stopped = failure(engine.run(graphOf(0), {}, { onAccepted: () => stopping.abort() }));
    await new Promise((aborted) => stopping.signal.addEventListener('abort', aborted));
    servers[0].msPerJob = 50;
    const jobs = [1, 2, 3, 4].map(async (number) => {
      const engine = await poolOf(servers, { Pool: tabs[number % 2] });
      const { files, promptId } = await engine.run(graphOf(number), {});
      expect(files.map(({ name }) => name?.filename)).toEqual([`${promptId}.png`]);
      return servers[0].accepted.get(promptId)?.graph['1'].inputs.number;
    });
    expect(await Promise.all(jobs)).toEqual([1, 2, 3, 4]);
    expect((await stopped).code).toBe('cancelled');
    expect(
      [...servers[0].accepted.values()]
        .filter(({ isCancelled }) => isCancelled)
        .map(({ graph }) => graph['1'].inputs.number),
    ).toEqual([0]);
  });
});

test('a client id that somebody takes costs previews, not the result', async () => {
  const [server] = await working(60);
  const { files, promptId } = await run([server], graphOf(1), {
    onAccepted: ({ promptId: id }) => {
      // The server keeps one connection per id, and forgets the id when any of them closes.
      const thief = new WebSocket(
        `${server.url.replace('http', 'ws')}/ws?clientId=${server.accepted.get(id)?.clientId}`,
      );
      thief.addEventListener('open', () => thief.close());
    },
  });
  expect(files.map(({ name }) => name?.filename)).toEqual([`${promptId}.png`]);
  expect(server.accepted.size).toBe(1);
});

/** How many; `npm run soak -- --interruptions 500 --seed 7` asks for more. */
const INTERRUPTIONS = Number(process.env.INTERRUPTIONS ?? 40);
const SEED = Number(process.env.INTERRUPTION_SEED ?? 7);
const KINDS = ['kill', 'restart', 'hang', 'cut', 'answers', 'reload'] as const;

/** A tab and what it has loaded. A closed one sends nothing to anyone. */
class Tab {
  isClosed = false;
  readonly closed: Promise<'closed'>;
  readonly #servers: readonly WorkingComfyUi[];
  readonly #Pool: Pool;
  readonly #sockets = new Set<WebSocket>();
  #close: () => void = () => undefined;

  static async open(servers: readonly WorkingComfyUi[]): Promise<Tab> {
    return new Tab(servers, await freshPool());
  }

  private constructor(servers: readonly WorkingComfyUi[], Pool: Pool) {
    this.#servers = servers;
    this.#Pool = Pool;
    this.closed = new Promise((over) => (this.#close = () => over('closed')));
  }

  close(): void {
    this.isClosed = true;
    this.#sockets.forEach((socket) => socket.close());
    this.#close();
  }

  engine(): Promise<ComfyPool> {
    const sockets = this.#sockets;
    const isClosed = () => this.isClosed;
    const silence = new Promise<never>(() => undefined);
    class TabSocket extends WebSocket {
      constructor(url: string) {
        // A closed one belongs to nobody.
        super(isClosed() ? 'ws://127.0.0.1:1' : url);
        sockets.add(this);
      }
    }
    const means = {
      patience: { ...QUICK, gone: 600, judge: 600, back: 20_000 },
      calls: { answer: 1500 },
      socket: TabSocket as unknown as typeof WebSocket,
      fetch: (...asked: Parameters<typeof fetch>) => (this.isClosed ? silence : fetch(...asked)),
    };
    return poolOf(this.#servers, { means, Pool: this.#Pool });
  }
}

test(
  `${INTERRUPTIONS} random interruptions lose no job and record none twice`,
  async () => {
    const random = mulberry(SEED);
    const servers = await working(30, 30, 30);
    const recorder = new Recorder(new MemoryFileStore());
    const run = await recorder.openRun({ config_name: 'soak', operation: null, expected_outputs: [] });
    const counts = Object.fromEntries(KINDS.map((kind) => [kind, 0])) as Record<(typeof KINDS)[number], number>;
    let tab = await Tab.open(servers);
    let [isOver, number, done] = [false, 0, 0];
    const lost: string[] = [];

    /** One attempt at a job, as started by the queue. @returns whether the job has ended */
    const attempt = async (mine: number, kept: { state: unknown }): Promise<boolean> => {
      const here = tab;
      const engine = await here.engine();
      const context = {
        ...{ progress: () => undefined, notice: () => undefined, develop: () => undefined, place: () => undefined },
        keep: (state: unknown) => {
          kept.state = here.isClosed ? kept.state : state;
        },
        engine: () => Promise.resolve(engine),
        resume: kept.state,
      } as unknown as Context;
      const input = { operation: 'image_generation', workflow: graphOf(mine), seed: '1' } as const;
      const made = execute(input, context).catch((error: Error) => error);
      const outputs = await Promise.race([made, here.closed]);
      if (outputs === 'closed') {
        return false;
      }
      if (outputs instanceof Error) {
        lost.push(`${mine}: ${outputs.message}`);
        return true;
      }
      for (const { file, metadata } of outputs.images as MadeFile[]) {
        await recorder.saveFromBlob(run, 'output_image', file, { number: mine, ...metadata });
      }
      return true;
    };

    const work = async () => {
      while (!isOver) {
        const mine = number++;
        const kept = { state: null };
        while (!(await attempt(mine, kept))) {
          // It continues in the tab opened in its place.
        }
        done += 1;
      }
    };

    const moment = () => new Promise<void>((over) => setTimeout(over, 20 + random() * 120));
    const interruptions: Record<(typeof KINDS)[number], (server: WorkingComfyUi) => Promise<void>> = {
      kill: async (server) => {
        await server.kill();
        await moment();
        await server.restart();
      },
      restart: (server) => server.restart(),
      hang: async (server) => {
        server.isHung = true;
        await moment();
        server.isHung = false;
      },
      cut: (server) => Promise.resolve(server.cutSockets()),
      answers: async (server) => {
        server.breaks = () => random() < 0.5;
        await moment();
        server.breaks = () => false;
      },
      reload: async () => {
        const old = tab;
        tab = await Tab.open(servers);
        old.close();
      },
    };

    const workers = [1, 2, 3, 4].map(work);
    for (let at = 0; at < INTERRUPTIONS; at++) {
      const kind = KINDS[Math.floor(random() * KINDS.length)];
      counts[kind] += 1;
      const ended = done;
      await interruptions[kind](servers[Math.floor(random() * servers.length)]);
      await vi.waitUntil(() => done > ended, { timeout: 30_000, interval: 5 });
      await moment();
    }
    isOver = true;
    await Promise.all(workers);
    const { entities } = await recorder.readRun(run);
    const recorded = entities.map(({ metadata }) => metadata.number as number).sort((a, b) => a - b);
    if (process.env.INTERRUPTIONS !== undefined) {
      const made = servers.reduce((sum, { computed }) => sum + computed.length, 0);
      console.log(
        `seed ${SEED}: ${JSON.stringify(counts)}; ${number} jobs, ${made} computed, ${recorded.length} recorded, ${lost.length} lost`,
      );
    }
    expect(lost).toEqual([]);
    expect(recorded).toEqual(Array.from({ length: number }, (_, at) => at));
  },
  60_000 + 2000 * INTERRUPTIONS,
);

/** A small seeded generator of numbers from 0 to 1. */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
