/** Calls to a server that a person entered: a failure becomes one sentence, and no call waits forever. */
import { StudioError, cancelled } from '../../core/errors.ts';

export interface CallOptions {
  /** Without a slash at its end. */
  address: string;
  /** What the server is called in sentences. */
  name: string;
  key: string | null;
  signal: AbortSignal;
  /** In place of a bearer's header. */
  authorize?: (key: string) => Record<string, string>;
  fetch?: typeof fetch;
  patience?: Partial<CallPatience>;
}

/** In milliseconds. */
export interface CallPatience {
  /** For an answer to begin. */
  answer: number;
  /** In which at least {@link SLOWEST} bytes of a body have to arrive. */
  trickle: number;
}

const PATIENCE: CallPatience = { answer: 60_000, trickle: 60_000 };

/** Bytes. */
const SLOWEST = 1024;

/** An answer that is held in memory has at most this many bytes; videos are the largest. */
const LARGEST = 2 ** 30;

export interface Answer {
  status: number;
  headers: Headers;
  body: Blob;
}

export class ServerCalls {
  readonly options: CallOptions;
  readonly #patience: CallPatience;

  constructor(options: CallOptions) {
    this.options = options;
    this.#patience = { ...PATIENCE, ...options.patience };
  }

  get address(): string {
    return this.options.address;
  }

  /**
   * Any status is an answer.
   * @param patience in place of the usual one, for an answer to begin
   * @throws StudioError `origin_unavailable` where none comes, `cancelled`
   */
  async ask(path: string, init: RequestInit = {}, patience = this.#patience.answer): Promise<Answer> {
    const { response, stop } = await this.begin(path, init, patience);
    try {
      return { status: response.status, headers: response.headers, body: await this.#read(response) };
    } finally {
      stop();
    }
  }

  /** As {@link ask}, for a body that is read while it arrives; `stop` lets go of it. */
  async begin(
    path: string,
    init: RequestInit = {},
    patience = this.#patience.answer,
  ): Promise<{ response: Response; stop: () => void }> {
    const { address, key, signal, authorize = bearer } = this.options;
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
      const response = await (this.options.fetch ?? fetch)(`${address}${path}`, {
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

  /** Why nothing came: in a page a refusal by the browser looks like a server that is not there. */
  unreachable(cause?: unknown): StudioError {
    const { address, name } = this.options;
    return new StudioError(
      'origin_unavailable',
      `${name} at ${address} does not answer; see that it runs and lets this page ask, then try again.`,
      { retry: 'same', cause },
    );
  }

  async #read({ body }: Response): Promise<Blob> {
    const chunks: Uint8Array<ArrayBuffer>[] = [];
    let [bytes, marked] = [0, 0];
    const reader = body?.getReader();
    let tooSlow = false;
    const watch = setInterval(() => {
      if (bytes - marked < SLOWEST) {
        tooSlow = true;
        void reader?.cancel();
      }
      marked = bytes;
    }, this.#patience.trickle);
    try {
      for (;;) {
        const { done, value } = (await reader?.read()) ?? { done: true };
        if (this.options.signal.aborted) {
          throw cancelled();
        }
        if (tooSlow) {
          throw this.unreachable();
        }
        if (done || !value) {
          return new Blob(chunks);
        }
        chunks.push(value);
        bytes += value.length;
        if (bytes > LARGEST) {
          await reader?.cancel();
          throw new StudioError(
            'result_invalid',
            `${this.options.name} answers with more than a gigabyte, which does not fit here; make something smaller.`,
          );
        }
      }
    } catch (error) {
      throw error instanceof StudioError ? error : this.options.signal.aborted ? cancelled() : this.unreachable(error);
    } finally {
      clearInterval(watch);
    }
  }
}

/** What the body says, or undefined where it is no JSON. */
export async function jsonOf({ body }: Answer): Promise<unknown> {
  try {
    return JSON.parse(await body.text());
  } catch {
    return undefined;
  }
}

function bearer(key: string): Record<string, string> {
  return { authorization: ['Bearer', key].join(' ') };
}
