import type { Reading, ReadParameters } from '../../formats/reading.ts';
import { samplerLabel, scheduleLabel } from '../../formats/sampler_labels.ts';
import type { Choice } from './sampling.ts';
import type { Form } from './form.svelte.ts';
import type { Loras } from './loras.svelte.ts';

/** What became of the settings, for the person who asked for them. */
export interface Outcome {
  sentence: string;
  /** What the sentence ends with as a list, where there is too much for one sentence. */
  lost: string[];
  /** The sentence with all of it, to be read out. */
  whole: string;
  /** Further sentences. */
  notes: string[];
}

const allOf = new Intl.ListFormat('en');
const oneOf = new Intl.ListFormat('en', { type: 'disjunction' });

/** More than these in one sentence are hard to follow. */
const MAX_IN_SENTENCE = 3;

/** What a picture made from words has: as a parameter, in a sentence, and as the start of what is said when it was there and is lost. */
const USUAL = [
  ['width', 'size', 'the size'],
  ['steps', 'steps', 'the number of steps'],
  ['guidance_scale', 'guidance', 'the guidance'],
  ['seed', 'seed', 'the seed'],
] as const;

/** The settings that a picture brought along, and what became of them. */
export class Brought {
  reading = $state.raw<Reading | null>(null);
  /** Why there are no settings, as a sentence. */
  absence = $state<string | null>(null);
  /** Beside the checkpoint, once they were used. */
  #lost = $state.raw<string[] | null>(null);
  #looking: Blob | null = null;
  /** What can be chosen here; fetched with the first look. */
  #known: { samplers: Choice[]; schedules: Choice[]; noisy: readonly string[] } = {
    samplers: [],
    schedules: [],
    noisy: [],
  };

  /** Looks for settings in a picture; the last one asked for counts. */
  async look(picture: Blob): Promise<void> {
    this.forget();
    this.#looking = picture;
    let reading: Reading | null = null;
    let absence: string | null = null;
    try {
      const [{ hasSettings, readPicture }, known] = await Promise.all([
        import('../../formats/recognition.ts'),
        import('./sampling.ts'),
      ]);
      this.#known = known;
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
      this.reading = reading;
      this.absence = absence;
    }
  }

  /** Puts them into the form. */
  use(form: Form, loras: Loras): void {
    const { reading } = this;
    if (!reading) {
      return;
    }
    const { samplers, schedules } = this.#known;
    const { prompt = '', sampler, schedule, ...parameters } = reading.parameters;
    form.restore({
      ...parameters,
      // Words that could not be read are not those that happened to stand there.
      prompt,
      ...(has(samplers, sampler) ? { sampler } : {}),
      ...(has(schedules, schedule) ? { schedule } : {}),
    });
    this.#lost = [
      sampler !== undefined && !has(samplers, sampler) ? `the sampler ${samplerLabel(sampler)}` : null,
      schedule !== undefined && !has(schedules, schedule) ? `the schedule ${scheduleLabel(schedule)}` : null,
      ...loras.take(reading.loras),
      ...reading.notRestored,
    ].filter((what) => what !== null);
  }

  /**
   * @param checkpoint the name of the one that is open, or null
   * @returns null before they were used
   */
  outcome(checkpoint: string | null): Outcome | null {
    const { reading } = this;
    if (!reading || !this.#lost) {
      return null;
    }
    const { name, hash } = reading.checkpoint;
    const other =
      name !== null
        ? stem(name).toLowerCase() !== stem(checkpoint ?? '').toLowerCase() && `the checkpoint ${stem(name)}`
        : hash !== null && `the checkpoint, which it names by the hash ${hash.slice(0, 12)} alone`;
    const lost = [...(other ? [other] : []), ...this.#lost];
    const isUsed = Object.keys(reading.parameters).length > 0;
    const isList = lost.length > MAX_IN_SENTENCE;
    const isSilent = (parameter: keyof ReadParameters, said: string) =>
      reading.parameters[parameter] === undefined && !lost.some((what) => what.startsWith(said));
    const isNoisy = this.#known.noisy.includes(reading.parameters.sampler ?? '') && reading.tool !== 'Darkroom';
    const silent = USUAL.filter(([parameter, , said]) => isSilent(parameter, said)).map(([, what]) => what);
    return {
      sentence: isUsed ? usedExcept(lost, isList) : unused(lost, isList),
      lost: isList ? lost : [],
      whole: isUsed ? usedExcept(lost, false) : unused(lost, false),
      notes: [
        ...(reading.parameters.prompt === undefined ? ['The box for the prompt is empty now.'] : []),
        ...(lost.some((what) => isInPrompt(what, reading.parameters))
          ? ['These words stay in the prompt, but what they ask for is not done yet.']
          : []),
        ...(silent.length > 0 ? [`The file does not give the ${oneOf.format(silent)}, so that stays as it was.`] : []),
        ...(isSilent('sampler', 'the sampler') ? ["The file gives no sampler, so the checkpoint's own is used."] : []),
        ...(isNoisy
          ? [
              `This sampler adds noise in each step, and ${reading.tool} draws it differently, so the picture will be another one.`,
            ]
          : []),
        ...(lost.length > 0 && !isNoisy ? ['So a new picture may look different.'] : []),
      ],
    };
  }

  forget(): void {
    this.#looking = null;
    this.reading = null;
    this.absence = null;
    this.#lost = null;
  }
}

/** Whether what is lost is the effect of words that are in the form; embeddings may be listed and stand in no prompt. */
function isInPrompt(what: string, { prompt = '', negative_prompt: negative = '' }: ReadParameters): boolean {
  const [, embedding] = /^the effect of the embedding (.+)$/.exec(what) ?? [];
  return embedding === undefined
    ? what.startsWith('the effect of')
    : `${prompt}\n${negative}`.toLowerCase().includes(embedding.toLowerCase());
}

function usedExcept(lost: string[], isList: boolean): string {
  if (lost.length === 0) {
    return 'Its settings are in the form now.';
  }
  return isList
    ? 'Its settings are in the form now, except for:'
    : `Its settings are in the form now, except for ${allOf.format(lost)}.`;
}

function unused(lost: string[], isList: boolean): string {
  if (lost.length === 0) {
    return 'None of its settings could be used.';
  }
  return isList
    ? 'None of its settings could be used, such as:'
    : `None of its settings could be used, such as ${allOf.format(lost)}.`;
}

function has(choices: Choice[], id: string | undefined): boolean {
  return choices.some((choice) => choice.id === id);
}

/** Tools name files in folders, with endings; we name folders. */
function stem(name: string): string {
  return name.replace(/^.*[\\/]/, '').replace(/\.(safetensors|ckpt|pt|bin|gguf)$/i, '');
}
