/** Turns a service's refusal into one sentence and one of our codes. */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { ErrorCode } from '../../core/errors.ts';

/** Who refuses. */
export interface Refuser {
  /** What it is called in sentences. */
  name: string;
  address: string;
  key: string | null;
}

export interface Refusal {
  error: StudioError;
  /** It is rate-limiting; it did and charged nothing, so the request may be repeated automatically. */
  isBusy: boolean;
  /** When to retry, in milliseconds, if the message says so rather than a header. */
  after?: number;
}

/** A service's own message, in whichever format. */
export interface Said {
  status: number;
  /** Its most specific name for the failure; empty if it has none. */
  code: string;
  type: string;
  message: string;
}

const text = v.fallback(v.union([v.string(), v.pipe(v.number(), v.transform(String))]), '');

/** OpenAI's format, FastAPI's, and the plain ones of local servers. */
const errorSchema = v.union([
  v.object({ error: v.object({ code: text, type: text, message: text }) }),
  v.pipe(
    v.object({ error: v.pipe(v.string(), v.minLength(1)), message: text }),
    v.transform(({ error, message }) => ({ error: { code: '', type: '', message: message || error } })),
  ),
  v.pipe(
    v.object({ detail: v.array(v.object({ loc: v.fallback(v.array(text), []), msg: text })) }),
    v.transform(({ detail }) => ({
      error: {
        code: '',
        type: '',
        message: detail.map(({ loc, msg }) => `${loc.filter((one) => one !== 'body').join('.')}: ${msg}`).join('; '),
      },
    })),
  ),
  v.pipe(
    v.object({ detail: v.string() }),
    v.transform(({ detail: message }) => ({ error: { code: '', type: '', message } })),
  ),
  v.pipe(
    v.object({ message: v.string(), code: text, type: text }),
    v.transform((error) => ({ error })),
  ),
]);

export function saidIn(status: number, body: unknown): Said {
  const result = v.safeParse(errorSchema, body);
  return { status, ...(result.success ? result.output.error : { code: '', type: '', message: '' }) };
}

const MOST_CHARACTERS = 300;

/** Its message inside our sentence: one line, with any echoed key removed, and no full stop. */
export function quoted(message: string, key: string | null): string {
  const hidden = key === null ? message : message.replaceAll(key, '…');
  const line = hidden
    .replace(/\s+/g, ' ')
    .trim()
    .replace(/[.;]+$/, '');
  return line.length > MOST_CHARACTERS ? `${line.slice(0, MOST_CHARACTERS - 1)}…` : line || 'it does not say why';
}

/** How most services use HTTP statuses and OpenAI's codes; each engine checks for its own first. */
export function usualRefusal(said: Said, { name, address, key }: Refuser): Refusal {
  const { status, code, type, message } = said;
  const is = (pattern: RegExp) => pattern.test(`${code} ${type}`);
  const words = quoted(message, key);
  const refuse = (error: ErrorCode, sentence: string, retry?: 'same' | 'smaller') => ({
    error: new StudioError(error, sentence, { retry }),
    isBusy: false,
  });
  if (status === 401 || is(/invalid_api_key/)) {
    // A message about the key may contain the key.
    return refuse(
      'invalid_operation',
      key === null
        ? `${name} at ${address} wants a key; enter it under "Engines", then try again.`
        : `${name} at ${address} does not take this key; enter another one under "Engines", then try again.`,
    );
  }
  if (status === 402 || is(/insufficient_quota|billing_hard_limit/)) {
    return refuse(
      'origin_unavailable',
      `Nothing is left of what ${name} at ${address} may be used for; add credit or raise the limit there, then try again.`,
      'same',
    );
  }
  if (is(/moderation|content_policy|content_filter/)) {
    return refuse('invalid_operation', `${name} does not make this (${words}); say it in other words.`);
  }
  if (is(/context_length|exceed_context_size/) || /context (length|size|window)/i.test(message)) {
    return refuse(
      'context_too_long',
      `This is longer than what ${name} takes at once (${words}); shorten it, or choose another model.`,
    );
  }
  if (status === 429 || status === 503 || status === 529) {
    return {
      error: new StudioError(
        'origin_unavailable',
        `${name} at ${address} takes no more requests for now (${words}); try again later.`,
        { retry: 'same' },
      ),
      isBusy: true,
    };
  }
  if (status === 413) {
    return refuse(
      'invalid_operation',
      `${name} takes no request of this size; use fewer or smaller pictures.`,
      'smaller',
    );
  }
  if (status === 404) {
    return refuse(
      'invalid_operation',
      `${name} at ${address} has no such thing (${words}); look at the address and the model under "Engines".`,
    );
  }
  if (status === 403) {
    return refuse('invalid_operation', `${name} at ${address} does not allow this (${words}).`);
  }
  if (/out of memory|OutOfMemory/i.test(`${code} ${message}`)) {
    return refuse('out_of_memory', `${name} ran out of memory; make it smaller, or free memory there.`, 'smaller');
  }
  return status >= 500
    ? refuse('origin_unavailable', `${name} at ${address} failed (${status}: ${words}); try again.`, 'same')
    : refuse('invalid_operation', `${name} refuses this (${status}: ${words}).`);
}
