/** The sources of noise by name; `noise.ts` says what each is. */
import { BrownianTree, type Draw } from './brownian_tree.ts';
import type { LatentDims, NoiseInterval, NoiseRequest, NoiseSource, NoiseState } from './noise.ts';
import { PhiloxGenerator } from './philox.ts';
import { TorchGenerator } from './random.ts';
import { slerp } from './slerp.ts';

type Generator = TorchGenerator | PhiloxGenerator;
type Make = (seed: bigint) => Generator;

export function noiseSource(request: NoiseRequest): NoiseSource {
  const { noise = 'torch_cpu' } = request;
  if (noise === 'nv') {
    return new PictureByPicture(request, (seed) => new PhiloxGenerator(seed));
  }
  if (noise === 'a1111_cpu') {
    return new PictureByPicture(request, (seed) => new TorchGenerator(seed));
  }
  const make = noise === 'comfyui' ? (seed: bigint) => new Comfyui(seed) : (seed: bigint) => new TorchGenerator(seed);
  const { seed, variation_seed: other, variation_strength: share = 0 } = request;
  const source = make(BigInt(seed));
  return share > 0 && other !== undefined ? new Varied(source, make(BigInt(other)), share) : source;
}

/** For diffusers' pipelines whose scheduler draws from a Brownian tree, which has the generator's seed but takes none of its numbers. */
export function noiseWithMotion(seed: string): NoiseSource {
  return new WithMotion(BigInt(seed));
}

class WithMotion implements NoiseSource {
  readonly #generator: NoiseSource;
  #tree: BrownianTree | null = null;

  constructor(readonly seed: bigint) {
    this.#generator = new TorchGenerator(seed);
  }

  ofPosterior(count: number): Float32Array<ArrayBuffer> | null {
    return this.#generator.ofPosterior(count);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return this.#generator.ofStart(dims);
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    const { from, to, range } = interval;
    if (!range) {
      return this.#generator.ofStep(dims, interval);
    }
    const [batch, count] = sizesOf(dims);
    this.#tree ??= treeOf(batch * count, range, this.seed, (seed) => new TorchGenerator(seed));
    return this.#tree.between(from, to);
  }

  get state(): NoiseState {
    return this.#generator.state;
  }

  set state(state: NoiseState) {
    this.#generator.state = state;
  }
}

/** ComfyUI on the CPU. Reference: comfy/sample.py (prepare_noise), comfy/k_diffusion/sampling.py */
class Comfyui implements NoiseSource {
  readonly #steps: TorchGenerator;
  #tree: BrownianTree | null = null;

  constructor(readonly seed: bigint) {
    this.#steps = new TorchGenerator(seed);
  }

  /** ComfyUI takes the mean of the posterior. */
  ofPosterior(): null {
    return null;
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    return new TorchGenerator(this.seed).ofStart(dims);
  }

  ofStep(dims: LatentDims, { from, to, range }: NoiseInterval): Float32Array<ArrayBuffer> {
    if (!range) {
      return this.#steps.ofStep(dims);
    }
    const [batch, count] = sizesOf(dims);
    this.#tree ??= treeOf(batch * count, range, this.seed, (seed) => new TorchGenerator(seed));
    return this.#tree.between(from, to);
  }

  get state(): NoiseState {
    return { generators: [this.#steps.state] };
  }

  set state(state: NoiseState) {
    restore([this.#steps], state);
  }
}

/**
 * AUTOMATIC1111: each picture of a batch is the one it would be alone, with the previous picture's seed plus one.
 * Reference: modules/rng.py (ImageRNG), modules/sd_samplers_common.py (create_noise_sampler) of stable-diffusion-webui 1.10
 */
class PictureByPicture implements NoiseSource {
  readonly #seeds: bigint[];
  /** Seed of the variation, of each picture. */
  readonly #variations: bigint[] | null;
  readonly #share: number;
  #generators: Generator[];
  readonly #delta: bigint;
  readonly #trees: BrownianTree[] = [];

  constructor(
    {
      seed,
      batch_size: batch,
      variation_seed,
      variation_strength: share = 0,
      eta_noise_seed_delta: delta = 0,
    }: NoiseRequest,
    readonly make: Make,
  ) {
    const counted = (from: string, isFixed: boolean) =>
      Array.from({ length: batch }, (_, i) => BigInt.asUintN(64, BigInt(from) + (isFixed ? 0n : BigInt(i))));
    const varies = share > 0 && variation_seed !== undefined;
    // With a variation, the variation's seed is what differs within a batch.
    this.#seeds = counted(seed, varies);
    this.#variations = varies ? counted(variation_seed, false) : null;
    this.#share = share;
    this.#delta = BigInt(delta);
    this.#generators = this.#seeds.map(make);
  }

  /** AUTOMATIC1111 draws this from an unseeded generator, which cannot be repeated; the mean is the middle of what it may draw. */
  ofPosterior(): null {
    return null;
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    const [, count] = sizesOf(dims);
    const shape = [dims[1], dims[2], dims[3]] as const;
    const pictures = this.#generators.map((generator, i) => {
      const own = generator.randn(count);
      const variation = this.#variations && this.make(this.#variations[i]).randn(count);
      return variation ? slerp(this.#share, own, variation, shape) : own;
    });
    if (this.#delta !== 0n) {
      this.#generators = this.#seeds.map((seed) => this.make(BigInt.asUintN(64, seed + this.#delta)));
    }
    return joined(pictures);
  }

  ofStep(dims: LatentDims, { from, to, range }: NoiseInterval): Float32Array<ArrayBuffer> {
    const [, count] = sizesOf(dims);
    return joined(
      this.#generators.map((generator, i) => {
        if (!range) {
          return generator.randn(count);
        }
        this.#trees[i] ??= treeOf(count, range, this.#seeds[i], this.make);
        return this.#trees[i].between(from, to);
      }),
    );
  }

  get state(): NoiseState {
    return { generators: this.#generators.map(({ state }) => state) };
  }

  set state(state: NoiseState) {
    restore(this.#generators, state);
  }
}

/** Moves the initial noise towards another seed's, picture by picture; the rest comes from the first source. */
class Varied implements NoiseSource {
  constructor(
    readonly source: NoiseSource,
    readonly other: NoiseSource,
    readonly share: number,
  ) {}

  ofPosterior(count: number): Float32Array<ArrayBuffer> | null {
    return this.source.ofPosterior(count);
  }

  ofStart(dims: LatentDims): Float32Array<ArrayBuffer> {
    const [batch, count] = sizesOf(dims);
    const shape = [dims[1], dims[2], dims[3]] as const;
    const [own, variation] = [this.source.ofStart(dims), this.other.ofStart(dims)];
    const part = (all: Float32Array<ArrayBuffer>, i: number) => all.slice(i * count, (i + 1) * count);
    return joined(Array.from({ length: batch }, (_, i) => slerp(this.share, part(own, i), part(variation, i), shape)));
  }

  ofStep(dims: LatentDims, interval: NoiseInterval): Float32Array<ArrayBuffer> {
    return this.source.ofStep(dims, interval);
  }

  get state(): NoiseState {
    return this.source.state;
  }

  set state(state: NoiseState) {
    this.source.state = state;
  }
}

function treeOf(
  count: number,
  { least, greatest }: NonNullable<NoiseInterval['range']>,
  seed: bigint,
  make: Make,
): BrownianTree {
  const draw: Draw = (one, n) => make(BigInt(one)).randn(n);
  return new BrownianTree(count, least, greatest, seed, draw);
}

/** @throws TypeError for the state of another kind of source */
function restore(generators: readonly Generator[], state: NoiseState): void {
  const states = 'generators' in state ? state.generators : [];
  generators.forEach((generator, i) => {
    const one = states.at(i);
    if (generator instanceof PhiloxGenerator && one && 'offset' in one) {
      generator.state = one;
    } else if (generator instanceof TorchGenerator && one && 'words' in one) {
      generator.state = one;
    } else {
      throw new TypeError('This state is of another source of noise.');
    }
  });
}

/** Pictures, and numbers of each. */
function sizesOf([batch, channels, height, width]: LatentDims): [batch: number, count: number] {
  return [batch, channels * height * width];
}

function joined(pictures: readonly Float32Array<ArrayBuffer>[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(pictures.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const picture of pictures) {
    all.set(picture, at);
    at += picture.length;
  }
  return all;
}
