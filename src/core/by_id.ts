/** The exports of a folder's files, by id; files that export something else are skipped. */
export function byId<T extends { id: string }>(entries: readonly (T | undefined)[]): Readonly<Record<string, T>> {
  return Object.fromEntries(entries.flatMap((entry) => (entry ? [[entry.id, entry]] : [])));
}
