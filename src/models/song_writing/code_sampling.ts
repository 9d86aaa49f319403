/** Drawing one of a model's signs, as heartlib does it with torch's generator: the sign whose chance over an exponential number is greatest. */
import type { TorchGenerator } from '../../core/random.ts';

export interface Drawing {
  temperature: number;
  top_k: number;
}

/**
 * What guidance makes of the chances with and without words, in single precision.
 * @param logits [1 or 2, count]: with words, and then without
 */
export function guided(logits: Float32Array<ArrayBuffer>, count: number, scale: number): Float32Array<ArrayBuffer> {
  if (logits.length === count) {
    return logits;
  }
  const without = logits.subarray(count);
  return logits.slice(0, count).map((value, i) => without[i] + Math.fround(Math.fround(value - without[i]) * scale));
}

/** Takes one number for each sign from the generator. Signs that are as likely as the last of the likeliest count as well. */
export function drawCode(
  logits: Float32Array<ArrayBuffer>,
  { temperature, top_k }: Drawing,
  random: TorchGenerator,
): number {
  const scaled = logits.map((value) => value / temperature);
  const sorted = scaled.slice().sort();
  const least = sorted[Math.max(sorted.length - top_k, 0)];
  const most = sorted[sorted.length - 1];
  let [best, chosen] = [-1, 0];
  for (let i = 0; i < scaled.length; i++) {
    const uniform = random.uniform();
    if (scaled[i] < least) {
      continue;
    }
    const chance = Math.exp(scaled[i] - most) / Math.fround(-Math.log1p(-uniform));
    if (chance > best) {
      [best, chosen] = [chance, i];
    }
  }
  return chosen;
}
