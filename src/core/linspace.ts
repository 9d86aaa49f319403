/** Numbers as torch spaces them. */
const f = Math.fround;

/** torch.linspace of single precision, which counts from the nearer end. */
export function linspace(start: number, end: number, count: number): number[] {
  const [from, to] = [f(start), f(end)];
  const step = f(f(to - from) / (count - 1));
  return Array.from({ length: count }, (_, i) =>
    i < count / 2 ? f(from + step * i) : f(to - step * (count - 1 - i)),
  ).map((value, i) => (count === 1 && i === 0 ? from : value));
}
