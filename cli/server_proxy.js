/**
 * Passes the page's requests on to servers on other machines. To the browser they are of the page's own origin, so no server has to let pages in
 * (CORS), and keys stay in this process: the page sends a stand-in, which is replaced on the way out, and in what comes back.
 */
import { randomBytes, randomUUID } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** Below it, each server has a path that nobody else on this machine can guess. */
const ROOT = '/servers/';

/** Nothing else is sent on: no cookies, and nothing that says which page asks, by which servers would refuse it. */
const SENT = ['accept', 'authorization', 'content-length', 'content-type', 'x-goog-api-key'];

/** Nothing else comes back, so that no answer sets anything for the page's origin. */
const RETURNED = ['content-length', 'content-type', 'retry-after', 'retry-after-ms'];

/** Whatever an answer is, it does nothing in the page's origin. */
const INERT = { 'Content-Security-Policy': "sandbox; default-src 'none'", 'X-Content-Type-Options': 'nosniff' };

/**
 * @typedef {import('node:http').IncomingMessage} IncomingMessage
 * @typedef {{ address: URL, key: string | null, standIn: string | null }} Passed
 */

export class ServerProxy {
  /** @type {Map<string, Passed>} */
  #passed = new Map();

  /**
   * @param {string} address of a server, without a trailing slash
   * @param {string | null} key
   * @returns {{ path: string, standIn: string | null }} where its requests go on the page's origin, and what stands in for the key
   */
  add(address, key) {
    const path = `${ROOT}${randomUUID()}`;
    const standIn = key === null ? null : standInFor(key);
    this.#passed.set(path, { address: new URL(address), key, standIn });
    return { path, standIn };
  }

  /**
   * @param {IncomingMessage} request
   * @param {import('node:http').ServerResponse} response
   * @returns {boolean} whether the request is for a server; it is then answered
   */
  answer(request, response) {
    const found = this.#find(request);
    if (!found) {
      return false;
    }
    const { passed } = found;
    const upstream = this.#open(request, found, pick(request.headers, SENT));
    upstream.on('response', (answer) => {
      const headers = { ...pick(answer.headers, RETURNED), ...INERT, 'Cache-Control': 'no-store' };
      response.writeHead(answer.statusCode ?? 502, headers);
      const isText = /json|text/.test(answer.headers['content-type'] ?? 'text');
      const streams = passed.key !== null && isText ? [answer, withoutKey(passed), response] : [answer, response];
      pipeline(streams).catch(() => response.destroy());
    });
    // To the page a server that does not answer must look like one, whatever the reason.
    upstream.on('error', () => response.destroy());
    response.on('close', () => upstream.destroy());
    request.pipe(upstream);
    return true;
  }

  /**
   * A web socket.
   * @param {IncomingMessage} request
   * @param {import('node:stream').Duplex} socket
   * @param {Buffer} head
   */
  upgrade(request, socket, head) {
    const found = this.#find(request);
    if (!found) {
      socket.destroy();
      return;
    }
    const { headers } = request;
    const offered = Object.keys(headers).filter((name) => name.startsWith('sec-websocket-'));
    const upstream = this.#open(request, found, {
      ...pick(headers, offered),
      connection: 'Upgrade',
      upgrade: 'websocket',
    });
    upstream.on('upgrade', (answer, other, first) => {
      const lines = Object.entries(pick(answer.headers, ['connection', 'upgrade', ...offeredBack(answer)]));
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
      );
      socket.write(first);
      other.write(head);
      const end = () => {
        socket.destroy();
        other.destroy();
      };
      pipeline(other, socket).then(end, end);
      pipeline(socket, other).then(end, end);
    });
    upstream.on('response', () => socket.destroy());
    upstream.on('error', () => socket.destroy());
    socket.on('error', () => upstream.destroy());
    upstream.end();
  }

  /** @param {IncomingMessage} request */
  #find({ url = '/' }) {
    const [path] = /^\/servers\/[^/?]+/.exec(url) ?? [];
    const passed = path === undefined ? undefined : this.#passed.get(path);
    return passed && path !== undefined ? { passed, rest: url.slice(path.length) } : null;
  }

  /**
   * @param {IncomingMessage} request
   * @param {{ passed: Passed, rest: string }} found
   * @param {Record<string, string>} headers
   */
  #open({ method }, { passed: { address, key, standIn }, rest }, headers) {
    const sent =
      key === null || standIn === null
        ? headers
        : Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, withKey(value, standIn, key)]));
    const open = address.protocol === 'https:' ? httpsRequest : httpRequest;
    // Text must come as it is, so that a key in it can be found.
    return open(`${address.href.replace(/\/$/, '')}${rest}`, {
      method,
      headers: { ...sent, 'accept-encoding': 'identity' },
    });
  }
}

/**
 * Of the same length, so that what is replaced keeps its length. A colon tells engines which kind of key it is.
 * @param {string} key
 */
function standInFor(key) {
  const random = randomBytes(key.length).toString('hex');
  return [...key].map((letter, at) => (letter === ':' ? letter : random[at])).join('');
}

/**
 * @param {string} value of a header
 * @param {string} standIn
 * @param {string} key
 */
function withKey(value, standIn, key) {
  const [, basic] = /^Basic (.+)$/.exec(value) ?? [];
  return basic === undefined
    ? value.replace(standIn, () => key)
    : `Basic ${btoa(atob(basic).replace(standIn, () => key))}`;
}

/**
 * What a server says, with the stand-in where it repeats the key.
 * @param {Passed} passed
 */
function withoutKey({ key, standIn }) {
  const [wanted, put] = [key ?? '', standIn ?? ''].map((text) => Buffer.from(text).toString('latin1'));
  let held = '';
  return new Transform({
    transform(/** @type {Buffer} */ piece, _, done) {
      const text = (held + piece.toString('latin1')).replaceAll(wanted, () => put);
      // The key's beginning may be the end of this piece.
      const begun = [...Array(wanted.length).keys()].reverse().find((length) => text.endsWith(wanted.slice(0, length)));
      held = text.slice(text.length - (begun ?? 0));
      done(null, Buffer.from(text.slice(0, text.length - held.length), 'latin1'));
    },
    flush(done) {
      done(null, Buffer.from(held, 'latin1'));
    },
  });
}

/** @param {IncomingMessage} answer */
function offeredBack({ headers }) {
  return Object.keys(headers).filter((name) => name.startsWith('sec-websocket-'));
}

/**
 * @param {import('node:http').IncomingHttpHeaders} headers
 * @param {readonly string[]} names
 * @returns {Record<string, string>}
 */
function pick(headers, names) {
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = headers[name];
      return value === undefined ? [] : [[name, String(value)]];
    }),
  );
}
