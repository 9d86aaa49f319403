import * as v from 'valibot';
import { loraName, type LoraUse } from '../../core/loras.ts';
import type { CheckpointSummary } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { LoraFit } from '../../../workers/generation_api.ts';
import type { Form } from './form.svelte.ts';
import type { Library } from '../library/library.svelte.ts';

/** One LoRA as the form lists it. */
export interface LoraChoice {
  ref: string;
  name: string;
  isOn: boolean;
  /** Why it is not used even if it is on, as a sentence; null when it can be. */
  problem: string | null;
  /** What of it is not used, as a sentence; null when all of it is. */
  note: string | null;
}

const share = v.fallback(v.optional(v.number()), undefined);
const usesSchema = v.fallback(
  v.array(
    v.object({
      lora: v.string(),
      weight: v.fallback(v.number(), 1),
      text_weight: share,
      blocks: v.fallback(v.optional(v.array(v.number())), undefined),
      start: share,
      end: share,
    }),
  ),
  [],
);

/** The LoRAs that are stored here, beside the checkpoint that is open. */
export class Loras {
  readonly #client: JobClient;
  readonly #library: Library;
  readonly #form: Form;
  /** What was found out for {@link #checked}. */
  #fits = $state.raw<LoraFit[]>([]);
  /** Checkpoint and stored LoRAs that were asked about last. */
  #checked = '';

  constructor(client: JobClient, library: Library, form: Form) {
    this.#client = client;
    this.#library = library;
    this.#form = form;
  }

  /** All that are here, then those that are on and no longer here. */
  readonly choices = $derived.by((): LoraChoice[] => {
    const chosen = this.#form.options.loras;
    const stored = this.#library.loras.filter(({ state }) => state === 'complete');
    const listed = stored.map(({ ref, name }) => {
      const { problem = null, note = null } = this.#fits.find((fit) => fit.ref === ref) ?? {};
      return { ref, name, isOn: chosen.some(({ lora }) => lora === ref), problem, note };
    });
    const gone = chosen.filter(({ lora }) => !stored.some(({ ref }) => ref === lora));
    return [
      ...listed.sort((a, b) => a.name.localeCompare(b.name)),
      ...gone.map(({ lora, name }) => ({
        ref: lora,
        name,
        isOn: true,
        problem: `The LoRA ${name} is not stored here any more; add it again, or switch it off.`,
        note: null,
      })),
    ];
  });

  /** Those that the next picture is made with. */
  readonly used = $derived(this.choices.filter(({ isOn, problem }) => isOn && problem === null));

  /** As an operation has them. */
  get uses(): LoraUse[] {
    return this.used.map(({ ref }) => this.#form.loras.use(ref, !this.#form.isFlow));
  }

  /** Finds out which fit the checkpoint that is open, unless that is known. */
  async check(checkpoint: CheckpointSummary | null): Promise<void> {
    const refs = this.#library.loras.filter(({ state }) => state === 'complete').map(({ ref }) => ref);
    const asked = JSON.stringify([checkpoint?.ref, checkpoint?.bytes, ...refs]);
    if (asked === this.#checked) {
      return;
    }
    this.#checked = asked;
    const isNeeded = checkpoint?.takesLoras === true && refs.length > 0;
    // Where this fails, a job says it.
    const fits = isNeeded ? await this.#client.checkLoras(checkpoint.ref).catch(() => []) : [];
    if (this.#checked === asked) {
      this.#fits = fits;
    }
  }

  /** Stores a file from the disk and switches it on. @throws StudioError */
  async add(file: File): Promise<void> {
    const stored = await this.#library.importAddition(file);
    if (stored) {
      this.#form.loras.choose(stored.ref, stored.name, true);
    }
  }

  /** Takes over what an operation had, and nothing else; what is not here stays listed as such. */
  restore(parameter: unknown): void {
    this.#form.options.loras = [];
    for (const { lora, ...use } of v.parse(usesSchema, parameter)) {
      const stored = this.#library.loras.find(({ ref, name }) => ref === lora || name === loraName(lora));
      const ref = stored?.ref ?? lora;
      this.#form.loras.choose(ref, stored?.name ?? loraName(lora.replace(/^lora:\w+:/, '')), true, use);
    }
  }

  /** Whether what is said to be without effect is an embedding that is stored here, and so has one. */
  hasEmbedding(what: string): boolean {
    const [, name] = /^the effect of (?:the embedding |embeddings such as embedding:)(.+)$/i.exec(what) ?? [];
    return name !== undefined && this.#library.loras.some((lora) => lora.name.toLowerCase() === name.toLowerCase());
  }
}
