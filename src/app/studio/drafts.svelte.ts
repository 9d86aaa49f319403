import * as v from 'valibot';
import { Persisted } from '../parts/persisted.svelte.ts';

/** Older ones go: what was made of them is recorded. */
const MOST_RUNS = 20;

const keptSchema = v.object({
  runs: v.fallback(v.record(v.string(), v.record(v.string(), v.string())), {}),
});

/** What a person wrote in place of what steps gave, by run and step; kept over reloads. */
export class Drafts {
  readonly #kept = new Persisted('darkroom.drafts', keptSchema);

  of(run: string): Readonly<Partial<Record<string, string>>> {
    return this.#kept.current.runs[run] ?? {};
  }

  keep(run: string, step: string, text: string): void {
    const { [run]: before, ...others } = this.#kept.current.runs;
    const kept = Object.entries(others).slice(-MOST_RUNS);
    this.#kept.current.runs = { ...Object.fromEntries(kept), [run]: { ...before, [step]: text } };
    this.#kept.keep();
  }

  forget(run: string, step: string): void {
    delete this.#kept.current.runs[run]?.[step];
    this.#kept.keep();
  }
}
