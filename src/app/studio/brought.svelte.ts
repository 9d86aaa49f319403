import type { Reading } from '../../formats/reading.ts';
import type * as SamplerLabels from '../../formats/sampler_labels.ts';
import type { Choice } from './sampling.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import type { Outcome, outcomeOf } from './brought_outcome.ts';
import type { Form } from './form.svelte.ts';
import type { Loras } from './loras.svelte.ts';
import type { MissingModel, RecipeModels } from './recipe_models.svelte.ts';

/** The settings that a picture brought along, and what became of them. */
export class Brought {
  reading = $state.raw<Reading | null>(null);
  /** Why there are no settings, as a sentence. */
  absence = $state<string | null>(null);
  /** Beside the checkpoint, once they were used. */
  #lost = $state.raw<string[] | null>(null);
  /** Whether they went into the form of their own config, which has a place for all that was said. */
  #isWhole = $state(false);
  #looking: Blob | null = null;
  /** What can be chosen here, and what people call it; fetched with the first look. */
  #known: { samplers: Choice[]; schedules: Choice[]; noisy: readonly string[] } = {
    samplers: [],
    schedules: [],
    noisy: [],
  };
  /** Says what became of them. */
  #tell: typeof outcomeOf | null = null;
  #labels: Pick<typeof SamplerLabels, 'samplerLabel' | 'scheduleLabel'> | null = null;
  /** Finds what is named in it; null before the first look. */
  models = $state.raw<RecipeModels | null>(null);
  /** LoRAs that are not here, once the settings were used. */
  #missing = $state.raw<MissingModel[]>([]);
  readonly #library: Library;
  readonly #client: JobClient;

  constructor(library: Library, client: JobClient) {
    this.#library = library;
    this.#client = client;
  }

  /** Looks for settings in a picture; the last one asked for counts. */
  async look(picture: Blob): Promise<void> {
    this.forget();
    this.#looking = picture;
    let reading: Reading | null = null;
    let absence: string | null = null;
    try {
      const [{ hasSettings, readPicture }, known, labels, telling, { RecipeModels }] = await Promise.all([
        import('../../formats/recognition.ts'),
        import('./sampling.ts'),
        import('../../formats/sampler_labels.ts'),
        import('./brought_outcome.ts'),
        import('./recipe_models.svelte.ts'),
      ]);
      this.#tell = telling.outcomeOf;
      this.#known = known;
      this.#labels = labels;
      this.models ??= new RecipeModels(this.#library, this.#client);
      reading = await readPicture(picture);
      if (!reading) {
        absence = (await hasSettings(picture))
          ? 'It has settings, but in a form that Darkroom cannot read.'
          : 'No settings were found in it.';
      }
    } catch {
      // The picture itself is there to start from.
      absence = 'The settings in it are damaged and cannot be read.';
    }
    if (this.#looking === picture) {
      if (reading) {
        // In the background: gigabytes may have to be read, and until then names tell.
        void this.models?.learn(reading);
      }
      this.reading = reading;
      this.absence = absence;
    }
  }

  /** Puts them into the form. */
  use(form: Form, loras: Loras): void {
    const { reading } = this;
    if (!reading || !this.models) {
      return;
    }
    const { lost, missing } = this.models.takeLoras(reading.loras, form);
    this.#missing = missing;
    const { samplers, schedules } = this.#known;
    const { prompt = '', sampler, schedule, ...parameters } = reading.parameters;
    form.restore(
      {
        ...parameters,
        ...(reading.prompt_syntax && { prompt_syntax: reading.prompt_syntax }),
        // Words that could not be read are not those that happened to stand there.
        prompt,
        ...(has(samplers, sampler) ? { sampler } : {}),
        ...(has(schedules, schedule) ? { schedule } : {}),
      },
      reading.tool === 'Darkroom',
    );
    this.#lost = [
      sampler !== undefined && !has(samplers, sampler)
        ? `the sampler ${this.#labels?.samplerLabel(sampler) ?? sampler}`
        : null,
      schedule !== undefined && !has(schedules, schedule)
        ? `the schedule ${this.#labels?.scheduleLabel(schedule) ?? schedule}`
        : null,
      ...lost,
      ...reading.notRestored.filter((what) => !loras.hasEmbedding(what)),
    ].filter((what) => what !== null);
  }

  /** They are in the form of their own config, except for these. */
  taken(lost: string[]): void {
    this.#lost = lost;
    this.#isWhole = true;
  }

  /**
   * @param checkpoint the one that is open, or null
   * @returns null before they were used
   */
  outcome(checkpoint: { ref: string; name: string } | null): Outcome | null {
    const { reading } = this;
    const [lost, isWhole] = [this.#lost, this.#isWhole];
    const { noisy } = this.#known;
    const open = checkpoint && { name: checkpoint.name, hashes: this.models?.hashesOf(checkpoint.ref) ?? {} };
    return reading && lost && this.#tell
      ? this.#tell({ reading, lost, isWhole, noisy, missing: this.#missing }, open)
      : null;
  }

  forget(): void {
    this.#looking = null;
    this.reading = null;
    this.absence = null;
    this.#lost = null;
    this.#isWhole = false;
    this.#missing = [];
  }
}

function has(choices: Choice[], id: string | undefined): boolean {
  return choices.some((choice) => choice.id === id);
}
