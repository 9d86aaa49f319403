/**
 * How calls, errors, events and signs of life cross between page and workers, over Comlink. Compiled for workers, page and Node, so it
 * uses only what all three have.
 */
import * as Comlink from 'comlink';
import { StudioError } from '../src/core/errors.ts';
import type { StudioErrorData } from '../src/core/errors.ts';
import type { JobEvent } from '../src/core/job.ts';

/** What a worker posts about itself, beside Comlink's messages. */
export type WorkerSignal =
  /** It is ready. While alive, it holds the Web Lock `lock` (null if there are no Web Locks). */
  | { darkroom: 'ready'; methods: string[]; lock: string | null }
  /** It could not read a message, whose sender will get no answer. */
  | { darkroom: 'unreadable' }
  /** It has lost something irreplaceable (its GPU), whether or not it was busy. */
  | { darkroom: 'ended'; error: StudioErrorData };

/** Makes a StudioError arrive as one, with its code, message and cause. Runs once, on import, on both sides. */
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

/** The other side's methods. Created here, so every caller also has the error handling. */
export function callsTo<Api>(endpoint: Comlink.Endpoint): Comlink.Remote<Api> {
  return Comlink.wrap<Api>(endpoint);
}

/** Serves `owner` on a port, such as the one between recorder and generation worker. */
export function serveOn(port: MessagePort, owner: object): void {
  Comlink.expose(owner, port);
}

/**
 * Serves `owner` to whoever created this worker and reports that it is ready. The last line of every worker file.
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

/**
 * A module worker, whose script may be of another origin. Browsers start workers of the page's own origin only, but a module there may import from
 * wherever is allowed to be read, so one of a line does.
 */
export function startWorker(script: string): Worker {
  if (new URL(script).origin === location.origin) {
    return new Worker(script, { type: 'module' });
  }
  const line = new Blob(['import', JSON.stringify(script)], { type: 'text/javascript' });
  const address = URL.createObjectURL(line);
  const worker = new Worker(address, { type: 'module' });
  const revoke = () => {
    URL.revokeObjectURL(address);
  };
  // By its first message the script is loaded.
  worker.addEventListener('message', revoke, { once: true });
  worker.addEventListener('error', revoke, { once: true });
  return worker;
}

/** Reports that this worker is useless from now on, so whoever created it creates another. */
export function resign(error: StudioError, scope: Comlink.Endpoint): void {
  scope.postMessage({ darkroom: 'ended', error: error.toData() } satisfies WorkerSignal);
}

/** Held until the worker ends for any reason: the only sign of life that needs no heartbeat. */
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
 * Sends a job's events from the worker. They cross on a port of their own, which can lag behind the call's answer, so a worker awaits
 * {@link delivered} before it answers.
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
    // Do not fail because a listener is gone; `delivered` reports what matters.
    this.#last.catch(() => {});
  }

  /** Resolves once everything sent so far has been received. */
  async delivered(): Promise<void> {
    await this.#last;
  }
}
