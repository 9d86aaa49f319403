/**
 * A ComfyUI server that works, for soaks and benchmarks: it queues jobs, takes time for each, reports progress and keeps a history, like a
 * real one (`test/goldens/comfyui`). It makes no pictures: each job yields a small unique PNG. It can be killed, restarted and hung.
 */
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { deflateSync, crc32 } from 'node:zlib';
import { acceptSocket, frame } from './socket_frames.ts';

/** A job that it accepted. */
export interface WorkedJob {
  id: string;
  clientId: string;
  number: number;
  graph: Record<string, { class_type: string; inputs: Record<string, unknown> }>;
  acceptedAt: number;
  startedAt: number;
  endedAt: number;
  isCancelled: boolean;
}

const STEPS = 4;

export class WorkingComfyUi {
  /** Every accepted job by id, including those before a restart. */
  readonly accepted = new Map<string, WorkedJob>();
  /** Ids of finished jobs, in order. */
  readonly computed: WorkedJob[] = [];
  /** How long a job takes, in milliseconds. */
  msPerJob: number;
  isHung = false;
  /** Called for every request before it is answered; true = break the connection instead. */
  breaks: (request: IncomingMessage) => boolean = () => false;
  /** How a job ends in place of its result. */
  fails: { exception_type: string; exception_message: string } | null = null;
  /** Whether jobs never end. */
  isStuck = false;
  /** Of its largest device. */
  memory = 8 * 2 ** 30;
  /** Node classes that it lacks. */
  lacks = new Set<string>();
  #server: Server | null = null;
  #port = 0;
  readonly #connections = new Set<Duplex>();
  /** By client id: the one that was opened last. */
  #sockets = new Map<string, Duplex>();
  #pending: WorkedJob[] = [];
  #running: WorkedJob | null = null;
  #history = new Map<string, object>();
  #count = 0;
  #timer: ReturnType<typeof setTimeout> | null = null;
  /** Grows with every start, so that an earlier life stays silent. */
  #life = 0;

  private constructor(msPerJob: number) {
    this.msPerJob = msPerJob;
  }

  static async start(msPerJob: number): Promise<WorkingComfyUi> {
    const working = new WorkingComfyUi(msPerJob);
    await working.restart();
    return working;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Restarts at the same address without any memory of the past. */
  async restart(): Promise<void> {
    await this.kill();
    const server = createServer((request, response) => {
      this.#answer(request, response).catch(() => response.destroy());
    });
    server.on('upgrade', (request: IncomingMessage, socket: Duplex) => this.#open(request, socket));
    await new Promise<void>((listening, failed) => {
      server.once('error', failed);
      server.listen(this.#port, '127.0.0.1', listening);
    });
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Stops answering and loses everything it had. */
  async kill(): Promise<void> {
    this.#life += 1;
    clearTimeout(this.#timer ?? undefined);
    [this.#pending, this.#running] = [[], null];
    this.#history.clear();
    this.isHung = false;
    this.cutSockets();
    const server = this.#server;
    this.#server = null;
    server?.closeAllConnections();
    await new Promise<void>((closed) => (server ? server.close(() => closed()) : closed()));
  }

  cutSockets(): void {
    this.#connections.forEach((socket) => socket.destroy());
    this.#sockets.clear();
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      chunks.push(chunk as Buffer);
    }
    if (this.isHung) {
      return;
    }
    if (this.breaks(request)) {
      response.destroy();
      return;
    }
    response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Allow-Headers', 'Content-Type, Authorization');
    const { pathname, searchParams } = new URL(request.url ?? '/', this.url);
    const body = Buffer.concat(chunks).toString();
    const [, route, id = '', action = ''] = pathname.replace(/^\/api\/jobs/, '/jobs').split('/');
    if (request.method === 'OPTIONS') {
      response.end();
    } else if (request.method === 'POST' && route === 'prompt') {
      const {
        prompt,
        client_id: clientId,
        prompt_id: promptId,
      } = JSON.parse(body) as {
        prompt: WorkedJob['graph'];
        client_id: string;
        prompt_id: string;
      };
      json(response, { prompt_id: promptId, number: this.#count, node_errors: {} });
      this.#accept({ id: promptId, clientId, graph: prompt });
    } else if (route === 'jobs' && action === 'cancel') {
      json(response, { cancelled: this.#cancel(id) });
    } else if (route === 'prompt') {
      json(response, { exec_info: { queue_remaining: this.#pending.length + (this.#running ? 1 : 0) } });
    } else if (route === 'queue') {
      const item = (job: WorkedJob) => [job.number, job.id, job.graph, {}, []];
      json(response, {
        queue_running: this.#running ? [item(this.#running)] : [],
        queue_pending: this.#pending.map(item),
      });
    } else if (route === 'history') {
      json(response, this.#history.has(id) ? { [id]: this.#history.get(id) } : {});
    } else if (route === 'object_info') {
      json(response, this.lacks.has(id) ? {} : { [id]: { input: { required: {} }, output: ['IMAGE'] } });
    } else if (route === 'system_stats') {
      const system = { comfyui_version: '0.33.0' };
      json(response, { system, devices: [{ name: 'cpu', vram_total: this.memory }] });
    } else if (route === 'view') {
      response.setHeader('Content-Type', 'image/png');
      response.end(picture(searchParams.get('filename') ?? ''));
    } else {
      response.writeHead(404).end();
    }
  }

  #accept({ id, clientId, graph }: Pick<WorkedJob, 'id' | 'clientId' | 'graph'>): void {
    const times = { acceptedAt: Date.now(), startedAt: 0, endedAt: 0, isCancelled: false };
    const job = { id, clientId, graph, number: this.#count++, ...times };
    this.accepted.set(id, job);
    this.#pending.push(job);
    this.#next();
  }

  #cancel(id: string): boolean {
    const waiting = this.#pending.find((job) => job.id === id);
    const job = waiting ?? (this.#running?.id === id ? this.#running : null);
    if (!job) {
      return false;
    }
    job.isCancelled = true;
    if (waiting) {
      this.#pending = this.#pending.filter((one) => one !== waiting);
    } else {
      clearTimeout(this.#timer ?? undefined);
      this.#tell(job, 'execution_interrupted', {});
      this.#end(job, { status_str: 'error', completed: false, messages: [['execution_interrupted', {}]] }, {});
    }
    return true;
  }

  #next(): void {
    const [job] = this.#pending;
    if (this.#running || !job) {
      return;
    }
    this.#pending.shift();
    this.#running = job;
    job.startedAt = Date.now();
    this.#tell(job, 'execution_start', {});
    this.#step(job, 1, this.#life);
  }

  #step(job: WorkedJob, step: number, life: number): void {
    this.#timer = setTimeout(() => {
      if (life !== this.#life) {
        return;
      }
      const node = savingNode(job.graph);
      this.#tell(job, 'progress_state', { nodes: { [node]: { value: step, max: STEPS, state: 'running' } } });
      if (step < STEPS) {
        this.#step(job, step + 1, life);
        return;
      }
      if (this.isStuck) {
        return;
      }
      if (this.fails) {
        const error = { node_id: node, node_type: job.graph[node].class_type, ...this.fails };
        const messages = [['execution_error', { prompt_id: job.id, ...error }]];
        this.#end(job, { status_str: 'error', completed: false, messages }, {});
        this.#tell(job, 'execution_error', error);
        return;
      }
      const images = [{ filename: `${job.id}.png`, subfolder: '', type: 'output' }];
      this.#tell(job, 'executed', { node, output: { images } });
      job.endedAt = Date.now();
      this.computed.push(job);
      this.#end(job, { status_str: 'success', completed: true, messages: [] }, { [node]: { images } });
      this.#tell(job, 'execution_success', {});
    }, this.msPerJob / STEPS);
  }

  #end(job: WorkedJob, status: object, outputs: object): void {
    this.#history.set(job.id, { prompt: [], outputs, status, meta: {} });
    this.#running = null;
    this.#next();
  }

  #tell(job: WorkedJob, type: string, data: object): void {
    const text = JSON.stringify({ type, data: { prompt_id: job.id, ...data } });
    this.#sockets.get(job.clientId)?.write(frame(1, Buffer.from(text)));
  }

  #open(request: IncomingMessage, socket: Duplex): void {
    this.#connections.add(socket);
    socket.on('close', () => this.#connections.delete(socket));
    socket.on('error', () => undefined);
    if (this.isHung) {
      return;
    }
    acceptSocket(request, socket);
    const clientId = new URL(request.url ?? '/', this.url).searchParams.get('clientId') ?? '';
    this.#sockets.set(clientId, socket);
    socket.on('close', () => {
      if (this.#sockets.get(clientId) === socket) {
        this.#sockets.delete(clientId);
      }
    });
    socket.on('data', (data: Buffer) => {
      if ((data[0] & 15) === 8) {
        socket.end(Buffer.from([0x88, 0]));
      }
    });
  }
}

/** The one that no other follows. A real server tells what that one made, and nothing of the others. */
function savingNode(graph: WorkedJob['graph']): string {
  const links = Object.values(graph).flatMap(({ inputs }) => Object.values(inputs));
  const followed = new Set(links.map((link) => (Array.isArray(link) ? String(link[0]) : '')));
  return Object.keys(graph).find((node) => !followed.has(node)) ?? '';
}

/** One pixel, with its name as embedded text, so that no two files are the same. */
function picture(name: string): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(1, 0);
  header.writeUInt32BE(1, 4);
  header.set([8, 2, 0, 0, 0], 8);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', header),
    chunk('tEXt', Buffer.from(`name\0${name}`, 'latin1')),
    chunk('IDAT', deflateSync(Buffer.from([0, 200, 120, 40]))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(type: string, content: Buffer): Buffer {
  const typed = Buffer.concat([Buffer.from(type, 'latin1'), content]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(content.length);
  sum.writeUInt32BE(crc32(typed));
  return Buffer.concat([length, typed, sum]);
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' }).end(JSON.stringify(value));
}
