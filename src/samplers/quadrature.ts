/** Integrals of smooth functions, and the polynomials through given points. */

/** Nodes and weights of Gauss-Legendre quadrature with 8 points on [−1, 1], the positive half: exact for polynomials of degree 15. */
const GAUSS = [
  [0.1834346424956498, 0.362683783378362],
  [0.525532409916329, 0.3137066458778873],
  [0.7966664774136267, 0.2223810344533745],
  [0.9602898564975363, 0.1012285362903763],
] as const;

export function integral(f: (t: number) => number, from: number, to: number): number {
  const half = (to - from) / 2;
  const middle = (from + to) / 2;
  return (
    half * GAUSS.reduce((sum, [node, weight]) => sum + weight * (f(middle - half * node) + f(middle + half * node)), 0)
  );
}

/** The polynomial that is 1 at `nodes[j]` and 0 at all other nodes. */
export function lagrange(nodes: readonly number[], j: number, t: number): number {
  return nodes.reduce((product, node, k) => (k === j ? product : (product * (t - node)) / (nodes[j] - node)), 1);
}
