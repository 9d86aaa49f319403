/** Held, shared, by every busy tab; a new version only takes over when nobody holds it. */
const WORK_LOCK = 'darkroom-work';

/** Caches the page on this device and offers new versions, which wait until the person agrees. */
export class Update {
  /** Whether a new version is completely here. */
  isReady = $state(false);
  /** Why it cannot take over yet, or null. */
  note = $state<string | null>(null);
  #registration: ServiceWorkerRegistration | null = null;
  #isStarted = false;
  #works = 0;
  #isLeaving = false;

  /** Only the first call counts. If service workers are blocked or cannot be fetched, the page still works online. */
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
        // The very first version takes over its own page.
        isControlled = true;
      } else if (this.#works === 0) {
        // Accepted, perhaps in another tab. Work that just started is finished first.
        this.#leave();
      } else {
        this.isReady = true;
      }
    });
    // An installed page may stay open for weeks, but the browser only checks for new versions when a page is opened.
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') {
        registration.update().catch(() => undefined);
      }
    });
  }

  /** Holds back new versions in all tabs until the returned function is called. */
  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#works += 1;
    this.note = null;
    // Without locks there is no service worker either: both need a secure origin.
    void navigator.locks?.request(WORK_LOCK, { mode: 'shared' }, () => promise);
    return () => {
      this.#works -= 1;
      resolve();
    };
  }

  /** Lets the new version take over and loads it. */
  async accept(): Promise<void> {
    const worker = this.#registration?.waiting;
    if (!worker) {
      // Another tab accepted while this one was busy.
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
    // The very first version waits for nobody.
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
