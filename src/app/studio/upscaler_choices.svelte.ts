/** Upscalers that may enlarge a picture between two passes: the one that comes with the page, and those of the library. */
import { BUILTIN_UPSCALER, UPSCALER } from '../../core/builtin_checkpoints.ts';
import { refName, REF } from '../../core/further_checkpoints.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { t } from '../messages/messages.svelte.ts';
import type { Choice } from './sampling.ts';

/** No upscaler is larger, and hardly anything that paints smaller. */
const MOST_BYTES = 2 ** 28;

export class UpscalerChoices {
  readonly #client: JobClient;
  readonly #library: Library;
  /** By the refs of what was looked at, whether it is one. */
  #known = $state.raw<Readonly<Record<string, boolean>>>({});

  constructor(client: JobClient, library: Library) {
    this.#client = client;
    this.#library = library;
  }

  /** Finds out which of what is stored enlarges, reading headers alone. */
  async look(): Promise<void> {
    for (const { ref, bytes, state } of this.#library.checkpoints) {
      if (state === 'complete' && bytes < MOST_BYTES && !(ref in this.#known)) {
        // What cannot be opened says so where somebody opens it.
        const summary = await this.#client.summaryOf(ref).catch(() => null);
        this.#known = { ...this.#known, [ref]: summary?.scale !== undefined };
      }
    }
  }

  /** @param chosen the ref in the form, which is listed whether or not it is here; or something else */
  list(chosen: string): Choice[] {
    const stored = this.#library.checkpoints.filter(({ ref }) => this.#known[ref] === true);
    const here = [
      { id: UPSCALER, label: BUILTIN_UPSCALER.name },
      ...stored.map(({ ref, name }) => ({ id: ref, label: name })),
    ];
    return REF.test(chosen) && !here.some(({ id }) => id === chosen)
      ? [...here, { id: chosen, label: t('{name} (not stored here)', { name: refName(chosen) }) }]
      : here;
  }
}
