/** Calls to a server the person entered: failures become one sentence, and no call waits forever. */
import { StudioError, cancelled } from '../../core/errors.ts';

export interface CallOptions {
  /** Without a trailing slash. */
  address: string;
  /** See `RemoteServer.through`. */
  through?: string | undefined;
  /** What the server is called in sentences. */
  name: string;
  key: string | null;
  signal: AbortSignal;
  /** Instead of a bearer token header. */
  authorize?: (key: string) => Record<string, string>;
  fetch?: typeof fetch;
  patience?: Partial<CallPatience>;
  /** The most bytes of an answer; {@link LARGEST} by default. */
  largest?: number;
}

/** In milliseconds. */
export interface CallPatience {
  /** For an answer to begin. */
  answer: number;
  /** Period in which at least {@link SLOWEST} bytes of a body must arrive. */
  trickle: number;
}

const PATIENCE: CallPatience = { answer: 60_000, trickle: 60_000 };

/** Bytes. */
const SLOWEST = 1024;

/** The most bytes of an answer held in memory; videos are the largest. */
const LARGEST = 2 ** 30;

export interface Answer {
  status: number;
  headers: Headers;
  body: Blob;
  /** Its body as text, without the way through a Blob, which takes milliseconds. */
  text: () => Promise<string>;
}

/** Nothing came, or not all of it; whether the server received the request is unknown. */
export class Unreachable extends StudioError {}

export class ServerCalls {
  readonly options: CallOptions;
  readonly #patience: CallPatience;

  constructor(options: CallOptions) {
    this.options = options;
    this.#patience = { ...PATIENCE, ...options.patience };
  }

  get #largest(): number {
    return this.options.largest ?? LARGEST;
  }

  get address(): string {
    return this.options.address;
  }

  /** Where requests go. */
  get base(): string {
    return this.options.through ?? this.options.address;
  }

  /**
   * Any status is an answer.
   * @param patience overrides the usual timeout for an answer to begin
   * @param most bytes of an answer
   * @throws StudioError `origin_unavailable` if none comes, `result_invalid` if it is larger than `most`, `cancelled`
   */
  async ask(
    path: string,
    init: RequestInit = {},
    patience = this.#patience.answer,
    most = this.#largest,
  ): Promise<Answer> {
    const { response, stop } = await this.begin(path, init, patience);
    try {
      return await this.read(response, most);
    } finally {
      stop();
    }
  }

  /** Reads the rest of an answer. Throws like {@link ask}. */
  async read(response: Response, most = this.#largest): Promise<Answer> {
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    for await (const piece of this.pieces(response, this.#patience.trickle, most)) {
      pieces.push(piece);
    }
    const body = new Blob(pieces);
    // What is short comes in one piece.
    const [only] = pieces.length === 1 ? pieces : [];
    const text = () => (only ? Promise.resolve(new TextDecoder().decode(only)) : body.text());
    return { status: response.status, headers: response.headers, body, text };
  }

  /** Like {@link ask}, for a streamed body; `stop` releases it. */
  async begin(
    path: string,
    init: RequestInit = {},
    patience = this.#patience.answer,
  ): Promise<{ response: Response; stop: () => void }> {
    const { key, signal, authorize = bearer } = this.options;
    const controller = new AbortController();
    const stop = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
    };
    const abort = () => controller.abort();
    const timer = setTimeout(abort, patience);
    signal.addEventListener('abort', abort);
    if (signal.aborted) {
      abort();
    }
    try {
      const response = await (this.options.fetch ?? fetch)(`${this.base}${path}`, {
        credentials: 'omit',
        referrerPolicy: 'no-referrer',
        cache: 'no-store',
        redirect: 'error',
        ...init,
        headers: { ...(init.headers as Record<string, string> | undefined), ...(key === null ? {} : authorize(key)) },
        signal: controller.signal,
      });
      clearTimeout(timer);
      return { response, stop };
    } catch (cause) {
      stop();
      throw signal.aborted ? cancelled() : this.unreachable(cause);
    }
  }

  /** Why nothing came: to a page, a refusal by the browser looks like a server that is gone. */
  unreachable(cause?: unknown): Unreachable {
    const { address, name } = this.options;
    return new Unreachable(
      'origin_unavailable',
      `${name} at ${address} does not answer; see that it runs and lets this page ask, then try again.`,
      { retry: 'same', cause },
    );
  }

  /**
   * The bytes of an answer as they arrive. Throws like {@link ask}.
   * @param trickle overrides the usual patience with a body
   */
  async *pieces(
    { body }: Response,
    trickle = this.#patience.trickle,
    most = this.#largest,
  ): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    const { signal, name } = this.options;
    let [bytes, marked] = [0, 0];
    const reader = body?.getReader();
    let tooSlow = false;
    const watch = setInterval(() => {
      if (bytes - marked < SLOWEST) {
        tooSlow = true;
        void reader?.cancel();
      }
      marked = bytes;
    }, trickle);
    try {
      for (;;) {
        const { done, value } = (await reader?.read()) ?? { done: true };
        if (signal.aborted) {
          throw cancelled();
        }
        if (tooSlow) {
          throw this.unreachable();
        }
        if (done || !value) {
          return;
        }
        bytes += value.length;
        if (bytes > most) {
          throw new StudioError(
            'result_invalid',
            `${name} answers with more than ${Math.round(most / 2 ** 20)} MB, which is too much to take in here; make something smaller, or look at what runs there.`,
          );
        }
        yield value;
      }
    } catch (error) {
      throw error instanceof StudioError ? error : signal.aborted ? cancelled() : this.unreachable(error);
    } finally {
      clearInterval(watch);
      // Whoever stops reading does not want the rest.
      reader?.cancel().catch(() => undefined);
    }
  }
}

/** The body's JSON; undefined if it is none. */
export async function jsonOf(answer: Pick<Answer, 'text'>): Promise<unknown> {
  try {
    return JSON.parse(await answer.text());
  } catch {
    return undefined;
  }
}

function bearer(key: string): Record<string, string> {
  return { authorization: ['Bearer', key].join(' ') };
}
