/** Held, shared, by every tab that works; a new version takes over only when nobody holds it. */
const WORK_LOCK = 'darkroom-work';

/** Keeps the page on this device, and offers a new version of it, which waits until somebody agrees. */
export class Update {
  /** Whether there is a new version, all of it here. */
  isReady = $state(false);
  /** Why it cannot take over now, or null. */
  note = $state<string | null>(null);
  #registration: ServiceWorkerRegistration | null = null;
  #isStarted = false;
  #works = 0;
  #isLeaving = false;

  /** The first call counts. Where service workers are blocked or cannot be fetched the page works too, with a network. */
  async start(): Promise<void> {
    if (this.#isStarted || !import.meta.env.PROD || !('serviceWorker' in navigator)) {
      return;
    }
    this.#isStarted = true;
    const registration = await register();
    if (!registration) {
      return;
    }
    this.#registration = registration;
    registration.addEventListener('updatefound', () => this.#follow(registration.installing));
    this.#follow(registration.installing);
    this.#look();
    let isControlled = navigator.serviceWorker.controller !== null;
    navigator.serviceWorker.addEventListener('controllerchange', () => {
      if (!isControlled) {
        // The first version of all takes over the page that it belongs to.
        isControlled = true;
      } else if (this.#works === 0) {
        // Agreed to, perhaps in another tab. Work that began in that moment is finished first.
        this.#leave();
      } else {
        this.isReady = true;
      }
    });
    // An installed page may stay open for weeks, and the browser looks for new versions when a page is opened.
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') {
        registration.update().catch(() => undefined);
      }
    });
  }

  /** Holds new versions back, in every tab, until the returned function is called. */
  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#works += 1;
    this.note = null;
    // No locks, no service worker: both need a secure origin.
    void navigator.locks?.request(WORK_LOCK, { mode: 'shared' }, () => promise);
    return () => {
      this.#works -= 1;
      resolve();
    };
  }

  /** Lets the new version take over, and loads it. */
  async accept(): Promise<void> {
    const worker = this.#registration?.waiting;
    if (!worker) {
      // Another tab's agreement came while this one worked.
      this.#leave();
      return;
    }
    this.note = null;
    await navigator.locks.request(WORK_LOCK, { ifAvailable: true }, async (lock) => {
      if (!lock) {
        this.note = 'Another tab is at work; press Reload again when it has finished.';
        return;
      }
      worker.postMessage('take_over');
      await new Promise<void>((done) => {
        worker.addEventListener('statechange', () => worker.state !== 'activating' && done());
      });
      this.#leave();
    });
  }

  #follow(installing: ServiceWorker | null): void {
    installing?.addEventListener('statechange', () => this.#look());
  }

  #look(): void {
    // The first version of all waits for nobody.
    this.isReady = Boolean(this.#registration?.waiting && this.#registration.active);
  }

  #leave(): void {
    if (!this.#isLeaving) {
      this.#isLeaving = true;
      location.reload();
    }
  }
}

/** Asks for it by what is there afterwards: some browsers refuse without an error. */
async function register(): Promise<ServiceWorkerRegistration | undefined> {
  const { serviceWorker } = navigator;
  try {
    await serviceWorker.register(`${import.meta.env.BASE_URL}service.worker.js`, { updateViaCache: 'none' });
    return await serviceWorker.getRegistration();
  } catch {
    return undefined;
  }
}
