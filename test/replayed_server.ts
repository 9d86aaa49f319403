/**
 * A recorded conversation on the wire, complete and in order: every request must arrive as recorded and is answered with the recorded bytes;
 * every connection sends its recorded frames. Clients are tested against `FakeComfyUi`; this makes sure that recordings are replayed
 * unchanged.
 */
import { readdirSync } from 'node:fs';
import { createServer, request as send } from 'node:http';
import type { IncomingMessage, Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { recording } from './fake_comfyui.ts';
import type { Exchange, Frame } from './fake_comfyui.ts';
import { acceptSocket, frame, wordsOf } from './socket_frames.ts';

/** Files with a conversation; the others are tables (`cors`, `ui_to_api`) and definitions. */
export const RECORDINGS = readdirSync(join(import.meta.dirname, 'goldens', 'comfyui'))
  .filter((name) => name.endsWith('.json'))
  .map((name) => name.replace('.json', ''))
  .filter((name) => 'http' in recording(name));

/** Frames by connection. */
export function conversation(name: string): { http: Exchange[]; sockets: Frame[][] } {
  const all = recording(name) as unknown as Record<string, unknown> & { http: Exchange[] };
  const lists = Object.entries(all).filter(([key]) => key.startsWith('websocket')) as [string, Frame[]][];
  const sockets = lists.flatMap(([, frames]) => {
    const split: Frame[][] = [[]];
    for (const one of frames) {
      if (/clos/.test(one.dir)) {
        split.push([]);
      } else {
        split[split.length - 1].push(one);
      }
    }
    return split;
  });
  return { http: all.http, sockets: sockets.filter((frames) => frames.length > 0) };
}

export function bodyOf({ json, text, body_base64: base64 }: Exchange['response']): Buffer {
  return base64 === undefined
    ? Buffer.from(text ?? (json === undefined ? '' : JSON.stringify(json)))
    : Buffer.from(base64, 'base64');
}

/** Forms are not compared: their boundary was not recorded. */
export function sentBody({ json, text, multipart }: Exchange['request']): Buffer {
  const whole = multipart ?? json;
  return Buffer.from(text ?? (whole === undefined ? '' : JSON.stringify(whole)));
}

/** As base64. */
export function bytesOfFrame({ text, binary_base64: base64 }: Frame): string {
  return base64 ?? Buffer.from(JSON.stringify(text)).toString('base64');
}

/** A request with its path verbatim, which a browser's `fetch` would normalise. */
export function ask(
  url: string,
  exchange: Exchange['request'],
): Promise<{ status: number; headers: string | null; body: Buffer }> {
  const { origin } = new URL(url);
  return new Promise((answered, failed) => {
    const asked = send(origin, { method: exchange.method, path: exchange.path }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => {
        answered({
          status: response.statusCode ?? 0,
          headers: response.headers['content-type'] ?? null,
          body: Buffer.concat(chunks),
        });
      });
    });
    asked.on('error', failed);
    asked.end(sentBody(exchange));
  });
}

/** What a connection sends in reply to the recorded messages; each frame as base64. */
export function listen({ url }: ReplayedServer, frames: readonly Frame[]): Promise<string[]> {
  const expected = frames.filter(({ dir }) => dir === 'in').length;
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws?clientId=x`);
  socket.binaryType = 'arraybuffer';
  const heard: string[] = [];
  return new Promise((done, failed) => {
    socket.addEventListener('open', () => {
      frames.filter(({ dir }) => dir === 'out').forEach(({ text }) => socket.send(JSON.stringify(text)));
    });
    socket.addEventListener('message', ({ data }: MessageEvent<string | ArrayBuffer>) => {
      heard.push(Buffer.from(typeof data === 'string' ? Buffer.from(data) : new Uint8Array(data)).toString('base64'));
      if (heard.length === expected) {
        socket.close();
        done(heard);
      }
    });
    socket.addEventListener('error', () => failed(new Error('The connection broke.')));
  });
}

export class ReplayedServer {
  readonly heard: { method: string; path: string; body: Buffer }[] = [];
  /** Messages from clients, each frame as base64. */
  readonly told: string[] = [];
  readonly #server: Server;
  readonly #sockets: Frame[][];
  #connections: Duplex[] = [];

  private constructor(name: string) {
    const { http, sockets } = conversation(name);
    this.#sockets = [...sockets];
    this.#server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        const answer = http[this.heard.length].response;
        this.heard.push({ method: request.method ?? '', path: request.url ?? '', body: Buffer.concat(chunks) });
        const type = answer.headers?.['content-type'];
        response.writeHead(answer.status, type === undefined ? {} : { 'Content-Type': type });
        response.end(bodyOf(answer));
      });
    });
    this.#server.on('upgrade', (request: IncomingMessage, socket: Duplex) => this.#speak(request, socket));
  }

  static async start(name: string): Promise<ReplayedServer> {
    const replayed = new ReplayedServer(name);
    await new Promise<void>((listening) => replayed.#server.listen(0, '127.0.0.1', listening));
    return replayed;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#connections.forEach((socket) => socket.destroy());
    this.#server.closeAllConnections();
    await new Promise<void>((closed) => this.#server.close(() => closed()));
  }

  /** Frames recorded after a client's message are sent once it arrived. */
  #speak(request: IncomingMessage, socket: Duplex): void {
    acceptSocket(request, socket);
    this.#connections.push(socket);
    const left = [...(this.#sockets.shift() ?? [])];
    const go = () => {
      while (left[0]?.dir === 'in') {
        const [one] = left.splice(0, 1);
        socket.write(frame(one.binary_base64 === undefined ? 1 : 2, Buffer.from(bytesOfFrame(one), 'base64')));
      }
    };
    socket.on('error', () => undefined);
    socket.on('data', (data: Buffer) => {
      if ((data[0] & 15) === 1) {
        this.told.push(Buffer.from(wordsOf(data)).toString('base64'));
        left.shift();
        go();
      }
    });
    go();
  }
}
