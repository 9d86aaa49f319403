/** The LoRAs that are merged into a model's weights: which are read, what they change, and what is told of them. */
import { assert } from '../../core/errors.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import { leftOutOf, loraDataHash, readLora, withLora, type Lora } from '../../weights/lora.ts';
import { LORA_NETWORKS, type LoraNetwork, type LoraTargets } from '../../weights/lora_names.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import type { ModelLora } from '../family.ts';

/** A LoRA that was read, under the name by which graphs refer to its file. */
interface ReadLora {
  given: ModelLora;
  file: string;
  layers: Lora;
  /** SHA-256 of the file and of its tensors' bytes alone; they are read once. */
  hashes: () => Promise<{ sha256: string; data_sha256: string }>;
}

export class MergedLoras {
  #loras: ReadLora[] = [];

  /** @param own the networks' weights without any */
  constructor(
    readonly files: CheckpointFiles,
    readonly own: LoraTargets,
  ) {}

  /** The file that graphs refer to by this name; null when it is none of a LoRA. */
  file(name: string): Blob | null {
    return this.#loras.find(({ file }) => file === name)?.given.file ?? null;
  }

  /**
   * From now on these are merged, and no others.
   * @returns the networks whose weights are others now
   * @throws StudioError `checkpoint_unsupported` for a LoRA of another kind of model; nothing is changed then
   */
  async use(loras: readonly ModelLora[]): Promise<LoraNetwork[]> {
    const before = this.#loras;
    if (loras.length === before.length && loras.every((lora, i) => isSameLora(lora, before[i].given))) {
      return [];
    }
    const read: ReadLora[] = [];
    for (const given of loras) {
      const isTaken = (name: string) => this.files.has(name) || read.some(({ file }) => file === name);
      const known = before.find((one) => isSameFile(one.given, given) && !isTaken(one.file));
      read.push(known ? { ...known, given } : await this.#read(given, isTaken));
    }
    this.#loras = read;
    return LORA_NETWORKS.filter((network) => {
      const [old, now] = [before, read].map((all) => changing(all, network));
      return old.length !== now.length || old.some((lora, i) => !isSameLora(lora, now[i]));
    });
  }

  /**
   * What of this one would not be used, as a sentence; null where all of it would.
   * @throws StudioError as {@link use}; nothing is merged
   */
  async check(lora: ModelLora): Promise<string | null> {
    const { layers } = await this.#read(lora, (name) => this.files.has(name));
    return leftOutOf(layers, lora.name);
  }

  /** What of those that are merged is not used, a sentence for each of which something is not. */
  get leftOut(): string[] {
    return this.#loras
      .filter(({ given }) => given.strength !== 0)
      .flatMap(({ given, layers }) => leftOutOf(layers, given.name) ?? []);
  }

  /** The network's tensors, with the changes that LoRAs make to them. */
  weightsOf(network: LoraNetwork): WeightIndex {
    const own = this.own[network];
    assert(own !== undefined, `there is a ${network}`);
    return this.#loras.reduce((weights, { given, layers }) => withLora(weights, layers[network], given.strength), own);
  }

  /** What is recorded of them; `left_out` are the names in the file of what is not used. */
  facts(): Promise<Record<string, unknown>[]> {
    return Promise.all(
      this.#loras.map(async ({ given: { ref, name, strength }, layers: { leftOut }, hashes }) => ({
        ...(ref !== undefined && { lora: ref }),
        name,
        weight: strength,
        ...(await hashes()),
        ...(leftOut.length > 0 && { left_out: leftOut.map((left) => left.name) }),
      })),
    );
  }

  /** @param isTaken whether graphs cannot call it by this name */
  async #read(given: ModelLora, isTaken: (name: string) => boolean): Promise<ReadLora> {
    let file = given.name;
    for (let n = 2; isTaken(file); n++) {
      file = `${given.name} (${n})`;
    }
    const layers = await readLora(given.file, file, this.own);
    let hashes: ReturnType<ReadLora['hashes']> | null = null;
    return { given, file, layers, hashes: () => (hashes ??= hashesOf(given)) };
  }
}

/** Those that change a network's weights. */
function changing(loras: readonly ReadLora[], network: LoraNetwork): ModelLora[] {
  return loras
    .filter(({ given, layers }) => layers[network].size > 0 && given.strength !== 0)
    .map(({ given }) => given);
}

function isSameLora(a: ModelLora, b: ModelLora): boolean {
  return isSameFile(a, b) && a.strength === b.strength;
}

/** The same file under the same name, as far as can be told without reading it. */
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
