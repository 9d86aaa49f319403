/** @returns the pictures' numbers one after another, without the opacity where the golden has none: as many as it has */
export function asExpected(pictures: readonly ArrayLike<number>[], expected: number): number[] {
  const all = pictures.flatMap((rgba) => Array.from(rgba));
  return all.length === expected ? all : all.filter((_, i) => i % 4 !== 3);
}
