/**
 * A Brownian motion over noise levels. One seed gives the same motion whichever levels are asked for, and in any order, so a picture keeps
 * its composition when the number of steps changes. This is torchsde's `BrownianTree`, which the stochastic samplers of k-diffusion, ComfyUI
 * and AUTOMATIC1111 draw from.
 *
 * Reference: torchsde/_brownian/{brownian_interval,derived}.py, with its defaults (tolerance 1e-6, a pool of 24 words)
 */
import { seedSequence } from './seed_sequence.ts';

const f = Math.fround;

const POOL = 24;
/** Levels are rounded to this many decimals. */
const DECIMALS = 6;
/** Room for two paths from the root to levels 1e-6 apart; neighbouring steps share most of theirs. */
const REMEMBERED = 64;

interface Node {
  start: number;
  end: number;
  /** Its index at that depth. */
  key: number;
  depth: number;
}

/** Draws `count` normal numbers from a generator that is seeded with `seed`. */
export type Draw = (seed: number, count: number) => Float32Array<ArrayBuffer>;

export class BrownianTree {
  readonly #root: Node;
  readonly #rootIncrement: Float32Array<ArrayBuffer>;
  /** Increments over nodes, the least recently computed first. */
  readonly #increments = new Map<string, Float32Array<ArrayBuffer>>();

  /**
   * @param count numbers of the motion
   * @param least the lowest noise level that will be asked for
   * @param entropy its seed
   */
  constructor(
    readonly count: number,
    least: number,
    greatest: number,
    readonly entropy: bigint,
    readonly draw: Draw,
  ) {
    this.#root = { start: rounded(least), end: rounded(greatest), key: 0, depth: 0 };
    const [seed] = seedSequence(entropy, [], POOL, 1);
    const scale = f(Math.sqrt(greatest - least));
    this.#rootIncrement = draw(seed, count).map((value) => value * scale);
  }

  /** The increment between two levels in units of its standard deviation, so that its numbers are standard normal. */
  between(from: number, to: number): Float32Array<ArrayBuffer> {
    const [low, high, sign] = from < to ? [f(from), f(to), 1] : [f(to), f(from), -1];
    const within = (level: number) => rounded(Math.min(Math.max(level, this.#root.start), this.#root.end));
    const [first, ...rest] = this.#covering(this.#root, within(low), within(high));
    const sum = this.#increment(first).slice();
    for (const node of rest) {
      this.#increment(node).forEach((value, i) => (sum[i] += value));
    }
    const spread = sign * f(Math.sqrt(f(high - low)));
    return sum.map((value) => value / spread);
  }

  /** The largest nodes that together are the levels from `low` to `high`, in order. */
  #covering(node: Node, low: number, high: number): Node[] {
    if (low === node.start && high === node.end) {
      return [node];
    }
    const middle = middleOf(node);
    const [left, right] = childrenOf(node, middle);
    if (high <= middle) {
      return this.#covering(left, low, high);
    }
    if (low >= middle) {
      return this.#covering(right, low, high);
    }
    return [...this.#covering(left, low, middle), ...this.#covering(right, middle, high)];
  }

  #increment(node: Node): Float32Array<ArrayBuffer> {
    if (node.depth === 0) {
      return this.#rootIncrement;
    }
    const known = this.#increments.get(nameOf(node));
    if (known) {
      return known;
    }
    const parent = this.#parentOf(node);
    const whole = this.#increment(parent);
    const middle = middleOf(parent);
    const [seed] = seedSequence(this.entropy, [parent.key, parent.depth], POOL, 1);
    const noise = this.draw(seed, this.count);
    const reciprocal = f(1 / (parent.end - parent.start));
    const before = f(middle - parent.start);
    const spread = f(Math.sqrt((middle - parent.start) * (parent.end - middle) * (1 / (parent.end - parent.start))));
    const left = noise.map((value, i) => f(f(f(before * whole[i]) * reciprocal) + f(spread * value)));
    const right = left.map((value, i) => whole[i] - value);
    const children = childrenOf(parent, middle);
    [left, right].forEach((increment, i) => {
      this.#remember(nameOf(children[i]), increment);
    });
    return node.key % 2 === 0 ? left : right;
  }

  #parentOf({ key, depth }: Node): Node {
    // Start at the root: rounding makes a node's ends depend on those above it.
    let node = this.#root;
    for (let level = 1; level < depth; level++) {
      node = childrenOf(node, middleOf(node))[Math.floor(key / 2 ** (depth - level)) % 2];
    }
    return node;
  }

  #remember(name: string, increment: Float32Array<ArrayBuffer>): void {
    this.#increments.delete(name);
    this.#increments.set(name, increment);
    for (const oldest of this.#increments.keys()) {
      if (this.#increments.size <= REMEMBERED) {
        break;
      }
      this.#increments.delete(oldest);
    }
  }
}

function nameOf({ key, depth }: Node): string {
  return `${depth} ${key}`;
}

function middleOf({ start, end }: Node): number {
  return rounded(0.5 * (end + start));
}

function childrenOf({ start, end, key, depth }: Node, middle: number): [left: Node, right: Node] {
  return [
    { start, end: middle, key: 2 * key, depth: depth + 1 },
    { start: middle, end, key: 2 * key + 1, depth: depth + 1 },
  ];
}

/** Python's `round`: ties go to the even digit. */
function rounded(value: number): number {
  const up = Number(value.toFixed(DECIMALS));
  // 10^6 = 2^6 · 5^6, so a tie is an odd multiple of 2^-7.
  const isTie = Math.abs(value * 128) % 2 === 1 && Math.abs(up - value) > 0.4 * 10 ** -DECIMALS;
  if (!isTie) {
    return up;
  }
  const steps = Math.floor(value * 10 ** DECIMALS);
  return Number(((steps % 2 === 0 ? steps : steps + 1) / 10 ** DECIMALS).toFixed(DECIMALS));
}
