/** Constants shared by page and frame; separate from the protocol, so that the frame's script contains no schemas. */

/** Milliseconds that a sketch may compute without a pause before the guard in its code stops it; more where everything takes longer. */
export function longestTurn(loading: number): number {
  return Math.max(1_400, 3.2 * loading);
}

/**
 * Milliseconds that a frame may stay silent before it is removed: a little more, so that the guard, which knows the line, comes first.
 * @param loading milliseconds that the libraries took, 200 to 400 on an idle desktop; how slow a device is just now cannot be asked otherwise
 */
export function longestSilence(loading: number): number {
  return Math.max(1_800, 4 * loading);
}

/** Interval of the frame's heartbeat, in milliseconds. */
export const HEARTBEAT = 200;
/** The sketch's name in stack traces, which tells its lines from the libraries'. */
export const SKETCH_FILE = 'sketch.js';
/** The function that {@link import('./preparation.ts').prepare} puts into loops and functions; it takes the line that it stands on. */
export const GUARD = '__darkroom_turn';
