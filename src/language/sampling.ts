/**
 * Chooses the next token in the order of transformers' warpers: temperature, top_k, top_p, then a draw. transformers.js has an unseeded
 * generator and no top_p, so the choice is made here, with one seeded generator per request.
 */
import { TorchGenerator } from '../core/random.ts';

export interface Sampling {
  /** Above 0. */
  temperature: number;
  /** Null = all tokens. */
  topK: number | null;
  /** 0 < topP ≤ 1. */
  topP: number;
}

interface Candidate {
  token: number;
  /** Not normalised. */
  weight: number;
}

export class Sampler {
  readonly #sampling: Sampling;
  readonly #random: TorchGenerator;

  /** @param seed a whole number */
  constructor(sampling: Sampling, seed: string) {
    this.#sampling = sampling;
    this.#random = new TorchGenerator(seed);
  }

  /**
   * Draws a token.
   * @param logits one number per token of the vocabulary; −∞ = never
   */
  choose(logits: Float32Array): number {
    const { temperature, topK, topP } = this.#sampling;
    const most = logits.reduce((one, other) => Math.max(one, other), -Infinity);
    const weights = Float64Array.from(logits, (logit) => Math.exp((logit - most) / temperature));
    const kept = topK === null ? null : likeliest(weights, topK);
    return this.#draw(topP < 1 ? nucleus(weights, kept, topP) : (kept ?? candidatesOf(weights)));
  }

  #draw(candidates: Candidate[]): number {
    const total = candidates.reduce((sum, { weight }) => sum + weight, 0);
    let left = this.#random.uniform() * total;
    for (const { token, weight } of candidates) {
      left -= weight;
      if (left < 0) {
        return token;
      }
    }
    return candidates[candidates.length - 1].token;
  }
}

function candidatesOf(weights: Float64Array, least = 0): Candidate[] {
  const candidates: Candidate[] = [];
  for (let token = 0; token < weights.length; token++) {
    if (weights[token] > least) {
      candidates.push({ token, weight: weights[token] });
    }
  }
  return candidates;
}

/** The `count` tokens with the highest weights, highest first; ties go to the lower id. */
function likeliest(weights: Float64Array, count: number): Candidate[] {
  const best: Candidate[] = [];
  for (let token = 0; token < weights.length; token++) {
    const weight = weights[token];
    if (best.length < count || weight > best[best.length - 1].weight) {
      let at = best.length;
      while (at > 0 && best[at - 1].weight < weight) {
        at -= 1;
      }
      best.splice(at, 0, { token, weight });
      best.length = Math.min(best.length, count);
    }
  }
  return best;
}

/** The fewest of the most likely candidates (or of all tokens) that together reach `topP`; at least one. */
function nucleus(weights: Float64Array, given: Candidate[] | null, topP: number): Candidate[] {
  const total = given
    ? given.reduce((sum, { weight }) => sum + weight, 0)
    : weights.reduce((sum, weight) => sum + weight, 0);
  // Tokens below this cannot be included: all of them together weigh less than what may be dropped.
  const least = ((1 - topP) * total) / weights.length;
  const candidates = given ?? candidatesOf(weights, least).sort((a, b) => b.weight - a.weight || a.token - b.token);
  let reached = 0;
  const end = candidates.findIndex(({ weight }) => (reached += weight) >= topP * total);
  return end < 0 ? candidates : candidates.slice(0, end + 1);
}
