/** What the files of a folder export, by id; files that export something else are left out. */
export function byId<T extends { id: string }>(entries: readonly (T | undefined)[]): Readonly<Record<string, T>> {
  return Object.fromEntries(entries.flatMap((entry) => (entry ? [[entry.id, entry]] : [])));
}
