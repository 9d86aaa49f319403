/** A random 32-bit seed, in the form operations use. */
export function randomSeed(): string {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}
