import { tick } from 'svelte';
import { StudioError } from '../../core/errors.ts';

export interface Alert {
  message: string;
  action: { label: string; run: () => void } | null;
}

/** What the person is told: one alert at a time, and announcements for screen readers. Sentences are in English and translated when shown. */
export class Told {
  alert = $state.raw<Alert | null>(null);
  /** Read out politely by screen readers. */
  announcement = $state('');

  tell(message: string, action: Alert['action'] = null): void {
    this.alert = { message, action };
  }

  announce(message: string): void {
    // Repeating the same text would not be read out again.
    this.announcement = '';
    void tick().then(() => (this.announcement = message));
  }

  /** Does something for the person, clearing the previous alert. @returns whether it worked; if not, the person is told */
  async attempt(act: () => unknown): Promise<boolean> {
    this.alert = null;
    return this.report(act);
  }

  /** Does something, telling the person if it fails. @returns whether it worked */
  async report(act: () => unknown): Promise<boolean> {
    try {
      await act();
      return true;
    } catch (error) {
      this.tell(StudioError.from(error).message);
      return false;
    }
  }
}
