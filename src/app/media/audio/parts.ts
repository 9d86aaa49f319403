/** Times of sounds, as they are read and spoken. */
import { number, t } from '../../messages/messages.svelte.ts';

/** Seconds of the shortest part that can be chosen. */
export const SHORTEST = 0.01;

/** "3.5 of 7.0 seconds" */
export function spoken(seconds: number, length: number): string {
  return t('{seconds} of {length} seconds', { seconds: tenths(seconds), length: tenths(length) });
}

function tenths(seconds: number): string {
  return number(seconds, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
}
