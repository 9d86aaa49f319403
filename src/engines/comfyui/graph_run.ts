/**
 * One job on one ComfyUI server, from its uploads to its fetched results.
 * The socket brings progress and previews. The end of the job is learned from the socket or from the server's queue and history, whichever
 * is first, so losing the connection costs nothing but previews. Each run has its own client id.
 */
import type { ComfyFile, ComfyGraph, ComfyNews, ComfyResult } from '../../core/comfyui.ts';
import { StudioError, cancelled } from '../../core/errors.ts';
import { ServerCalls, jsonOf } from '../http/server_calls.ts';
import { GraphProgress } from './graph_progress.ts';
import { endedJob, standingOf } from './job_record.ts';
import type { Standing } from './job_record.ts';
import { JobSocket } from './job_socket.ts';
import { readOutputs } from './outputs.ts';
import type { Listed, ListedFile } from './outputs.ts';
import { failureOf, interrupted, refusalOf } from './refusal.ts';
import { ServerFailure } from './server_failure.ts';
import type { SocketMessage, SocketPicture } from './socket_messages.ts';
import { download, upload } from './transfers.ts';

/** In milliseconds. */
export interface RunPatience {
  /** Interval for polling the server's queue while the socket is silent about the job. */
  poll: number;
  /** How long the socket may be silent about the job before the queue is polled. */
  silence: number;
  /** Delay before reconnecting, and timeout for a connection to open. */
  reconnect: number;
  /** How long a server may not answer at all before it counts as gone. */
  gone: number;
  /** How long a job may run without progress before its server counts as stuck; Infinity if no other server could take it. */
  stuck: number;
}

export const RUN_PATIENCE: RunPatience = {
  poll: 1000,
  silence: 5000,
  reconnect: 1000,
  gone: 30_000,
  // One node may silently load tens of gigabytes, or decode a video.
  stuck: 30 * 60_000,
};

export interface RunSurroundings {
  calls: ServerCalls;
  signal: AbortSignal;
  /** Null if there is none, so the queue is polled. */
  socket: typeof WebSocket | null;
  newId: () => string;
  patience: RunPatience;
  /** The server is done with this job and free for another; the results are still being fetched. */
  onComputed: () => void;
}

type End = { error: StudioError | null };

/** A ComfyUI node that sends finished pictures over the socket and stores none. */
const OVER_SOCKET = 'SaveImageWebsocket';

/** How many times a server must deny knowing a job before it is believed. */
const UNKNOWN_TWICE = 2;

/** Tries to read the results from the history, which is written slightly after the end is announced. */
const LOOKS = 5;

export class GraphRun {
  readonly #graph: ComfyGraph;
  readonly #around: RunSurroundings;
  readonly #news: ComfyNews;
  readonly #clientId: string;
  #promptId = '';
  readonly #progress: GraphProgress;
  #end: End | null = null;
  #wake: () => void = () => undefined;
  /** When the socket last mentioned this job. */
  #heardAt = 0;
  /** When the job last made progress, according to the socket or the queue. */
  #movedAt = Date.now();
  #standing = '';
  #socket: JobSocket | null = null;
  #current = '';
  /** Whether the socket has been open since before the job was sent. */
  #hasHeardAll = false;
  /** From the `executed` messages. */
  readonly #told: Record<string, unknown> = {};
  readonly #overSocket: ComfyFile[] = [];
  /** Files that are fetched while the server still ends the job, by what lists them. */
  readonly #early = new Map<string, Promise<ComfyFile>>();

  constructor(graph: ComfyGraph, around: RunSurroundings, news: ComfyNews = {}) {
    this.#graph = graph;
    this.#around = around;
    this.#news = news;
    this.#clientId = around.newId();
    this.#progress = new GraphProgress(Object.keys(graph));
  }

  /**
   * @param files by the `node.input` that takes the name of the upload
   * @throws ServerFailure if another server may be able to do it
   */
  async run(files: Readonly<Record<string, Blob>>): Promise<ComfyResult> {
    const { calls, socket, patience, newId } = this.#around;
    if (socket === null && this.#needsSocket) {
      throw new StudioError(
        'invalid_operation',
        `This workflow hands over its pictures by a web socket (${OVER_SOCKET}), which a browser cannot open to a server behind a key; let it save them instead.`,
      );
    }
    const graph = structuredClone(this.#graph);
    for (const [place, file] of Object.entries(files)) {
      const [node, input] = [place.slice(0, place.indexOf('.')), place.slice(place.indexOf('.') + 1)];
      graph[node].inputs[input] = await upload(calls, file);
    }
    this.#promptId = newId();
    if (socket) {
      this.#socket = new JobSocket(calls, this.#clientId, socket, patience.reconnect, {
        onMessage: (message) => this.#hear(message),
        onPicture: (picture) => this.#see(picture),
        onClose: () => {
          this.#heardAt = 0;
          this.#hasHeardAll = false;
          this.#wake();
        },
      });
      await this.#socket.open(patience.reconnect);
      this.#hasHeardAll = this.#socket.isOpen;
    }
    return this.#follow(() => this.#submit(graph));
  }

  /** @returns null if the server does not know the job */
  async rejoin(promptId: string): Promise<ComfyResult | null> {
    this.#promptId = promptId;
    const { state } = await this.#look();
    // A connection with another id hears nothing about this job, so the queue is polled.
    return state === 'unknown' ? null : this.#follow(() => Promise.resolve());
  }

  async #follow(submit: () => Promise<void>): Promise<ComfyResult> {
    const { calls, signal } = this.#around;
    const stop = () => {
      this.#abandon();
      this.#wake();
    };
    signal.addEventListener('abort', stop);
    let isAccepted = false;
    try {
      await submit();
      isAccepted = true;
      this.#news.onAccepted?.({ server: calls.address, promptId: this.#promptId });
      await this.#wait();
      this.#around.onComputed();
      return await this.#result();
    } catch (error) {
      if (error instanceof ServerFailure) {
        this.#abandon();
      } else if (signal.aborted && !isAccepted) {
        // The cancel may have arrived before the job.
        setTimeout(() => void this.#cancel(), this.#around.patience.poll);
      }
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      this.#socket?.close();
    }
  }

  async #submit(prompt: ComfyGraph): Promise<void> {
    const { calls, signal } = this.#around;
    try {
      const answer = await calls.ask('/prompt', {
        method: 'POST',
        // The server reads any content type as JSON; declaring JSON would cause a preflight request.
        headers: { 'content-type': 'text/plain' },
        body: JSON.stringify({ prompt, client_id: this.#clientId, prompt_id: this.#promptId }),
      });
      const refusal = refusalOf(answer.status, await jsonOf(answer), prompt, this.#name);
      if (refusal) {
        // Part of it may have been accepted.
        await (answer.status < 400 ? this.#cancel() : undefined);
        throw refusal;
      }
    } catch (error) {
      // A lost answer is not a refusal.
      const isLost = !signal.aborted && StudioError.from(error).code === 'origin_unavailable';
      const isThere = isLost && (await this.#look().catch(() => ({ state: 'unknown' }))).state !== 'unknown';
      if (!isThere) {
        throw error;
      }
    }
  }

  /** Resolves at the end of the job. @throws StudioError why it failed */
  async #wait(): Promise<void> {
    const { signal, patience } = this.#around;
    let unknown = 0;
    let answeredAt = Date.now();
    while (this.#end === null) {
      if (signal.aborted) {
        throw cancelled();
      }
      await this.#pause(patience.poll);
      const now = Date.now();
      const isHeard = this.#socket?.isOpen === true && now - this.#heardAt < patience.silence;
      if (isHeard || this.#end !== null || signal.aborted) {
        answeredAt = now;
        continue;
      }
      try {
        const { state } = await this.#look();
        answeredAt = Date.now();
        unknown = state === 'unknown' ? unknown + 1 : 0;
      } catch (error) {
        if (!signal.aborted && Date.now() - answeredAt > patience.gone) {
          throw ServerFailure.of(StudioError.from(error)) ?? error;
        }
      }
      if (unknown >= UNKNOWN_TWICE) {
        throw failed(
          'forgotten',
          `${this.#where} does not know this job any more, most likely because it was restarted; try again.`,
        );
      }
      if (Date.now() - this.#movedAt > patience.stuck) {
        throw failed(
          'gone',
          `${this.#where} has not come forward for ${Math.round(patience.stuck / 60_000)} minutes; look at what it does, then try again.`,
        );
      }
    }
    if (this.#end.error) {
      throw this.#end.error;
    }
  }

  async #look(): Promise<Standing> {
    const standing = await standingOf(this.#around.calls, this.#promptId, this.#graph);
    if (standing.state === 'ended') {
      this.#finish(standing.ended.error);
    } else {
      const told = JSON.stringify(standing);
      if (told !== this.#standing) {
        this.#standing = told;
        this.#movedAt = Date.now();
      }
      if (standing.state === 'waiting') {
        this.#news.onQueued?.(standing.ahead);
        // A server busy with others' jobs is not stuck.
        this.#movedAt = Date.now();
      }
    }
    return standing;
  }

  async #result(): Promise<ComfyResult> {
    const listed = await this.#persistently(() => this.#listed());
    const files: ComfyFile[] = [...this.#overSocket];
    for (const one of listed.files) {
      files.push(await this.#fetch(one));
    }
    if (this.#needsSocket && this.#overSocket.length === 0) {
      throw failed(
        'forgotten',
        `What ${this.#where} made came over a connection that broke, and it keeps nothing of it; try again.`,
      );
    }
    if (files.length === 0 && listed.texts.length === 0) {
      throw new StudioError(
        'result_invalid',
        `${this.#name} finished and gave nothing; see that the workflow saves what it makes.`,
      );
    }
    return { files, texts: listed.texts, server: this.#around.calls.address, promptId: this.#promptId };
  }

  async #listed(): Promise<Listed> {
    if (this.#isAllTold()) {
      return readOutputs(this.#told);
    }
    for (let look = 0; look < LOOKS; look++) {
      const ended = await endedJob(this.#around.calls, this.#promptId, this.#graph);
      if (ended) {
        return readOutputs({ ...this.#told, ...ended.outputs });
      }
      await this.#pause(this.#around.patience.poll / LOOKS);
    }
    if (!this.#hasHeardAll) {
      throw failed(
        'forgotten',
        `${this.#where} has finished this job and does not know any more what it made; try again.`,
      );
    }
    return readOutputs(this.#told);
  }

  /** Whether the socket has told what each node made that no other one follows, so that the history has nothing to add. */
  #isAllTold(): boolean {
    const links = Object.values(this.#graph).flatMap(({ inputs }) => Object.values(inputs));
    const followed = new Set(links.flatMap((link) => (Array.isArray(link) ? [String(link[0])] : [])));
    return this.#hasHeardAll && Object.keys(this.#graph).every((node) => followed.has(node) || node in this.#told);
  }

  async #fetch(file: ListedFile): Promise<ComfyFile> {
    const early = await this.#early.get(JSON.stringify(file))?.catch(() => null);
    return early ?? this.#persistently(() => download(this.#around.calls, file));
  }

  /** Begins to fetch what a node has saved, of which the history will tell. Temporary files may turn out to be mere previews. */
  #fetchEarly(node: string): void {
    for (const file of readOutputs({ [node]: this.#told[node] }).files) {
      if (file.type === 'output') {
        const early = download(this.#around.calls, file);
        early.catch(() => undefined); // It is fetched again once the job has ended.
        this.#early.set(JSON.stringify(file), early);
      }
    }
  }

  /** Retries fetching results while the server may come back, since making them again costs more. */
  async #persistently<T>(ask: () => Promise<T>): Promise<T> {
    const { signal, patience } = this.#around;
    const begun = Date.now();
    for (;;) {
      try {
        return await ask();
      } catch (thrown) {
        const error = StudioError.from(thrown);
        const failure = signal.aborted ? null : ServerFailure.of(error);
        if (failure?.kind !== 'gone' || Date.now() - begun > patience.gone) {
          throw failure ?? error;
        }
        await this.#pause(patience.poll);
      }
    }
  }

  /** Stops a job that is now made elsewhere, or no longer wanted. */
  #abandon(): void {
    if (this.#end === null) {
      void this.#cancel();
    }
  }

  /** Stops this job and no other, whether queued or running. */
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
      // A server that is gone no longer works for us.
    }
  }

  #hear(message: SocketMessage): void {
    if (message.type === 'status') {
      return;
    }
    if (message.type === 'executing' && message.data.prompt_id === undefined) {
      this.#current = message.data.node ?? '';
      return;
    }
    if (message.data.prompt_id === this.#promptId) {
      this.#heardAt = Date.now();
      this.#movedAt = this.#heardAt;
      this.#take(message);
    }
  }

  #take(message: Exclude<SocketMessage, { type: 'status' }>): void {
    switch (message.type) {
      case 'execution_start':
        this.#news.onQueued?.(0);
        break;
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
        this.#fetchEarly(message.data.node);
        break;
      case 'execution_success':
        this.#finish(null);
        break;
      case 'execution_interrupted':
        this.#finish(interrupted(this.#name));
        break;
      case 'execution_error':
        this.#finish(failureOf(message.data, this.#graph, this.#name));
        break;
    }
  }

  #see({ picture, of }: SocketPicture): void {
    if (of && of.promptId !== '' && of.promptId !== this.#promptId) {
      return;
    }
    const node = of?.node || this.#current;
    if (Object.hasOwn(this.#graph, node) && this.#graph[node].class_type === OVER_SOCKET) {
      this.#overSocket.push({ kind: 'image', file: picture, node, name: null });
    } else {
      this.#news.onPreview?.(picture);
    }
  }

  #finish(error: StudioError | null): void {
    this.#end ??= { error };
    this.#wake();
  }

  get #where(): string {
    return `ComfyUI at ${this.#around.calls.address}`;
  }

  get #needsSocket(): boolean {
    return Object.values(this.#graph).some(({ class_type: type }) => type === OVER_SOCKET);
  }

  get #name(): string {
    return this.#around.calls.options.name;
  }

  /** Ends early if something relevant arrives. */
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

function failed(kind: ServerFailure['kind'], sentence: string): ServerFailure {
  return new ServerFailure(kind, 'origin_unavailable', sentence);
}
