/**
 * One job on one ComfyUI server, from its uploads to its fetched results.
 *
 * The socket brings progress and previews; that the job has ended is believed of the socket or of the server's queue and history, whichever says
 * so first, so a connection that breaks, or that the server forgets (it forgets a client id when any socket of that id closes), costs nothing
 * but previews. Each run has a client id of its own, and connects again only after the last connection's `close`.
 */
import * as v from 'valibot';
import type { ComfyFile, ComfyGraph, ComfyNews, ComfyResult } from '../../core/comfyui.ts';
import { StudioError, cancelled } from '../../core/errors.ts';
import { ServerCalls, jsonOf } from '../http/server_calls.ts';
import { GraphProgress } from './graph_progress.ts';
import { readOutputs } from './outputs.ts';
import type { Listed, ListedFile } from './outputs.ts';
import { failureOf, otherStatus, refusalOf } from './refusal.ts';
import { readExecutionError, readMessage, readPicture } from './socket_messages.ts';
import type { ExecutionError, SocketMessage } from './socket_messages.ts';

/** In milliseconds. */
export interface RunPatience {
  /** Between two looks at the server's queue while the socket says nothing. */
  poll: number;
  /** How long the socket may be silent before the queue is asked. */
  silence: number;
  /** Before connecting again. */
  reconnect: number;
  /** How long a server may answer nothing at all before it counts as gone. */
  gone: number;
}

export const RUN_PATIENCE: RunPatience = { poll: 1000, silence: 5000, reconnect: 1000, gone: 30_000 };

export interface RunSurroundings {
  calls: ServerCalls;
  signal: AbortSignal;
  /** Null: there is none, so the queue is asked. */
  socket: typeof WebSocket | null;
  newId: () => string;
  patience: RunPatience;
}

/** A server that does not know a job any more, or does not answer any more: another one may do it. */
export class ServerGone extends StudioError {}

type End = { type: 'success' } | { type: 'failed'; error: StudioError };

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
const item = v.looseTuple([v.number(), v.string()]);
const queueSchema = v.object({ queue_running: v.array(item), queue_pending: v.array(item) });

/** Where our uploads lie on the server. */
const FOLDER = 'darkroom';

/** A node of ComfyUI's that sends finished pictures over the socket and keeps none. */
const OVER_SOCKET = 'SaveImageWebsocket';

/** So often a server says that it does not know a job before it is believed. */
const UNKNOWN_TWICE = 2;

export class GraphRun {
  readonly #graph: ComfyGraph;
  readonly #around: RunSurroundings;
  readonly #news: ComfyNews;
  readonly #clientId: string;
  #promptId = '';
  readonly #progress: GraphProgress;
  #end: End | null = null;
  #hasStarted = false;
  #wake: () => void = () => undefined;
  #heardAt = 0;
  #socket: WebSocket | null = null;
  #isOver = false;
  #current = '';
  /** As `executed` messages told them. */
  readonly #told: Record<string, unknown> = {};
  readonly #overSocket: ComfyFile[] = [];

  constructor(graph: ComfyGraph, around: RunSurroundings, news: ComfyNews = {}) {
    this.#graph = graph;
    this.#around = around;
    this.#news = news;
    this.#clientId = around.newId();
    this.#progress = new GraphProgress(Object.keys(graph));
  }

  /** @param files by the `node.input` that takes the name of the upload */
  async run(files: Readonly<Record<string, Blob>>): Promise<ComfyResult> {
    const graph = structuredClone(this.#graph);
    for (const [place, file] of Object.entries(files)) {
      const [node, input] = [place.slice(0, place.indexOf('.')), place.slice(place.indexOf('.') + 1)];
      graph[node].inputs[input] = await this.#upload(file);
    }
    this.#promptId = this.#around.newId();
    try {
      await this.#connect();
      await this.#submit(graph);
      return await this.#result();
    } finally {
      this.#close();
    }
  }

  /** @returns null where the server does not know the job */
  async rejoin(promptId: string): Promise<ComfyResult | null> {
    this.#promptId = promptId;
    try {
      if ((await this.#look()) === 'unknown') {
        return null;
      }
      // A connection under another id hears nothing of this job, so the queue is asked.
      return await this.#result();
    } finally {
      this.#close();
    }
  }

  async #submit(prompt: ComfyGraph): Promise<void> {
    const { calls, signal } = this.#around;
    const body = JSON.stringify({ prompt, client_id: this.#clientId, prompt_id: this.#promptId });
    const stop = () => void this.#cancel();
    signal.addEventListener('abort', stop);
    try {
      const answer = await calls.ask('/prompt', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body,
      });
      const refusal = refusalOf(answer.status, await jsonOf(answer), prompt, this.#name);
      if (refusal) {
        // Part of it may have been accepted.
        await (answer.status < 400 ? this.#cancel() : undefined);
        throw refusal;
      }
    } catch (error) {
      if (signal.aborted) {
        // The first word may have come before the job.
        await this.#cancel();
        throw error;
      }
      // An answer that was lost on the way is no refusal.
      const isLost = StudioError.from(error).code === 'origin_unavailable';
      if (!isLost || (await this.#look().catch(() => 'unknown')) === 'unknown') {
        throw error;
      }
    } finally {
      signal.removeEventListener('abort', stop);
    }
    this.#news.onAccepted?.({ server: calls.address, promptId: this.#promptId });
  }

  /** Waits for the end, then fetches what was made. */
  async #result(): Promise<ComfyResult> {
    const { calls, signal } = this.#around;
    const stop = () => {
      void this.#cancel();
      this.#wake();
    };
    signal.addEventListener('abort', stop);
    try {
      await this.#wait();
      if (this.#end?.type === 'failed') {
        throw this.#end.error;
      }
      const listed = await this.#listed();
      const files: ComfyFile[] = [...this.#overSocket];
      for (const one of listed.files) {
        files.push(await this.#fetch(one));
      }
      if (files.length === 0 && listed.texts.length === 0) {
        throw new StudioError(
          'result_invalid',
          Object.values(this.#graph).some((node) => node.class_type === OVER_SOCKET)
            ? `What ${this.#name} made came over a connection that broke, and it keeps nothing of it; try again.`
            : `${this.#name} finished and gave nothing; see that the workflow saves what it makes.`,
          { retry: 'same' },
        );
      }
      return { files, texts: listed.texts, server: calls.address, promptId: this.#promptId };
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }

  async #wait(): Promise<void> {
    const { signal, patience } = this.#around;
    let unknown = 0;
    let answeredAt = Date.now();
    while (this.#end === null) {
      if (signal.aborted) {
        throw cancelled();
      }
      await this.#pause(patience.poll);
      if (signal.aborted) {
        throw cancelled();
      }
      const isHeard = this.#socket?.readyState === 1 && Date.now() - this.#heardAt < patience.silence;
      if (this.#end !== null || isHeard) {
        answeredAt = Date.now();
        continue;
      }
      try {
        const state = await this.#look();
        answeredAt = Date.now();
        unknown = state === 'unknown' ? unknown + 1 : 0;
        if (unknown >= UNKNOWN_TWICE) {
          throw new ServerGone(
            'origin_unavailable',
            `${this.#name} at ${this.#around.calls.address} does not know this job any more, most likely because it was restarted; try again.`,
            { retry: 'same' },
          );
        }
      } catch (error) {
        if (error instanceof ServerGone || signal.aborted) {
          throw error;
        }
        if (Date.now() - answeredAt > patience.gone) {
          const { code, message } = StudioError.from(error);
          throw new ServerGone(code, message, { retry: 'same' });
        }
      }
    }
  }

  /** What queue and history say, in this order: a job leaves the one for the other at once. */
  async #look(): Promise<'waiting' | 'running' | 'ended' | 'unknown'> {
    const { calls } = this.#around;
    const queue = v.safeParse(queueSchema, await jsonOf(await calls.ask('/queue')));
    if (queue.success) {
      const { queue_running: running, queue_pending: pending } = queue.output;
      if (running.some(([, id]) => id === this.#promptId)) {
        this.#hasStarted = true;
        return 'running';
      }
      const mine = pending.find(([, id]) => id === this.#promptId);
      if (mine) {
        this.#news.onQueued?.(running.length + pending.filter(([number]) => number < mine[0]).length);
        return 'waiting';
      }
    }
    const entry = await this.#history();
    if (!entry) {
      return queue.success ? 'unknown' : 'running';
    }
    this.#finish(endOf(entry, this.#graph, this.#name));
    return 'ended';
  }

  async #history(): Promise<v.InferOutput<typeof historySchema>[string] | null> {
    const answer = await this.#around.calls.ask(`/history/${this.#promptId}`);
    if (answer.status !== 200) {
      throw new StudioError('origin_unavailable', otherStatus(answer.status, this.#name), { retry: 'same' });
    }
    const history = v.safeParse(historySchema, await jsonOf(answer));
    return history.success && Object.hasOwn(history.output, this.#promptId) ? history.output[this.#promptId] : null;
  }

  /** The history is written a moment after the end is told. */
  async #listed(): Promise<Listed> {
    for (let look = 0; look < 5; look++) {
      const entry = await this.#history();
      if (entry) {
        return readOutputs({ ...this.#told, ...entry.outputs });
      }
      await this.#pause(this.#around.patience.poll / 5);
    }
    return readOutputs(this.#told);
  }

  async #fetch({ node, kind, filename, subfolder, type }: ListedFile): Promise<ComfyFile> {
    const query = new URLSearchParams({ filename, subfolder, type });
    const { status, headers, body } = await this.#around.calls.ask(`/view?${query}`);
    if (status !== 200) {
      throw new StudioError(
        'result_invalid',
        `${this.#name} made "${filename}" but does not give it (${status}); look into its output folder, or try again.`,
        { retry: 'same' },
      );
    }
    const mime = headers.get('content-type') ?? '';
    return { kind, node, name: { filename, subfolder, type }, file: new Blob([body], { type: mime }) };
  }

  /** Under a name made of its bytes: the same file is there once, and nobody's is overwritten. */
  async #upload(file: Blob): Promise<string> {
    const { calls } = this.#around;
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', await file.arrayBuffer()));
    const name = [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    const extension = (file.type.split('/')[1] ?? 'bin').split(/[;+]/)[0].replace('jpeg', 'jpg');
    const form = new FormData();
    form.append('image', file, `${name}.${extension}`);
    form.append('subfolder', FOLDER);
    form.append('type', 'input');
    await this.#judgeSize(file.size);
    const answer = await calls.ask('/upload/image', { method: 'POST', body: form });
    const placed = v.safeParse(
      v.object({ name: v.pipe(v.string(), v.nonEmpty()), subfolder: v.fallback(v.string(), '') }),
      await jsonOf(answer),
    );
    if (answer.status !== 200 || !placed.success) {
      throw new StudioError('origin_unavailable', otherStatus(answer.status, this.#name), { retry: 'same' });
    }
    // The server may have renamed it.
    return placed.output.subfolder === '' ? placed.output.name : `${placed.output.subfolder}/${placed.output.name}`;
  }

  /** A page cannot read that the server takes no body of this size: it looks as if the server were not there. */
  async #judgeSize(bytes: number): Promise<void> {
    const features = await jsonOf(await this.#around.calls.ask('/features'));
    const most = (features as { max_upload_size?: unknown } | undefined)?.max_upload_size;
    if (typeof most === 'number' && bytes > most) {
      throw new StudioError(
        'invalid_operation',
        `${this.#name} takes files of at most ${Math.floor(most / 2 ** 20)} MB; use a smaller one, or start it with a larger --max-upload-size.`,
      );
    }
  }

  /** Stops this job and no other one, waiting or running. */
  async #cancel(): Promise<void> {
    const { options } = this.#around.calls;
    const calls = new ServerCalls({ ...options, signal: new AbortController().signal });
    const post = (path: string, body: object) =>
      calls.ask(path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
    try {
      const { status } = await post(`/api/jobs/${this.#promptId}/cancel`, {});
      if (status !== 200) {
        // Before 0.33.
        await post('/queue', { delete: [this.#promptId] });
        await post('/interrupt', { prompt_id: this.#promptId });
      }
    } catch {
      // A server that is not there does nothing for us any more.
    }
  }

  /** Resolves when the socket is open, or cannot be opened now: then the queue is asked. */
  async #connect(): Promise<void> {
    const { socket: Socket, calls, patience } = this.#around;
    if (Socket === null || this.#isOver) {
      return;
    }
    const socket = new Socket(`${calls.address.replace(/^http/, 'ws')}/ws?clientId=${this.#clientId}`);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    await new Promise<void>((opened) => {
      socket.addEventListener('open', () => {
        // Counts only as the first message.
        socket.send(JSON.stringify({ type: 'feature_flags', data: { supports_preview_metadata: true } }));
        this.#heardAt = Date.now();
        opened();
      });
      socket.addEventListener('message', ({ data }: MessageEvent<unknown>) => {
        this.#heardAt = Date.now();
        this.#hear(data);
      });
      socket.addEventListener('close', () => {
        opened();
        if (!this.#isOver) {
          // Whatever happened meanwhile is not repeated.
          this.#heardAt = 0;
          this.#wake();
          setTimeout(() => void this.#connect(), patience.reconnect);
        }
      });
    });
  }

  #hear(data: unknown): void {
    if (data instanceof ArrayBuffer) {
      this.#see(data);
      return;
    }
    const message = typeof data === 'string' ? readMessage(data) : null;
    if (message?.type === 'status' && !this.#hasStarted && message.data.status.exec_info.queue_remaining > 1) {
      this.#look().catch(() => undefined); // For the place in line; the end is not waited for here.
    } else if (message && message.type !== 'status') {
      this.#take(message);
    }
  }

  #take(message: Exclude<SocketMessage, { type: 'status' }>): void {
    const { data } = message;
    if (message.type === 'executing' && message.data.prompt_id === undefined) {
      this.#current = message.data.node ?? '';
      return;
    }
    if (data.prompt_id !== this.#promptId) {
      return;
    }
    this.#hasStarted = true;
    switch (message.type) {
      case 'execution_cached':
        this.#progress.cached(message.data.nodes);
        break;
      case 'executing':
        this.#current = message.data.node ?? '';
        break;
      case 'progress_state':
        for (const [node, { value, max, state }] of Object.entries(message.data.nodes)) {
          this.#progress.at(node, value, max, state === 'finished');
        }
        this.#news.onProgress?.(this.#progress.done, this.#progress.of);
        break;
      case 'executed':
        this.#told[message.data.node] = message.data.output;
        break;
      case 'execution_success':
        this.#finish({ type: 'success' });
        break;
      case 'execution_interrupted':
        this.#finish({ type: 'failed', error: interrupted(this.#name) });
        break;
      case 'execution_error':
        this.#finish({ type: 'failed', error: failureOf(message.data, this.#graph, this.#name) });
        break;
    }
  }

  #see(bytes: ArrayBuffer): void {
    const seen = readPicture(bytes);
    if (!seen || (seen.of && seen.of.promptId !== '' && seen.of.promptId !== this.#promptId)) {
      return;
    }
    const node = seen.of?.node || this.#current;
    if (Object.hasOwn(this.#graph, node) && this.#graph[node].class_type === OVER_SOCKET) {
      this.#overSocket.push({ kind: 'image', file: seen.picture, node, name: null });
    } else {
      this.#news.onPreview?.(seen.picture);
    }
  }

  #finish(end: End): void {
    this.#end ??= end;
    this.#wake();
  }

  #close(): void {
    this.#isOver = true;
    this.#socket?.close();
  }

  get #name(): string {
    return this.#around.calls.options.name;
  }

  /** Ends early when something is heard that matters. */
  async #pause(ms: number): Promise<void> {
    await new Promise<void>((over) => {
      const timer = setTimeout(over, ms);
      this.#wake = () => {
        clearTimeout(timer);
        over();
      };
    });
  }
}

function interrupted(server: string): StudioError {
  return new StudioError('cancelled', `Somebody stopped this job on ${server}; try again.`, { retry: 'same' });
}

function endOf({ status }: v.InferOutput<typeof historySchema>[string], graph: ComfyGraph, server: string): End {
  if (status.status_str === 'success') {
    return { type: 'success' };
  }
  for (const message of status.messages) {
    const [type, data] = Array.isArray(message) ? (message as unknown[]) : [];
    const error: ExecutionError | null = type === 'execution_error' ? readExecutionError(data) : null;
    if (error) {
      return { type: 'failed', error: failureOf(error, graph, server) };
    }
  }
  return { type: 'failed', error: interrupted(server) };
}
