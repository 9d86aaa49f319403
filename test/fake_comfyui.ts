/**
 * A ComfyUI server that replays a recorded conversation of a real one (`test/goldens/comfyui`): it sends what was recorded once the client
 * has sent what was recorded, in order in both directions. Job ids, which clients choose, replace the recorded ones.
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { gunzipSync } from 'node:zlib';
import { acceptSocket, frame, wordsOf } from './socket_frames.ts';

const FOLDER = join(import.meta.dirname, 'goldens', 'comfyui');

export interface Exchange {
  t: number;
  request: {
    method: string;
    path: string;
    json?: unknown;
    text?: string;
    multipart?: { name: string; filename?: string; value?: string; base64?: string; type?: string }[];
  };
  response: { status: number; headers?: Record<string, string>; json?: unknown; text?: string; body_base64?: string };
}

export interface Frame {
  dir: string;
  t: number;
  text?: unknown;
  binary_base64?: string;
}

export interface Recording {
  client_id: string;
  http: Exchange[];
  websocket: Frame[];
}

export interface ObjectInfo {
  input: { required?: Record<string, unknown[]>; optional?: Record<string, unknown[]> };
  input_order?: Record<string, string[]>;
  output: unknown[];
  output_node?: boolean;
}

export function recording(name: string): Recording {
  return JSON.parse(readFileSync(join(FOLDER, `${name}.json`), 'utf8')) as Recording;
}

/** Of ComfyUI 0.33, no model installed. */
export function objectInfo(): Record<string, ObjectInfo> {
  return JSON.parse(gunzipSync(readFileSync(join(FOLDER, 'object_info.json.gz'))).toString()) as Record<
    string,
    ObjectInfo
  >;
}

/** One entry of a conversation, in order. */
type Turn = { type: 'say'; frame: Frame } | { type: 'hear' } | { type: 'post'; exchange: Exchange };

export interface Faults {
  /** Breaks the socket instead of sending this message, counted from 0; messages until it is back are lost. */
  cutAt?: number;
  /** Whether the job ends while the socket is down. */
  endsMeanwhile?: boolean;
  /** Answers that replace the recorded ones, by `METHOD path` without the query. */
  answers?: Record<string, (response: ServerResponse) => void>;
  /** Forgets all jobs once the socket broke. */
  forgets?: boolean;
  /** Sends CORS headers; otherwise pages of other origins get 403, as from a server without the flag. */
  cors?: boolean;
}

export interface Heard {
  method: string;
  path: string;
  headers: IncomingMessage['headers'];
  body: Buffer;
}

export class FakeComfyUi {
  readonly heard: Heard[] = [];
  /** Uploaded files by name. */
  readonly uploads = new Map<string, Buffer>();
  /** Messages from clients over sockets. */
  readonly said: string[] = [];
  /** Model names that its loaders offer besides the recorded ones. */
  models: string[] = [];
  /** The graph that was accepted last. */
  accepted: Record<string, { class_type: string; inputs: Record<string, unknown> }> | null = null;
  faults: Faults;
  readonly #server: Server;
  readonly #recording: Recording;
  readonly #info = objectInfo();
  #turns: Turn[];
  #said = 0;
  #sockets = new Set<Duplex>();
  #socket: Duplex | null = null;
  /** The client's id of the job, and the recorded one. */
  #job: { mine: string; recorded: string } | null = null;
  #port = 0;
  #hasForgotten = false;
  #isCancelled = false;

  private constructor(name: string, faults: Faults) {
    this.#recording = recording(name);
    this.faults = faults;
    this.#turns = turnsOf(this.#recording);
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => response.destroy(error as Error));
    });
    this.#server.on('upgrade', (request: IncomingMessage, socket: Duplex) => this.#open(request, socket));
  }

  static async start(name = 'sd_txt2img', faults: Faults = {}): Promise<FakeComfyUi> {
    const fake = new FakeComfyUi(name, faults);
    await new Promise<void>((listening) => fake.#server.listen(0, '127.0.0.1', listening));
    fake.#port = (fake.#server.address() as AddressInfo).port;
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Replays everything to the next job. */
  rewind(): void {
    this.#turns = turnsOf(this.#recording);
    this.#said = 0;
    this.#job = null;
    this.#isCancelled = false;
    this.#hasForgotten = false;
  }

  async stop(): Promise<void> {
    this.#sockets.forEach((socket) => socket.destroy());
    this.#server.closeAllConnections();
    await new Promise<void>((closed) => this.#server.close(() => closed()));
  }

  get #isOver(): boolean {
    return !this.#turns.some(({ type }) => type === 'say');
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      chunks.push(chunk as Buffer);
    }
    const body = Buffer.concat(chunks);
    const { method = 'GET', url: path = '/', headers } = request;
    this.heard.push({ method, path, headers, body });
    const isForeign = headers.origin !== undefined && new URL(headers.origin).host !== headers.host;
    if (isForeign && this.faults.cors === false) {
      response.writeHead(403).end();
      return;
    }
    if (isForeign) {
      response.setHeader('Access-Control-Allow-Origin', '*');
      response.setHeader('Access-Control-Allow-Methods', 'POST, GET, DELETE, PUT, OPTIONS, PATCH');
      response.setHeader('Access-Control-Allow-Headers', 'Content-Type, Authorization');
      response.setHeader('Access-Control-Allow-Credentials', 'true');
    }
    const fault = this.faults.answers?.[`${method} ${path.split('?')[0].replace(/[0-9a-f-]{36}/, 'ID')}`];
    if (method === 'OPTIONS') {
      response.writeHead(200).end();
    } else if (fault) {
      fault(response);
    } else if (method === 'POST') {
      this.#post(path, headers, body, response);
    } else {
      this.#get(path, response);
    }
  }

  #post(path: string, headers: IncomingMessage['headers'], body: Buffer, response: ServerResponse): void {
    if (path === '/upload/image') {
      json(response, 200, this.#upload(headers['content-type'] ?? '', body));
      return;
    }
    if (/^\/api\/jobs\/[^/]+\/cancel$/.test(path)) {
      const mine = this.#job !== null && path.includes(this.#job.mine);
      this.#isCancelled ||= mine;
      json(response, 200, { cancelled: mine });
      return;
    }
    const at = this.#turns.findIndex(({ type }) => type === 'post');
    const turn = this.#turns[at];
    if (turn?.type !== 'post' || turn.exchange.request.path !== path) {
      json(response, 200, {});
      return;
    }
    // Clients without a socket miss earlier messages.
    this.#turns.splice(this.#socket ? at : 0, this.#socket ? 1 : at + 1);
    const sent = JSON.parse(body.toString()) as { prompt: FakeComfyUi['accepted']; prompt_id: string };
    const recorded = (turn.exchange.request.json as { prompt_id?: string } | undefined)?.prompt_id;
    this.#job = { mine: sent.prompt_id, recorded: recorded ?? sent.prompt_id };
    this.accepted = sent.prompt;
    this.#respond(response, turn.exchange);
    this.#say();
  }

  #get(path: string, response: ServerResponse): void {
    const [route, query = ''] = path.split('?');
    const id = this.#job?.mine ?? '';
    if (route.startsWith('/object_info/')) {
      const type = decodeURIComponent(route.slice('/object_info/'.length));
      json(response, 200, Object.hasOwn(this.#info, type) ? { [type]: this.#withModels(this.#info[type]) } : {});
    } else if (route === '/queue') {
      const isRunning = this.#job !== null && !this.#isOver && !this.#hasForgotten && !this.#isCancelled;
      json(response, 200, { queue_running: isRunning ? [[0, id, {}, {}, []]] : [], queue_pending: [] });
    } else if (route === '/prompt') {
      json(response, 200, { exec_info: { queue_remaining: 0 } });
    } else if (route.startsWith('/history/') && (!route.endsWith(id) || !this.#isOver || this.#hasForgotten)) {
      json(response, 200, {});
    } else {
      const { filename = '' } = Object.fromEntries(new URLSearchParams(query));
      const wanted = this.#job ? path.replace(this.#job.mine, this.#job.recorded) : path;
      const found =
        this.#recording.http.find(({ request }) => request.method === 'GET' && same(request.path, wanted)) ??
        (filename === '' ? undefined : substitute(filename)) ??
        recording('info').http.find(({ request }) => request.method === 'GET' && request.path === path);
      if (found) {
        this.#respond(response, found);
      } else if (route.startsWith('/history/')) {
        json(response, 200, {});
      } else {
        response.writeHead(404).end();
      }
    }
  }

  #respond(
    response: ServerResponse,
    { response: { status, headers, json: value, text, body_base64: base64 } }: Exchange,
  ): void {
    const type = headers?.['content-type'];
    const body =
      value === undefined
        ? base64 === undefined
          ? (text ?? '')
          : Buffer.from(base64, 'base64')
        : this.#mine(JSON.stringify(value));
    response.writeHead(status, type === undefined ? {} : { 'Content-Type': type }).end(body);
  }

  /** The client's id in place of the recorded one. */
  #mine(text: string): string {
    return this.#job ? text.replaceAll(this.#job.recorded, this.#job.mine) : text;
  }

  #withModels(info: ObjectInfo): ObjectInfo {
    const copy = structuredClone(info);
    for (const declared of Object.values({ ...copy.input.required, ...copy.input.optional })) {
      if (Array.isArray(declared[0]) && declared[0].every((name) => /\.safetensors$/.test(String(name)))) {
        declared[0] = [...new Set([...(declared[0] as string[]), ...this.models])];
      } else if (declared[0] === 'COMBO' && Array.isArray((declared[1] as { options?: unknown[] }).options)) {
        (declared[1] as { options: unknown[] }).options.push(...this.models);
      }
    }
    return copy;
  }

  #upload(contentType: string, body: Buffer): { name: string; subfolder: string; type: string } {
    const boundary = /boundary=(.*)$/.exec(contentType)?.[1] ?? '';
    const parts = body.toString('latin1').split(`--${boundary}`);
    const file = parts.find((part) => /name="image"/.test(part)) ?? '';
    const name = /filename="([^"]*)"/.exec(file)?.[1] ?? '';
    const content = file.slice(file.indexOf('\r\n\r\n') + 4, -2);
    const subfolder = /\r\n\r\n(.*)\r\n$/.exec(parts.find((part) => /name="subfolder"/.test(part)) ?? '')?.[1] ?? '';
    this.uploads.set(name, Buffer.from(content, 'latin1'));
    return { name, subfolder, type: 'input' };
  }

  #open(request: IncomingMessage, socket: Duplex): void {
    if (request.headers.origin !== undefined && this.faults.cors === false) {
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
      return;
    }
    acceptSocket(request, socket);
    this.heard.push({ method: 'WS', path: request.url ?? '', headers: request.headers, body: Buffer.alloc(0) });
    this.#sockets.add(socket);
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.#sockets.delete(socket);
      this.#socket = this.#socket === socket ? null : this.#socket;
    });
    socket.on('data', (data: Buffer) => {
      const [opcode] = data;
      if ((opcode & 15) === 8) {
        socket.end(Buffer.from([0x88, 0]));
      } else if ((opcode & 15) === 1) {
        this.said.push(wordsOf(data));
        const [next] = this.#turns;
        if (next?.type === 'hear') {
          this.#turns.shift();
        }
        this.#say();
      }
    });
    this.#say();
  }

  /** Sends what was recorded up to the client's next message. */
  #say(): void {
    while (this.#turns[0]?.type === 'say') {
      if (this.#said === this.faults.cutAt) {
        this.#said++;
        this.#hasForgotten = this.faults.forgets === true;
        this.#socket?.end(Buffer.from([0x88, 0]));
        this.#socket = null;
        if (this.faults.endsMeanwhile) {
          this.#turns = this.#turns.filter(({ type }) => type !== 'say');
        }
        return;
      }
      if (!this.#socket && this.#job === null) {
        return;
      }
      const [turn] = this.#turns.splice(0, 1);
      if (turn.type === 'say') {
        this.#said++;
        this.#send(turn.frame);
      }
    }
  }

  #send({ text, binary_base64: base64 }: Frame): void {
    if (base64 === undefined) {
      this.#socket?.write(frame(1, Buffer.from(this.#mine(JSON.stringify(text)))));
    } else {
      const bytes = Buffer.from(this.#mine(Buffer.from(base64, 'base64').toString('latin1')), 'latin1');
      this.#socket?.write(frame(2, bytes));
    }
  }
}

function turnsOf({ http, websocket }: Recording): Turn[] {
  const posts = http.filter(({ request }) => request.method === 'POST' && request.path === '/prompt');
  const [first] = posts;
  // Only the first job of a recording that has several is replayed.
  const until = posts[1]?.t ?? Infinity;
  const before = websocket.filter(({ dir, t }) => t < (first?.t ?? 0) && dir !== 'client closes the socket');
  const after = websocket.filter(({ dir, t }) => t >= (first?.t ?? 0) && t < until && dir === 'in');
  const turn = (frame: Frame): Turn => (frame.dir === 'out' ? { type: 'hear' } : { type: 'say', frame });
  return [...before.map(turn), ...(first ? [{ type: 'post' as const, exchange: first }] : []), ...after.map(turn)];
}

/** Whether two paths have the same query, in any order. */
function same(a: string, b: string): boolean {
  const [one, other] = [new URL(a, 'http://host'), new URL(b, 'http://host')];
  one.searchParams.sort();
  other.searchParams.sort();
  return one.pathname === other.pathname && one.search === other.search;
}

/** For files that were not fetched when the conversation was recorded. */
function substitute(filename: string): Exchange | undefined {
  if (filename.endsWith('.png')) {
    return recording('image_ok').http.find(({ request }) => request.path.startsWith('/view?filename=pic_00001_.png'));
  }
  return /\.(txt|latent|flac|mp3|opus)$/.test(filename)
    ? { t: 0, request: { method: 'GET', path: '' }, response: { status: 200, text: 'hello' } }
    : undefined;
}

function json(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8' }).end(JSON.stringify(value));
}
