/** NumPy's `SeedSequence`: any number of independent seeds from one, the same on every machine. torchsde's Brownian trees use it.
 *
 * Source: https://numpy.org/doc/stable/reference/random/bit_generators/generated/numpy.random.SeedSequence.html, after
 * https://www.pcg-random.org/posts/developing-a-seed_seq-alternative.html
 */
const INIT_A = 0x43b0d7e5;
const MULT_A = 0x931e8875;
const INIT_B = 0x8b51f9dd;
const MULT_B = 0x58f38ded;
const MIX_LEFT = 0xca01f9dd;
const MIX_RIGHT = 0x4973f715;

/**
 * @param entropy the seed, from 0
 * @param spawnKey the path to a descendant; empty = the sequence itself
 * @param poolSize number of 32-bit words to mix
 * @returns `count` words of 32 bits, unsigned
 */
export function seedSequence(
  entropy: bigint,
  spawnKey: readonly number[],
  poolSize: number,
  count: number,
): Uint32Array {
  const words = wordsOf(entropy);
  if (spawnKey.length > 0) {
    while (words.length < poolSize) {
      words.push(0);
    }
    words.push(...spawnKey.flatMap((key) => wordsOf(BigInt(key))));
  }
  const pool = new Uint32Array(poolSize);
  let constant = INIT_A;
  const hash = (given: number): number => {
    const value = given ^ constant;
    constant = Math.imul(constant, MULT_A);
    const product = Math.imul(value, constant);
    return product ^ (product >>> 16);
  };
  const mix = (into: number, value: number): void => {
    const mixed = (Math.imul(MIX_LEFT, pool[into]) - Math.imul(MIX_RIGHT, value)) | 0;
    pool[into] = mixed ^ (mixed >>> 16);
  };
  for (let i = 0; i < poolSize; i++) {
    pool[i] = hash(words[i] ?? 0);
  }
  for (let from = 0; from < poolSize; from++) {
    for (let into = 0; into < poolSize; into++) {
      if (from !== into) {
        mix(into, hash(pool[from]));
      }
    }
  }
  for (const word of words.slice(poolSize)) {
    for (let into = 0; into < poolSize; into++) {
      mix(into, hash(word));
    }
  }

  let output = INIT_B;
  return Uint32Array.from({ length: count }, (_, i) => {
    const value = pool[i % poolSize] ^ output;
    output = Math.imul(output, MULT_B);
    const product = Math.imul(value, output);
    return product ^ (product >>> 16);
  });
}

/** The low word first. */
function wordsOf(value: bigint): number[] {
  const words: number[] = [];
  for (let rest = value; words.length === 0 || rest > 0n; rest >>= 32n) {
    words.push(Number(rest & 0xffffffffn));
  }
  return words;
}
