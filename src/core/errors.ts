/**
 * The one error type for everything a person or a caller can be told.
 *
 * `message` is one sentence that says what happened and what to do. `retry` says whether trying again can help:
 * `same` (nothing needs to change), `smaller` (a smaller size, batch or checkpoint), `never` (the request must change).
 */
export const ERROR_CODES = [
  'invalid_operation',
  'checkpoint_incomplete',
  'checkpoint_damaged',
  'checkpoint_unsupported',
  'origin_unavailable',
  'image_unreadable',
  'media_unreadable',
  'no_webgpu',
  'gpu_lost',
  'does_not_fit',
  'context_too_long',
  'out_of_memory',
  'result_invalid',
  'storage_unavailable',
  'storage_full',
  'worker_failed',
  'cancelled',
  'internal',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];
export type Retry = 'same' | 'smaller' | 'never';

export interface StudioErrorData {
  code: ErrorCode;
  message: string;
  retry: Retry;
  cause?: string;
  /** The engine that failed, if it is not the one running the job; only that one is restarted. */
  engine?: 'language';
}

export class StudioError extends Error {
  readonly code: ErrorCode;
  readonly retry: Retry;
  readonly engine: StudioErrorData['engine'];

  constructor(
    code: ErrorCode,
    message: string,
    options: { retry?: Retry; cause?: unknown; engine?: StudioErrorData['engine'] } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'StudioError';
    this.code = code;
    this.retry = options.retry ?? 'never';
    this.engine = options.engine;
  }

  /** A plain object that survives structured clone; see {@link StudioError.from}. */
  toData(): StudioErrorData {
    return {
      code: this.code,
      message: this.message,
      retry: this.retry,
      ...(this.cause === undefined ? {} : { cause: describe(this.cause) }),
      ...(this.engine === undefined ? {} : { engine: this.engine }),
    };
  }

  static fromData(data: StudioErrorData): StudioError {
    return new StudioError(data.code, data.message, { retry: data.retry, cause: data.cause, engine: data.engine });
  }

  /** Any thrown value as a StudioError; unknown ones become `internal`, with their own text as the cause. */
  static from(thrown: unknown): StudioError {
    if (thrown instanceof StudioError) {
      return thrown;
    }
    const name = typeof thrown === 'object' && thrown !== null ? (thrown as { name?: unknown }).name : undefined;
    if (name === 'AbortError') {
      return cancelled();
    }
    if (name === 'NotReadableError') {
      // The file was moved or changed since it was opened; or a private window lost gigabytes that the browser kept in memory.
      return new StudioError(
        'checkpoint_incomplete',
        'A file could not be read any more; if it was moved or changed, open it again, and in a private window, which cannot keep large checkpoints, use an ordinary one.',
        { retry: 'same', cause: thrown },
      );
    }
    return new StudioError(
      'internal',
      `Something unexpected failed (${describe(thrown)}); try again, or reload the page.`,
      {
        retry: 'same',
        cause: thrown,
      },
    );
  }
}

export function cancelled(): StudioError {
  return new StudioError('cancelled', 'The job was cancelled.', { retry: 'same' });
}

export function describe(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Checks an internal invariant; a failure is our bug, never the user's fault. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) {
    throw new Error(`Assertion failed: ${message}`);
  }
}
