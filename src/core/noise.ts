/** Whose random numbers to use: tools draw them differently, so the same seed gives a different picture in each. */
/**
 * - `torch_cpu`: diffusers with one CPU generator, which draws everything in turn, the whole batch at once;
 * - `nv`: AUTOMATIC1111 with noise as drawn by an NVIDIA GPU, one generator per picture of a batch, each seeded one higher than the last;
 * - `a1111_cpu`: the same with CPU generators;
 * - `comfyui`: ComfyUI on the CPU; one generator for the batch, and another with the same seed for the noise of steps.
 *
 * Samplers that draw from a Brownian tree in the tool do so here, except with `torch_cpu`.
 */
export const NOISES = ['torch_cpu', 'nv', 'a1111_cpu', 'comfyui'] as const;
export type NoiseName = (typeof NOISES)[number];

export type LatentDims = readonly [batch: number, channels: number, height: number, width: number];

/** The interval that the noise of one step covers. */
export interface NoiseInterval {
  /** The noise levels before and after the step. */
  from: number;
  to: number;
  /** The lowest level above 0 and the highest of the whole sampling, for a sampler that draws from a Brownian tree; null for others. */
  range: { least: number; greatest: number } | null;
}

/** The random numbers of one sampling, in the order they are asked for. All are standard normal, f32. */
export interface NoiseSource {
  /** For the sample of an encoder's posterior; null = use its mean. */
  ofPosterior(count: number): Float32Array<ArrayBuffer> | null;
  /** The initial noise. */
  ofStart(dims: LatentDims): Float32Array<ArrayBuffer>;
  /** Fresh noise in a step. */
  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer>;
  /** Its state, from which another source for the same request continues with the same numbers. Survives structured clone. */
  state: NoiseState;
}

/** The state of a CPU generator. */
export interface GeneratorState {
  /** 624 words, and how many of them are used up. */
  words: Uint32Array<ArrayBuffer>;
  index: number;
  /** The unused second number of the pair begun by the last short call. */
  cached: number | null;
}

/** The state of an imitated GPU generator: how many calls were made. */
export interface PhiloxState {
  offset: number;
}

/** The generator that draws everything, or those that draw the noise of steps. */
export type NoiseState = GeneratorState | { generators: (GeneratorState | PhiloxState)[] };

export interface NoiseRequest {
  noise?: NoiseName | undefined;
  /** Decimal, up to 2^64 − 1. */
  seed: string;
  batch_size: number;
  /** A second seed, and how far to move the initial noise towards its noise: 0 = not at all, 1 = all the way. */
  variation_seed?: string | undefined;
  variation_strength?: number | undefined;
  /** AUTOMATIC1111's ENSD: added to the seed for the noise of steps. */
  eta_noise_seed_delta?: number | undefined;
}

/** The names of {@link NoiseRequest} beside the seed, in operations. */
export const NOISE_PARAMETERS = ['noise', 'variation_seed', 'variation_strength', 'eta_noise_seed_delta'] as const;
