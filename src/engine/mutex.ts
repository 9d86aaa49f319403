/**
 * A first-in, first-out lock. Overlapping calls into one ONNX Runtime instance (create, run, release, read) hang it or corrupt its memory,
 * so every call goes through here.
 */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => undefined);
    return result;
  }
}
