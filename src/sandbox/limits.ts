/** What page and frame agree on; apart from the protocol, so that the frame's script holds no schema. */

/** Milliseconds that a sketch may compute without a pause before the guard in its code stops it. */
export const LONGEST_TURN = 1_400;
/** How often the frame says that it is alive, in milliseconds. */
export const HEARTBEAT = 200;
/** What sketch code is called in stack traces, which is how its lines are told from those of the libraries. */
export const SKETCH_FILE = 'sketch.js';
/** The function that {@link import('./preparation.ts').prepare} puts into loops and functions; it takes the line that it stands on. */
export const GUARD = '__darkroom_turn';
