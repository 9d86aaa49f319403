/** For people looking elsewhere: a count in the title and on the app's icon, a notification, and keeping the screen on. */

/** Number of results finished while nobody was looking. Reports every change; back to zero as soon as somebody looks. */
export class Unseen {
  #count = 0;
  readonly #listener: (count: number) => void;

  constructor(listener: (count: number) => void) {
    this.#listener = listener;
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible' && this.#count > 0) {
        this.#set(0);
      }
    });
  }

  add(): void {
    if (document.visibilityState === 'hidden') {
      this.#set(this.#count + 1);
    }
  }

  #set(count: number): void {
    this.#count = count;
    this.#listener(count);
    // There is only an icon if Darkroom is installed as an app.
    const set = count === 0 ? navigator.clearAppBadge?.() : navigator.setAppBadge?.(count);
    set?.catch(() => undefined);
  }
}

/** Keeps the screen on, and so the machine awake, until the returned function is called. Does nothing if unsupported. */
export function stayAwake(): () => void {
  let lock: WakeLockSentinel | null = null;
  let isOver = false;
  const take = async () => {
    // The browser releases it whenever the tab is hidden.
    if (document.visibilityState === 'visible' && !isOver) {
      lock = (await (navigator as Partial<Navigator>).wakeLock?.request('screen').catch(() => null)) ?? null;
      if (isOver) {
        await lock?.release();
      }
    }
  };
  const onVisible = () => void take();
  document.addEventListener('visibilitychange', onVisible);
  void take();
  return () => {
    isOver = true;
    document.removeEventListener('visibilitychange', onVisible);
    void lock?.release().catch(() => undefined);
  };
}

/** Shows a notification, unless the page is visible. Needs permission requested beforehand. */
export async function notify(sentence: string): Promise<void> {
  if (document.visibilityState === 'visible' || !('Notification' in window) || Notification.permission !== 'granted') {
    return;
  }
  const options = { body: sentence, tag: 'darkroom', icon: `${import.meta.env.BASE_URL}icon.svg` };
  try {
    const registration = await navigator.serviceWorker?.getRegistration();
    if (registration?.active) {
      // The only way on phones.
      await registration.showNotification('Darkroom', options);
    } else {
      new Notification('Darkroom', options);
    }
  } catch {
    // The browser cannot after all.
  }
}
