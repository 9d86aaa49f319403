/** Anything that ends the command line early: a code and one sentence, printed without a stack trace. */
export class Failure extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  /** 2 if the request must change, 1 if something else went wrong. */
  get exitCode() {
    return this.code === 'invalid_operation' || this.code === 'usage' ? 2 : 1;
  }
}
