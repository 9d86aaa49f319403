import { isHashOf, wantsReading, type ModelHashes } from '../../core/model_hashes.ts';
import type { ReadLora, Reading } from '../../formats/reading.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { StoredCheckpoint } from '../../weights/library/library_api.ts';
import type { Library } from '../library/library.svelte.ts';
import type { Form } from './form.svelte.ts';

/** A model that a recipe names and that is not here. */
export interface MissingModel {
  /** As files are called, without folder and ending; the hash where the recipe has no name. */
  name: string;
}

type Named = { name: string; hash: string | null };

/** Finds what a recipe was made with among what is stored: by hash first, then by name. */
export class RecipeModels {
  readonly #library: Library;
  readonly #client: JobClient;
  /** What had to be read for, by ref. */
  #read = $state.raw<Readonly<Record<string, ModelHashes>>>({});

  constructor(library: Library, client: JobClient) {
    this.#library = library;
    this.#client = client;
  }

  hashesOf(ref: string): ModelHashes {
    const sha256 = this.#library.stored.find((one) => one.ref === ref)?.sha256;
    return { ...(sha256 === undefined ? {} : { sha256 }), ...this.#read[ref] };
  }

  /** Reads the stored files for the kinds of hashes that a recipe has and that are not known of them; the library keeps them. */
  async learn({ checkpoint, loras }: Reading): Promise<void> {
    const wants = (hashes: (string | null)[]) => hashes.some((hash) => hash !== null && wantsReading(hash));
    const files = [
      ...(wants(loras.map(({ hash }) => hash)) ? this.#library.loras : []),
      ...(wants([checkpoint.hash]) ? this.#library.checkpoints : []),
    ];
    for (const { ref, state, sha256 } of files) {
      if (state === 'complete' && sha256 !== undefined && !(ref in this.#read)) {
        // Without its hashes it is found by its name.
        const hashes = await this.#client.library.hashes(ref).catch(() => null);
        this.#read = { ...this.#read, [ref]: hashes ?? {} };
      }
    }
  }

  /** The stored checkpoint of a recipe; null where none is. */
  checkpoint({ checkpoint: { name, hash } }: Reading): StoredCheckpoint | null {
    const complete = this.#library.checkpoints.filter(({ state }) => state === 'complete');
    return this.#find(complete, { name: stem(name ?? ''), hash }) ?? null;
  }

  /**
   * Switches a recipe's LoRAs on, and no others.
   * @returns what could not be, each as a part of a sentence, and those of which no file is here
   */
  takeLoras(loras: readonly ReadLora[], form: Form): { lost: string[]; missing: MissingModel[] } {
    form.options.loras = [];
    const [lost, missing]: [string[], MissingModel[]] = [[], []];
    for (const lora of loras) {
      const named = { name: lora.name, hash: lora.sha256 ?? lora.hash };
      const stored = this.#find(this.#library.loras, named);
      const isOther = this.#isOther(stored, named);
      if (!stored) {
        lost.push(`the LoRA ${lora.name} at ${lora.weight}`);
      } else if (isOther && lora.sha256 !== null) {
        // A recipe of ours is exact about its files.
        lost.push(`the LoRA ${lora.name} at ${lora.weight} (another file of that name is stored here)`);
      } else {
        form.loras.choose(stored.ref, stored.name, true, lora);
        if (isOther) {
          lost.push(`the exact LoRA ${lora.name} (another file of that name is used)`);
        }
      }
      if (!stored || isOther) {
        missing.push({ name: stem(lora.name) });
      }
    }
    return { lost, missing };
  }

  /** Whether a file that was found by its name has another hash than the one that is asked for. */
  #isOther(stored: { ref: string } | undefined, { hash }: Named): boolean {
    return stored !== undefined && hash !== null && isHashOf(hash, this.hashesOf(stored.ref)) === false;
  }

  #find(files: readonly StoredCheckpoint[], { name, hash }: Named): StoredCheckpoint | undefined {
    const isCalled = (one: StoredCheckpoint) => stem(one.name).toLowerCase() === name.toLowerCase();
    return (
      files.find(({ ref }) => hash !== null && isHashOf(hash, this.hashesOf(ref)) === true) ??
      (name === '' ? undefined : files.find(isCalled))
    );
  }
}

/** Tools name files in folders, with endings; we name folders. */
export function stem(name: string): string {
  return name.replace(/^.*[\\/]/, '').replace(/\.(safetensors|ckpt|pt|bin|gguf)$/i, '');
}
