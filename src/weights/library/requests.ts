/** One request to an origin, interpreting its answer, and retrying failures. */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { Clock, Network } from './surroundings.ts';

/** The file is not the listed one, or not the one whose first bytes were read. */
export class FileChanged extends Error {
  /** @param size its current size, if the origin gives it */
  constructor(readonly size: number | null) {
    super('The file changed at its origin.');
  }
}

/** A failure worth retrying. */
export class Passing extends Error {
  /** @param isRefusal whether the origin is rate-limiting (429) rather than broken */
  constructor(
    message: string,
    readonly retryAfterMs: number | null = null,
    readonly isRefusal = false,
  ) {
    super(message);
  }
}

/** Consecutive failures before giving up, with doubling delays: about 12 s in total. */
const ATTEMPTS = 6;
const FIRST_WAIT_MS = 500;
/** How many times to obey an origin that says when to come back. */
const REFUSALS = 30;
const LONGEST_WAIT_MS = 10 * 60_000;
/** An answer that is idle for this long is abandoned, however long it takes otherwise. */
const IDLE_MS = 30_000;
/** An interrupted attempt counts as a success after this many bytes. */
const GAIN = 65_536;

/** A web page instead of a file: a wrong URL, or a network's sign-in page. */
export class WebPage extends StudioError {
  constructor(sentence: string) {
    super('origin_unavailable', sentence);
  }
}

/** What is asked for. */
export interface Address {
  url: string;
  /** For sentences, such as `unet/config.json`. */
  path: string;
  /** A hub token, or null; the browser drops it when the hub redirects to another host. */
  token: string | null;
}

export class Requests {
  constructor(
    readonly network: Network,
    readonly clock: Clock,
  ) {}

  /**
   * Sends one request and checks its response, but not its body.
   * @param range of bytes, with exclusive end; null = all
   * @param refusal overrides the meaning of an answer other than 200 and 206
   * @throws Passing, FileChanged, StudioError `origin_unavailable` | `cancelled`
   */
  async send(
    address: Address,
    range: { begin: number; end: number } | null,
    signal: AbortSignal,
    refusal: (response: Response) => Error | null = () => null,
  ): Promise<Response> {
    const { url, path, token } = address;
    if (signal.aborted) {
      throw cancelled();
    }
    const headers: Record<string, string> = {};
    if (range) {
      headers.Range = `bytes=${range.begin}-${range.end - 1}`;
    }
    if (token !== null) {
      headers.Authorization = `Bearer ${token}`;
    }
    let response: Response;
    try {
      response = await this.within(
        this.network.fetch(url, {
          headers,
          // A second copy of gigabytes in the browser's cache would be useless.
          cache: 'no-store',
          credentials: 'omit',
          referrerPolicy: 'no-referrer',
          signal,
        }),
      );
    } catch (error) {
      throw passing(error, 'there was no connection', signal);
    }
    if (response.status !== 200 && response.status !== 206) {
      discard(response);
      throw refusal(response) ?? usualRefusal(response, address, this.clock.now());
    }
    if (/^text\/html/i.test(response.headers.get('Content-Type') ?? '') && !/\.html?$/.test(path)) {
      discard(response);
      throw new WebPage(
        `${new URL(url).host} sent a web page instead of ${path}; check the address, and whether this network asks you to sign in first.`,
      );
    }
    return response;
  }

  /** The next bytes of a body, or null at its end. */
  async next(reader: ReadableStreamDefaultReader<Uint8Array>, signal: AbortSignal): Promise<Uint8Array | null> {
    try {
      const part = await this.within(reader.read());
      return part.done ? null : part.value;
    } catch (error) {
      throw passing(error, 'the connection broke', signal);
    }
  }

  /** Repeats `work` until it succeeds, fails for good, or has failed too often. Each attempt reports how many bytes it gained. */
  async insist<T>(
    address: Address,
    signal: AbortSignal,
    work: (gained: (bytes: number) => void) => Promise<T>,
  ): Promise<T> {
    const refusalsBefore = this.network.refusals();
    let failures = 0;
    let refusals = 0;
    for (;;) {
      let gained = 0;
      try {
        return await work((bytes) => {
          gained += bytes;
        });
      } catch (error) {
        if (signal.aborted) {
          throw cancelled();
        }
        if (!(error instanceof Passing)) {
          throw error;
        }
        failures = gained >= GAIN ? 1 : failures + 1;
        refusals += error.isRefusal ? 1 : 0;
        const isOver = error.isRefusal ? refusals > REFUSALS : failures >= ATTEMPTS;
        if (!this.network.isOnline() || isOver) {
          throw this.#brokenOff(address, error);
        }
        const wait = FIRST_WAIT_MS * 2 ** (failures - 1) * (0.5 + this.network.random() / 2);
        await this.clock.wait(Math.min(error.retryAfterMs ?? wait, LONGEST_WAIT_MS), signal).catch(() => {
          throw cancelled();
        });
        // A refusal by the page's policy looks like a broken connection; the browser reports it a moment later.
        if (this.network.refusals() > refusalsBefore) {
          throw sentAway(address, error);
        }
      }
    }
  }

  /**
   * Inspects a file by requesting its first byte, since CDN URLs do not answer HEAD.
   * @returns its size in bytes, null if unknown; undefined if there is no such file
   */
  probe(address: Address, signal: AbortSignal): Promise<number | null | undefined> {
    return this.insist(address, signal, async () => {
      try {
        const response = await this.send(address, { begin: 0, end: 1 }, signal, ({ status }) =>
          status === 404 || status === 410 ? new Absent() : null,
        );
        discard(response);
        if (response.status === 206) {
          const total = totalLength(response);
          if (total !== null) {
            return total;
          }
        }
        // Other origins' Content-Range is hidden unless exposed; a whole answer's length never is.
        const whole = response.status === 200 ? response : await this.send(address, null, signal);
        discard(whole);
        return wholeLength(whole);
      } catch (error) {
        if (error instanceof Absent) {
          return undefined;
        }
        if (error instanceof FileChanged) {
          // Only an empty file has no first byte.
          return 0;
        }
        throw error;
      }
    });
  }

  /** The text of a small file. @throws like {@link send}, and StudioError `checkpoint_damaged` if it is not small */
  text(address: Address, signal: AbortSignal, refusal?: (response: Response) => Error | null): Promise<string> {
    return this.insist(address, signal, async () => {
      const response = await this.send(address, null, signal, refusal);
      const reader = bodyOf(response);
      const decoder = new TextDecoder();
      let text = '';
      for (let part = await this.next(reader, signal); part; part = await this.next(reader, signal)) {
        text += decoder.decode(part, { stream: true });
        if (text.length > MAX_TEXT) {
          void reader.cancel().catch(() => undefined);
          throw new StudioError(
            'checkpoint_damaged',
            `${address.path} is far too large for what it should be; check the address.`,
          );
        }
      }
      return text + decoder.decode();
    });
  }

  /** The result of `work`, unless it exceeds the idle timeout. */
  async within<T>(work: Promise<T>): Promise<T> {
    const done = new AbortController();
    const limit = this.clock.wait(IDLE_MS, done.signal).then(() => {
      throw new Passing(`nothing came for ${IDLE_MS / 1000} seconds`);
    });
    limit.catch(() => undefined);
    try {
      return await Promise.race([work, limit]);
    } finally {
      done.abort();
    }
  }

  #brokenOff({ url, path }: Address, cause: Passing): StudioError {
    return new StudioError(
      'origin_unavailable',
      this.network.isOnline()
        ? `Fetching ${path} from ${new URL(url).host} failed (${cause.message}); check the connection and try again, what has arrived is kept.`
        : `There is no connection, so ${path} could not be fetched; try again when the network is back, what has arrived is kept.`,
      { retry: 'same', cause },
    );
  }
}

const MAX_TEXT = 20_000_000;

class Absent extends Error {}

function passing(error: unknown, what: string, signal: AbortSignal): Error {
  if (signal.aborted) {
    return cancelled();
  }
  return error instanceof Passing ? error : new Passing(what);
}

function sentAway({ url, path }: Address, cause: unknown): StudioError {
  return new StudioError(
    'origin_unavailable',
    `${new URL(url).host} sends ${path} on to another host, to which this page may not speak; download the folder by other means and open it from disk.`,
    { cause },
  );
}

function usualRefusal(response: Response, { url, path, token }: Address, now: number): Error {
  const { status } = response;
  const { host } = new URL(url);
  if (status === 416) {
    return new FileChanged(totalLength(response));
  }
  if (status === 429 || status === 503) {
    return new Passing(`HTTP ${status}`, retryAfter(response, now), status === 429);
  }
  if (status === 408 || status === 425 || status >= 500) {
    return new Passing(`HTTP ${status}`);
  }
  if (status === 401 || status === 403) {
    return new StudioError(
      'origin_unavailable',
      token === null
        ? `${host} gives ${path} only to people who were granted access; accept the conditions on the page of the repository, then give a token of your account.`
        : `${host} does not give ${path} for this token; check it, and whether its account was granted access on the page of the repository.`,
    );
  }
  if (status === 404 || status === 410) {
    return new StudioError(
      'origin_unavailable',
      `There is no ${path} at ${host} (any more); look the checkpoint up again, or take another revision.`,
    );
  }
  return new StudioError('origin_unavailable', `${host} refused ${path} (HTTP ${status}); try another address.`);
}

/** Seconds, or a date. */
function retryAfter(response: Response, now: number): number | null {
  const value = response.headers.get('Retry-After')?.trim();
  if (value === undefined) {
    return null;
  }
  const ms = /^[0-9]+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isFinite(ms) ? Math.max(ms, 0) : null;
}

/** Length of a whole answer, unless it was compressed in transit. */
export function wholeLength(response: Response): number | null {
  const length = response.headers.get('Content-Length');
  return length === null || response.headers.has('Content-Encoding') ? null : Number(length);
}

/** The file's size from a range's answer; null if CORS hides it. */
export function totalLength(response: Response): number | null {
  const total = /\/([0-9]+)$/.exec(response.headers.get('Content-Range') ?? '');
  return total ? Number(total[1]) : null;
}

export function discard(response: Response): void {
  void response.body?.cancel().catch(() => undefined);
}

export function bodyOf(response: Response): ReadableStreamDefaultReader<Uint8Array> {
  if (!response.body) {
    throw new Passing('the answer was empty');
  }
  return response.body.getReader();
}
