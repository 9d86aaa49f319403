/** Checkpoints of the library that may enlarge between two passes, and the upscaler that comes with the page. */
import { BUILTIN_UPSCALER, UPSCALER } from '../../core/builtin_checkpoints.ts';
import { refName, REF } from '../../core/further_checkpoints.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { t } from '../messages/messages.svelte.ts';
import type { Choice } from './sampling.ts';

/** What may enlarge between two passes. */
interface Kind {
  is(summary: CheckpointSummary): boolean;
  /** None is larger, and hardly anything that paints smaller. */
  mostBytes: number;
  /** Those that need not be stored. */
  shipped: readonly Choice[];
}

export const UPSCALERS: Kind = {
  is: ({ scale }) => scale !== undefined,
  mostBytes: 2 ** 28,
  shipped: [{ id: UPSCALER, label: BUILTIN_UPSCALER.name }],
};

export const LATENT_UPSAMPLERS: Kind = {
  is: ({ pipelineClass }) => pipelineClass === 'LTXLatentUpsamplePipeline',
  mostBytes: 2 ** 32,
  shipped: [],
};

export class EnlargingChoices {
  readonly #kind: Kind;
  readonly #client: JobClient;
  readonly #library: Library;
  /** By the refs of what was looked at, whether it is one. */
  #known = $state.raw<Readonly<Record<string, boolean>>>({});

  constructor(client: JobClient, library: Library, kind: Kind) {
    this.#kind = kind;
    this.#client = client;
    this.#library = library;
  }

  /** Finds out which of what is stored is of the kind, reading headers alone. */
  async look(): Promise<void> {
    for (const { ref, bytes, state } of this.#library.checkpoints) {
      if (state === 'complete' && bytes < this.#kind.mostBytes && !(ref in this.#known)) {
        // What cannot be opened says so where somebody opens it.
        const summary = await this.#client.summaryOf(ref).catch(() => null);
        this.#known = { ...this.#known, [ref]: summary !== null && this.#kind.is(summary) };
      }
    }
  }

  /** @param chosen the ref in the form, which is listed whether or not it is here; or something else */
  list(chosen: string): Choice[] {
    const stored = this.#library.checkpoints.filter(({ ref }) => this.#known[ref] === true);
    const here = [...this.#kind.shipped, ...stored.map(({ ref, name }) => ({ id: ref, label: name }))];
    return REF.test(chosen) && !here.some(({ id }) => id === chosen)
      ? [...here, { id: chosen, label: t('{name} (not stored here)', { name: refName(chosen) }) }]
      : here;
  }
}
