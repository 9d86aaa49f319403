/** Memory as sentences say it: one digit after the point, never 0. By itself, as the page loads it long before anything is judged to fit. */
export function gibibytes(bytes: number): string {
  return Math.max(0.1, bytes / 2 ** 30).toFixed(1);
}
