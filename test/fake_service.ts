/**
 * A service behind an API that answers like the measured real ones (statuses, bodies, streams and CORS headers). What each kind of service
 * answers is in the tests that use it.
 */
import { createServer } from 'node:http';
import type { IncomingHttpHeaders, OutgoingHttpHeaders, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Heard {
  method: string;
  path: string;
  headers: IncomingHttpHeaders;
  body: Buffer;
}

export type Answering = (response: ServerResponse, heard: Heard) => void;

/** By `METHOD path`, without the query. */
export type Routes = Record<string, Answering>;

export class FakeService {
  readonly heard: Heard[] = [];
  routes: Routes;
  /** Whether pages of other origins may read its answers: never, always, or only successes, as with gateways. */
  cors: 'none' | 'all' | 'successes' = 'all';
  /** Headers that a preflight allows; others are refused, as by OpenAI and Gemini. */
  allowed = ['authorization', 'content-type', 'x-goog-api-key'];
  readonly #server: Server;
  #port = 0;

  private constructor(routes: Routes) {
    this.routes = routes;
    this.#server = createServer((request, response) => {
      const pieces: Buffer[] = [];
      request.on('data', (piece: Buffer) => pieces.push(piece));
      request.on('end', () => {
        const { method = 'GET', url: path = '/', headers } = request;
        this.#answer({ method, path, headers, body: Buffer.concat(pieces) }, response);
      });
      request.on('error', () => undefined);
    });
  }

  static async start(routes: Routes): Promise<FakeService> {
    const fake = new FakeService(routes);
    await new Promise<void>((listening) => fake.#server.listen(0, '127.0.0.1', listening));
    fake.#port = (fake.#server.address() as AddressInfo).port;
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Bodies of the requests to a path, as JSON, in order. */
  sentTo(path: string): unknown[] {
    return this.heard
      .filter((one) => one.method === 'POST' && one.path === path)
      .map(({ body }) => JSON.parse(body.toString()) as unknown);
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((closed) => this.#server.close(() => closed()));
  }

  #answer(heard: Heard, response: ServerResponse): void {
    const { method, path, headers } = heard;
    const isForeign = headers.origin !== undefined && new URL(headers.origin).host !== headers.host;
    if (method === 'OPTIONS') {
      const asked = (headers['access-control-request-headers'] ?? '').split(',').map((name) => name.trim());
      const allows = this.cors !== 'none' && asked.every((name) => name === '' || this.allowed.includes(name));
      response.writeHead(allows ? 200 : 403, allows ? this.#corsHeaders(true) : {}).end();
      return;
    }
    this.heard.push(heard);
    if (isForeign && this.cors === 'none') {
      response.writeHead(403).end();
      return;
    }
    const answering = this.routes[`${method} ${path.split('?')[0]}`] ?? json(404, { detail: 'Not Found' });
    if (isForeign) {
      const writeHead = response.writeHead.bind(response);
      response.writeHead = (status: number, more?: unknown) =>
        writeHead(status, { ...this.#corsHeaders(status < 400), ...(more as OutgoingHttpHeaders | undefined) });
    }
    answering(response, heard);
  }

  #corsHeaders(isSuccess: boolean): Record<string, string> {
    return this.cors === 'all' || (this.cors === 'successes' && isSuccess)
      ? {
          'Access-Control-Allow-Origin': '*',
          'Access-Control-Allow-Methods': 'GET, POST, OPTIONS',
          'Access-Control-Allow-Headers': this.allowed.join(', '),
        }
      : {};
  }
}

export function json(status: number, value: unknown, headers: Record<string, string> = {}): Answering {
  return (response) =>
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers }).end(JSON.stringify(value));
}

/** Gives these answers one after the other, then keeps repeating the last. */
export function inTurn(...answers: Answering[]): Answering {
  let at = 0;
  return (response, heard) => answers[Math.min(at++, answers.length - 1)](response, heard);
}

/** Server-sent events: values become `data`, whole lines are sent verbatim. */
export function events(list: (string | object)[], end: 'close' | 'cut' | 'hold' = 'close'): Answering {
  return (response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write(
      list.map((one) => `${typeof one === 'string' ? one : `data: ${JSON.stringify(one)}`}\n\n`).join(''),
      () => {
        if (end === 'close') {
          response.end();
        } else if (end === 'cut') {
          response.destroy();
        }
      },
    );
  };
}

/** A body that never ends, byte by byte. */
export function drip(type: string, everyMs: number): Answering {
  return (response) => {
    response.writeHead(200, { 'Content-Type': type });
    response.flushHeaders();
    const timer = setInterval(() => response.write(' '), everyMs);
    response.on('close', () => clearInterval(timer));
  };
}

/** An answer of this many bytes, generated while it is sent. */
export function huge(type: string, bytes: number): Answering {
  return (response) => {
    response.writeHead(200, { 'Content-Type': type });
    const piece = Buffer.alloc(2 ** 20, 'x');
    let sent = 0;
    const more = () => {
      while (sent < bytes) {
        sent += piece.length;
        if (!response.write(piece)) {
          response.once('drain', more);
          return;
        }
      }
      response.end();
    };
    more();
  };
}

/** Never answers. */
export const silence: Answering = () => undefined;
