/** Any of the seeds that fit 32 bits, as operations write them. */
export function randomSeed(): string {
  return String(crypto.getRandomValues(new Uint32Array(1))[0]);
}
