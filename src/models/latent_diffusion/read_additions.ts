/** Files of one kind that are used beside a checkpoint: which are read, and what is recorded of them. */
import type { Addition } from '../../core/additions.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import type { ModelAddition } from '../family.ts';

export interface ReadAddition {
  given: ModelAddition;
  /** Under which graphs refer to its file. */
  file: string;
  weights: WeightIndex;
}

export abstract class ReadAdditions<Read extends { weights: WeightIndex }> {
  protected list: (Read & ReadAddition)[] = [];

  constructor(
    readonly kind: Addition,
    /** What each is on the device; networks are called so, with a point and its place. */
    readonly networks: readonly string[],
    readonly shelf: NetworkShelf,
  ) {}

  /**
   * Reads its header.
   * @param file under which graphs are to refer to it
   * @throws StudioError `checkpoint_unsupported` for one of another kind of model
   */
  protected abstract read(given: ModelAddition, file: string): Promise<Read>;

  /** How the names of its files begin for graphs. */
  protected get prefix(): string {
    return this.kind;
  }

  /** The file that graphs refer to by this name; null when it is none of these. */
  file(name: string): Blob | null {
    return this.list.find(({ file }) => file === name)?.given.file ?? null;
  }

  /**
   * Reads these, and changes nothing yet.
   * @returns what takes them, and no others, from then on
   * @throws StudioError as {@link read}
   */
  async prepare(additions: readonly ModelAddition[]): Promise<() => Promise<void>> {
    const list: (Read & ReadAddition)[] = [];
    for (const [place, given] of additions.entries()) {
      const known = this.list.at(place);
      list.push(known && isSame(known.given, given) ? { ...known, given } : await this.#read(given, place));
    }
    return async () => {
      for (let place = 0; place < Math.max(list.length, this.list.length); place++) {
        if (list.at(place)?.weights !== this.list.at(place)?.weights) {
          for (const network of this.networks) {
            await this.shelf.drop(`${network}.${place}`);
          }
        }
      }
      this.list = list;
    };
  }

  /** @throws StudioError as {@link read} */
  async check(addition: ModelAddition): Promise<void> {
    await this.#read(addition, 0);
  }

  /** What is recorded of them. */
  facts(): Promise<Record<string, unknown>[]> {
    return Promise.all(this.list.map(({ given }) => factsOf(this.kind, given)));
  }

  async #read(given: ModelAddition, place: number): Promise<Read & ReadAddition> {
    // No file of a checkpoint or LoRA is called so.
    const file = `${this.prefix}.${place}/${given.name}`;
    return { ...(await this.read(given, file)), given, file };
  }
}

async function factsOf(
  kind: Addition,
  { ref, name, file, sha256, use }: ModelAddition,
): Promise<Record<string, unknown>> {
  return {
    ...use,
    ...(ref !== undefined && { [kind]: ref }),
    name,
    sha256: sha256 ?? (await fingerprint({ blob: () => Promise.resolve(file), version: () => null }, name)),
  };
}

function isSame(a: ModelAddition, b: ModelAddition): boolean {
  return a.name === b.name && (a.file === b.file || (typeof a.sha256 === 'string' && a.sha256 === b.sha256));
}

/** Tensors of these shapes that no file has yet, for what is only to be reckoned. */
export function withShapes(shapes: ReadonlyMap<string, readonly number[]>, beside?: WeightIndex): WeightIndex {
  return {
    get(name) {
      const shape = shapes.get(name);
      const length = 4 * (shape ?? []).reduce((product, dim) => product * dim, 1);
      return shape ? { name, dtype: 'F32', shape: [...shape], file: 'addition', offset: 0, length } : beside?.get(name);
    },
    names: () => new Set([...(beside?.names() ?? []), ...shapes.keys()]),
  };
}
