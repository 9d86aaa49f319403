/** The LoRAs merged into a model's weights: reading them, what they change, and what is reported. */
import { assert, StudioError } from '../../core/errors.ts';
import { loraName } from '../../core/loras.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import { leftOutOf, readLora, withLora, type Lora } from '../../weights/lora.ts';
import { blockFactor, blockFinder, blocksNotThere } from '../../weights/lora_blocks.ts';
import { loraDataHash } from '../../weights/lora_contents.ts';
import { LORA_NETWORKS, type LoraNetwork, type LoraTargets } from '../../weights/lora_names.ts';
import { isEmbedding, readEmbedding, type Embedding } from '../../weights/textual_inversion.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import type { ModelLora } from '../family.ts';

/** A LoRA and the name by which graphs refer to its file. */
interface ReadLora {
  given: ModelLora;
  file: string;
  layers: Lora;
  /** The vectors that replace its name; null for one that changes layers. */
  embedding: Embedding | null;
  /** SHA-256 of the file, and of its tensors' bytes alone; computed once. */
  hashes: () => Promise<{ sha256: string; data_sha256: string }>;
}

export class MergedLoras {
  #loras: ReadLora[] = [];
  /** Names that files had so far. Each keeps its own, so that equal names in graphs mean equal bytes. */
  readonly #names = new Set<string>();
  /** Of all calls of the denoiser, the share that was made. */
  #made = 0;

  /** @param own the networks' own weights */
  constructor(
    readonly files: CheckpointFiles,
    readonly own: LoraTargets,
    /** Of the text encoders, in order; an embedding has vectors for each. */
    readonly textWidths: readonly number[] = [],
  ) {}

  /** The embeddings among them. */
  get embeddings(): { name: string; vectors: Embedding }[] {
    return this.#loras.flatMap(({ given, embedding }) =>
      embedding && given.strength !== 0 ? [{ name: loraName(given.name), vectors: embedding }] : [],
    );
  }

  /** The file graphs refer to by this name; null if it is no LoRA's. */
  file(name: string): Blob | null {
    return this.#loras.find(({ file }) => file === name)?.given.file ?? null;
  }

  /**
   * Merges exactly these from now on, as they count before the first step.
   * @returns the networks whose weights changed
   * @throws StudioError `checkpoint_unsupported` for a LoRA of another kind of model, in which case nothing changes
   */
  async use(loras: readonly ModelLora[]): Promise<LoraNetwork[]> {
    const made = this.#made;
    this.#requireUnet(loras);
    const before = this.#loras;
    if (made === 0 && loras.length === before.length && loras.every((lora, i) => isSameLora(lora, before[i].given))) {
      return [];
    }
    const read: ReadLora[] = [];
    for (const given of loras) {
      const isTaken = (name: string) => this.files.has(name) || read.some(({ file }) => file === name);
      const known = before.find((one) => isSameFile(one.given, given) && !isTaken(one.file));
      read.push(
        known ? { ...known, given } : await this.#read(given, (name) => isTaken(name) || this.#names.has(name)),
      );
    }
    read.forEach(({ file }) => this.#names.add(file));
    this.#loras = read;
    this.#made = 0;
    return LORA_NETWORKS.filter((network) => !isSameChange(network, [before, made], [read, 0]));
  }

  /**
   * Gives the denoiser's weights what counts at one of its calls.
   * @param call from 0, of `calls`
   * @returns whether they changed
   */
  moveTo(call: number, calls: number): boolean {
    const before = this.#made;
    this.#made = call / calls;
    return !isSameChange('unet', [this.#loras, before], [this.#loras, this.#made]);
  }

  /** @throws StudioError `invalid_operation` for blocks or steps where there is no UNet */
  #requireUnet(loras: readonly ModelLora[]): void {
    const wanting = this.own.unet
      ? undefined
      : loras.find(({ blocks, start = 0, end = 1 }) => blocks || start > 0 || end < 1);
    if (wanting) {
      throw new StudioError(
        'invalid_operation',
        `The LoRA ${wanting.name} is given weights for blocks, or a part of the steps, which count only for Stable Diffusion 1, 2 and XL; leave them out.`,
      );
    }
  }

  /**
   * A sentence on what of this one would not be used; null if all of it would.
   * @throws StudioError like {@link use}; nothing is merged
   */
  async check(lora: ModelLora): Promise<string | null> {
    const known = this.#loras.find(({ given }) => isSameFile(given, lora));
    const { layers } = known ?? (await this.#read(lora, (name) => this.files.has(name)));
    return leftOutOf(layers, lora.name);
  }

  /** A sentence for each merged LoRA of which something is not used. */
  get leftOut(): string[] {
    return this.#loras
      .filter(({ given }) => LORA_NETWORKS.some((network) => strengthIn(given, network) !== 0))
      .flatMap(({ given, layers }) => [leftOutOf(layers, given.name) ?? [], this.#blocksLeftOut(given)].flat());
  }

  #blocksLeftOut({ blocks, name }: ModelLora): string[] {
    const unet = this.own.unet;
    const missing = blocks && unet ? blocksNotThere(blocks, unet) : [];
    return missing.length > 0
      ? [
          `The LoRA ${name} is given weights for the blocks ${missing.join(', ')}, which this checkpoint does not have; they count for nothing.`,
        ]
      : [];
  }

  /** The network's tensors with the LoRAs' changes. */
  weightsOf(network: LoraNetwork): WeightIndex {
    const own = this.own[network];
    assert(own !== undefined, `there is a ${network}`);
    const blockOf = network === 'unet' ? blockFinder(own) : () => 'BASE';
    return this.#loras.reduce((weights, { given, layers }) => {
      const strength = strengthIn(given, network, this.#made);
      const { blocks } = given;
      return withLora(
        weights,
        layers[network],
        blocks ? (path) => strength * blockFactor(blocks, blockOf(path)) : strength,
      );
    }, own);
  }

  /** Their record; `left_out` has the names of unused parts of the file. */
  facts(): Promise<Record<string, unknown>[]> {
    return Promise.all(
      this.#loras.map(async ({ given, layers: { leftOut }, hashes }) => ({
        ...(given.ref !== undefined && { lora: given.ref }),
        name: given.name,
        weight: given.strength,
        ...(given.textStrength !== undefined && { text_weight: given.textStrength }),
        ...(given.blocks && { blocks: given.blocks }),
        ...(given.start !== undefined && { start: given.start }),
        ...(given.end !== undefined && { end: given.end }),
        ...(await hashes()),
        ...(leftOut.length > 0 && { left_out: leftOut.map((left) => left.name) }),
      })),
    );
  }

  /** @param isTaken whether the name is already in use in graphs */
  async #read(given: ModelLora, isTaken: (name: string) => boolean): Promise<ReadLora> {
    let file = given.name;
    for (let n = 2; isTaken(file); n++) {
      file = `${given.name} (${n})`;
    }
    const embedding =
      this.textWidths.length > 0 && (await isEmbedding(given.file, file))
        ? await readEmbedding(given.file, given.name, this.textWidths)
        : null;
    const layers = embedding ? NO_LAYERS : await readLora(given.file, file, this.own);
    let hashes: ReturnType<ReadLora['hashes']> | null = null;
    return { given, file, layers, embedding, hashes: () => (hashes ??= hashesOf(given)) };
  }
}

/** Embeddings change no weights. */
const NO_LAYERS: Lora = {
  unet: new Map(),
  transformer: new Map(),
  text_encoder: new Map(),
  text_encoder_2: new Map(),
  leftOut: [],
};

/**
 * @param made the share of the denoiser's calls that was made, for one that counts in a part of them; undefined = at any time. Text is read
 * before the first.
 */
function strengthIn(
  { strength, textStrength = strength, start = 0, end = 1 }: ModelLora,
  network: LoraNetwork,
  made?: number,
): number {
  const isOfWords = network !== 'unet' && network !== 'transformer';
  const at = isOfWords && made !== undefined ? 0 : made;
  return at !== undefined && (at < start || at >= end) ? 0 : isOfWords ? textStrength : strength;
}

type State = readonly [loras: readonly ReadLora[], made: number];

/** Whether a network's weights are the same in both. */
function isSameChange(network: LoraNetwork, ...states: [State, State]): boolean {
  const [old, now] = states.map(([loras, made]) =>
    loras
      .filter(({ given, layers }) => layers[network].size > 0 && strengthIn(given, network, made) !== 0)
      .map(({ given }) => ({ given, strength: strengthIn(given, network, made) })),
  );
  return (
    old.length === now.length &&
    old.every(
      ({ given, strength }, i) =>
        isSameFile(given, now[i].given) &&
        strength === now[i].strength &&
        String(given.blocks ?? '') === String(now[i].given.blocks ?? ''),
    )
  );
}

function isSameLora(a: ModelLora, b: ModelLora): boolean {
  const useOf = ({ strength, textStrength, blocks, start = 0, end = 1 }: ModelLora) =>
    JSON.stringify([strength, textStrength, blocks, start, end]);
  return isSameFile(a, b) && useOf(a) === useOf(b);
}

/** Whether it is the same file under the same name, as far as can be told without reading it. */
function isSameFile(a: ModelLora, b: ModelLora): boolean {
  const date = ({ file }: ModelLora) => (file instanceof File ? file.lastModified : null);
  const isKnown = typeof a.sha256 === 'string' && a.sha256 === b.sha256;
  const isDated = date(a) !== null && date(a) === date(b) && a.file.size === b.file.size;
  return (a.file === b.file || isKnown || isDated) && a.name === b.name;
}

async function hashesOf({ file, name, sha256 }: ModelLora): Promise<{ sha256: string; data_sha256: string }> {
  return {
    sha256: sha256 ?? (await fingerprint({ blob: () => Promise.resolve(file), version: () => null }, name)),
    data_sha256: await loraDataHash(file, name),
  };
}
