/**
 * How calls, errors, events and signs of life cross between page and workers, over Comlink. Compiled in the worker, page and Node
 * worlds, so it uses only what all three have.
 */
import * as Comlink from 'comlink';
import { StudioError } from '../src/core/errors.ts';
import type { StudioErrorData } from '../src/core/errors.ts';
import type { JobEvent } from '../src/core/job.ts';

/** What a worker posts, beside Comlink's own messages, about itself. */
export type WorkerSignal =
  /** It serves these methods now. While it lives it holds the Web Lock `lock` (null where there are no Web Locks). */
  | { darkroom: 'ready'; methods: string[]; lock: string | null }
  /** A message to it could not be read, so whoever sent that will get no answer. */
  | { darkroom: 'unreadable' }
  /** What it holds is lost and cannot be had again within it (its GPU), whether or not it was at work. */
  | { darkroom: 'ended'; error: StudioErrorData };

/** Makes a thrown StudioError arrive as one, with its code, sentence and cause. Runs once, on import, on both sides. */
function carryErrorsWhole(): void {
  const standard = Comlink.transferHandlers.get('throw');
  if (!standard) {
    throw new Error('Assertion failed: Comlink has a transfer handler named "throw"');
  }
  Comlink.transferHandlers.set('throw', {
    canHandle: (value): value is { value: unknown } => standard.canHandle(value),
    serialize: (thrown: { value: unknown }) => [StudioError.from(thrown.value).toData(), []],
    deserialize: (data: StudioErrorData): never => {
      throw StudioError.fromData(data);
    },
  });
}
carryErrorsWhole();

/** The other side's methods. Made here, so that whoever calls also knows how errors arrive. */
export function callsTo<Api>(endpoint: Comlink.Endpoint): Comlink.Remote<Api> {
  return Comlink.wrap<Api>(endpoint);
}

/** Serves `owner` on a port, such as the one between recorder and generation worker. */
export function serveOn(port: MessagePort, owner: object): void {
  Comlink.expose(owner, port);
}

/**
 * Serves `owner` to whoever made this worker and says that it is ready. The last line of every worker file.
 * @param scope the worker's global scope
 */
export async function serve(owner: object, scope: Comlink.Endpoint): Promise<void> {
  Comlink.expose(owner, scope);
  const say = (signal: WorkerSignal) => {
    scope.postMessage(signal);
  };
  scope.addEventListener('messageerror', () => {
    say({ darkroom: 'unreadable' });
  });
  say({ darkroom: 'ready', methods: methodsOf(owner), lock: await holdLock() });
}

/** Says that this worker cannot do anything any more, so that whoever made it makes another one. */
export function resign(error: StudioError, scope: Comlink.Endpoint): void {
  scope.postMessage({ darkroom: 'ended', error: error.toData() } satisfies WorkerSignal);
}

/** Held until the worker ends for whatever reason: the only sign of life that needs no heartbeat. */
async function holdLock(): Promise<string | null> {
  // Absent outside secure contexts and in Node.
  const locks = (globalThis.navigator as { locks?: LockManager } | undefined)?.locks;
  if (!locks) {
    return null;
  }
  const name = `darkroom:worker:${crypto.randomUUID()}`;
  await new Promise<void>((held, refused) => {
    locks
      .request(name, () => {
        held();
        return new Promise<never>(() => {});
      })
      .catch(refused);
  });
  return name;
}

function methodsOf(owner: object): string[] {
  const names = new Set(Object.keys(owner));
  for (let level: unknown = Object.getPrototypeOf(owner); level && level !== Object.prototype;) {
    Object.getOwnPropertyNames(level).forEach((name) => names.add(name));
    level = Object.getPrototypeOf(level);
  }
  names.delete('constructor');
  return [...names];
}

/**
 * Sends a job's events from the worker. They cross on a port of their own, which can fall behind the call's answer,
 * so a worker awaits {@link delivered} before it answers.
 */
export class EventSender {
  #last: Promise<unknown> = Promise.resolve();
  readonly #onEvent: (event: JobEvent) => unknown;

  /** @param onEvent the callback as the worker received it (a Comlink proxy) */
  constructor(onEvent: (event: JobEvent) => unknown) {
    this.#onEvent = onEvent;
  }

  send(event: JobEvent): void {
    const acknowledged = Promise.resolve(this.#onEvent(event));
    this.#last = Promise.all([this.#last, acknowledged]);
    // A listener that is gone is no reason to fail; `delivered` reports what matters.
    this.#last.catch(() => {});
  }

  /** Resolves when everything sent so far has been received. */
  async delivered(): Promise<void> {
    await this.#last;
  }
}
