/** What the files of this folder export as `areas`: cells of one kind each, all compared with the reference's own numbers. */

/** One thing that the reference makes too. */
export interface FidelityCell {
  /** One entry per column of the area; no two cells of an area are equal. */
  at: readonly string[];
  /** How far ours is from the reference, in the unit of the area. */
  difference(): number | Promise<number>;
}

export interface FidelityArea {
  title: string;
  /** One paragraph: whose numbers they are, how they were made, and what a difference means. */
  about: string;
  columns: readonly string[];
  /** The greatest difference that passes. */
  limit: number;
  cells: readonly FidelityCell[];
}

/** Greatest difference of two lists in units of the spread of the expected one; infinite where the lengths differ or a value is none. */
export function relativeDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const values = Array.from(expected);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  return greatestDifference(actual, expected) / (spread > 0 ? spread : 1);
}

export function greatestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) {
    return Infinity;
  }
  let most = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    most = Number.isNaN(difference) ? Infinity : Math.max(most, difference);
  }
  return most;
}
