/** A service behind an API: which of the entered servers to ask, how patiently, and how often. */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { RemoteServer } from '../../core/remote.ts';
import type { EngineSurroundings } from '../engine.ts';
import type { Refusal } from './refusal.ts';
import { ServerCalls, Unreachable } from './server_calls.ts';
import type { Answer, CallOptions, CallPatience } from './server_calls.ts';
import { keyOf } from './server_key.ts';

/** Replaced in tests. */
export interface ServiceMeans {
  fetch?: typeof fetch;
  patience?: Partial<CallPatience>;
  /** Initial delay before retrying a busy service that does not say how long, in milliseconds. */
  wait?: number;
}

export interface Service {
  server: RemoteServer;
  calls: ServerCalls;
  means: ServiceMeans;
  /** Whether another server can do it while this one is busy. */
  isReplaceable?: boolean;
}

/** Refused a request because it is busy: nothing was made, and another server may be asked. */
export class BusyServer extends StudioError {}

/** High-quality pictures, or loading a model first, may take minutes before an answer begins. */
const ANSWER = 10 * 60_000;

/** The most bytes of an answer: a few large pictures as text. */
const LARGEST = 128 * 2 ** 20;

export interface Opening {
  /** What the service is called in sentences. */
  name: string;
  /** Of its address; absent where none is needed. */
  needsKey?: (address: string) => boolean;
  authorize?: CallOptions['authorize'];
  /** The address of the one to ask; the first one entered by default. */
  address?: string;
}

/** @throws StudioError `invalid_operation` if none was entered, or its key is missing */
export async function openService(
  { name, needsKey, authorize, address }: Opening,
  { servers, secret, signal }: EngineSurroundings,
  means: ServiceMeans,
): Promise<Service> {
  const entered = await servers();
  const server = entered.find((one) => address === undefined || one.address === address);
  if (!server) {
    throw new StudioError(
      'invalid_operation',
      address === undefined
        ? `${name} is not entered; enter it under "Engines", then try again.`
        : `${address} is not entered; enter it under "Engines", then try again.`,
    );
  }
  if (needsKey?.(server.address) && !server.hasKey) {
    throw new StudioError(
      'invalid_operation',
      `${name} at ${server.address} wants a key; enter it under "Engines", then try again.`,
    );
  }
  const key = server.hasKey ? await keyOf(server, secret) : null;
  const { fetch, patience } = means;
  const { address: place, through } = server;
  const options = { address: place, through, name, key, signal, authorize, fetch, largest: LARGEST };
  return { server, means, calls: new ServerCalls({ ...options, patience: { answer: ANSWER, ...patience } }) };
}

/** Events of a request that costs money. */
export interface AskingNews {
  /** The request is being sent; from here on, a second one may be charged too. */
  onSent?: () => void;
  /** It was refused, so nothing was made and nothing is owed. */
  onRefused?: () => void;
  /** The service is busy; the request is repeated in this many seconds. */
  onWaiting?: (seconds: number) => void;
}

/** How often to retry a busy service, and the longest wait each time, in milliseconds. */
const MOST_AGAIN = 3;
const LONGEST_WAIT = 60_000;
const FIRST_WAIT = 2000;

/**
 * Sends a request that costs money once; it is only repeated if the service refused it because it was busy.
 * @param refusalOf interprets an unsuccessful answer
 * @returns the start of a successful answer
 */
export async function beginAsking(
  { calls, means, isReplaceable = false }: Service,
  path: string,
  init: () => RequestInit,
  refusalOf: (answer: Answer) => Promise<Refusal>,
  news: AskingNews,
): Promise<{ response: Response; stop: () => void }> {
  for (let again = 0; ; again++) {
    news.onSent?.();
    const begun = await calls.begin(path, init()).catch((error: unknown) => {
      throw error instanceof Unreachable ? unanswered(calls, error) : error;
    });
    if (begun.response.ok) {
      return begun;
    }
    const answer = await calls.read(begun.response).finally(begun.stop);
    news.onRefused?.();
    const { error, isBusy, after } = await refusalOf(answer);
    if (isBusy && isReplaceable) {
      throw new BusyServer(error.code, error.message, { retry: error.retry });
    }
    const wait = isBusy ? (after ?? waitOf(answer.headers, again, means.wait ?? FIRST_WAIT)) : Infinity;
    if (again === MOST_AGAIN || wait > LONGEST_WAIT) {
      throw error;
    }
    news.onWaiting?.(Math.ceil(wait / 1000));
    await pause(wait, calls.options.signal);
  }
}

/** A refusal hidden by the browser looks the same as a server that is gone. */
function unanswered({ options: { name, address } }: ServerCalls, cause: unknown): StudioError {
  return new StudioError(
    'origin_unavailable',
    `${name} at ${address} gave this page no answer that it may read; "Look again" under "Engines" says why, then try again.`,
    { retry: 'same', cause },
  );
}

/** Like {@link beginAsking}, with the whole answer. */
export async function ask(...asked: Parameters<typeof beginAsking>): Promise<Answer> {
  const [{ calls }] = asked;
  const { response, stop } = await beginAsking(...asked);
  try {
    return await whole(calls, () => calls.read(response));
  } finally {
    stop();
  }
}

/**
 * Reads the answer to an accepted request; if it breaks off, nobody here knows what was made.
 * @throws StudioError `origin_unavailable` with a sentence that says so, and what `read` throws
 */
export async function whole<T>({ options: { name, address } }: ServerCalls, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof Unreachable)) {
      throw error;
    }
    throw new StudioError(
      'origin_unavailable',
      `The answer of ${name} at ${address} broke off; it may have made and charged for this all the same, so it is not asked again by itself.`,
      { retry: 'same', cause: error },
    );
  }
}

export function postJson(body: object): RequestInit {
  return { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

/** The delay in milliseconds: as the service says, else longer each time. */
function waitOf(headers: Headers, again: number, first: number): number {
  const milliseconds = Number(headers.get('retry-after-ms') ?? NaN);
  const said = headers.get('retry-after') ?? '';
  const seconds = /^[0-9.]+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return [milliseconds, 1000 * seconds].find((wait) => Number.isFinite(wait) && wait >= 0) ?? first * 2 ** again;
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await passed(milliseconds, signal);
  if (signal.aborted) {
    throw cancelled();
  }
}

/** Resolves after the given milliseconds, or when the signal is aborted. */
export function passed(milliseconds: number, until: AbortSignal): Promise<void> {
  return new Promise((over) => {
    const timer = setTimeout(over, milliseconds);
    until.addEventListener('abort', () => {
      clearTimeout(timer);
      over();
    });
  });
}
