/** Where fetched checkpoints stay between runs: a browser profile used for nothing else. */
import { homedir } from 'node:os';
import { join } from 'node:path';

/** @returns {string} */
export function profile() {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return process.env.DARKROOM_PROFILE || join(cache, 'darkroom', 'browser');
}
