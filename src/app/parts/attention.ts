/** Whoever looks elsewhere: the count in the title and on the app's icon, a notification, and a screen that stays on. */

/** Pictures that were finished while nobody looked. Tells of every change; zero again as soon as somebody looks. */
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
    // Only where Darkroom is installed as an app there is an icon to put it on.
    const set = count === 0 ? navigator.clearAppBadge?.() : navigator.setAppBadge?.(count);
    set?.catch(() => undefined);
  }
}

/** Keeps the screen on, and so the machine awake, until the returned function is called. Where that is not possible nothing happens. */
export function stayAwake(): () => void {
  let lock: WakeLockSentinel | null = null;
  let isOver = false;
  const take = async () => {
    // The browser lets go of it whenever the tab is hidden.
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

/** Says something outside the page, unless somebody looks at it anyway. Needs a permission that was asked for before. */
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
    // A browser that cannot after all.
  }
}
