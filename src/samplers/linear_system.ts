/** Small systems of linear equations. */

/** Solves `matrix` · x = `right` by elimination with pivoting; modifies neither. */
export function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const n = right.length;
  const rows = matrix.map((row, i) => [...row, right[i]]);
  for (let column = 0; column < n; column++) {
    const pivot = rows.reduce(
      (best, row, i) => (i > column && Math.abs(row[column]) > Math.abs(rows[best][column]) ? i : best),
      column,
    );
    [rows[column], rows[pivot]] = [rows[pivot], rows[column]];
    for (let i = column + 1; i < n; i++) {
      const factor = rows[i][column] / rows[column][column];
      for (let k = column; k <= n; k++) {
        rows[i][k] -= factor * rows[column][k];
      }
    }
  }
  const x = new Array<number>(n).fill(0);
  for (let i = n - 1; i >= 0; i--) {
    const known = x.reduce((sum, value, k) => (k > i ? sum + rows[i][k] * value : sum), 0);
    x[i] = (rows[i][n] - known) / rows[i][i];
  }
  return x;
}
