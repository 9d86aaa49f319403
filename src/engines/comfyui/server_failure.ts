/** Why a server will not finish a job that another server may make; nothing is recorded before a whole job is here. */
import { StudioError } from '../../core/errors.ts';
import type { ErrorCode } from '../../core/errors.ts';

/**
 * `gone`: it does not answer. `forgotten`: it answers but has lost the job, so it may get it again. `unable`: it answers but would fail
 * the same way again.
 */
export type FailureKind = 'gone' | 'forgotten' | 'unable';

export class ServerFailure extends StudioError {
  readonly kind: FailureKind;

  constructor(kind: FailureKind, code: ErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(code, message, { retry: code === 'out_of_memory' ? 'smaller' : 'same', cause: options.cause });
    this.kind = kind;
  }

  /** @param error of a call to a server @returns null for an error that would be the same on any server */
  static of(error: StudioError): ServerFailure | null {
    if (error instanceof ServerFailure) {
      return error;
    }
    // Calls without an answer end with `origin_unavailable`.
    return error.code === 'origin_unavailable'
      ? new ServerFailure('gone', error.code, error.message, { cause: error.cause })
      : null;
  }
}
