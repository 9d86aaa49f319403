/** Whatever ends the command line early: a code and one sentence, told without a trace. */
export class Failure extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  /** 2 when the request must change, 1 when something else went wrong. */
  get exitCode() {
    return this.code === 'invalid_operation' || this.code === 'usage' ? 2 : 1;
  }
}
