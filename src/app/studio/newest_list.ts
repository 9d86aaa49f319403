/** Beside the stage; the recordings have all of them. */
export const NEWEST_COUNT = 18;

/**
 * Newer runs before older ones, each once. A run may reach the page twice, from its job and from the recordings, in either order; the list is
 * keyed by id, and a second entry would break it.
 */
export function newestFirst<T extends { id: string }>(newer: readonly T[], older: readonly T[]): T[] {
  const ids = new Set(newer.map(({ id }) => id));
  return [...newer, ...older.filter(({ id }) => !ids.has(id))].slice(0, NEWEST_COUNT);
}
