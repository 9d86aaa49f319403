import type { Reading } from '../formats/reading.ts';
import { readable, samplers, schedules, type Choice } from './catalogue.ts';
import type { Form } from './form.svelte.ts';
import type { Loras } from './loras.svelte.ts';

/** The settings that a picture brought along, and what became of them. */
export class Brought {
  reading = $state.raw<Reading | null>(null);
  /** One sentence, once they were used. */
  outcome = $state<string | null>(null);
  #looking: Blob | null = null;

  /** Looks for settings in a picture; the last one asked for counts. */
  async look(picture: Blob): Promise<void> {
    this.forget();
    this.#looking = picture;
    let reading: Reading | null = null;
    try {
      const { readPicture } = await import('../formats/recognition.ts');
      reading = await readPicture(picture);
    } catch {
      // Settings that cannot be read are none; the picture itself is there to start from.
    }
    if (this.#looking === picture) {
      this.reading = reading;
    }
  }

  /**
   * Puts them into the form.
   * @param checkpoint the name of the one that is open, or null
   */
  use(form: Form, checkpoint: string | null, loras: Loras): void {
    const { reading } = this;
    if (!reading) {
      return;
    }
    const { sampler, schedule, ...parameters } = reading.parameters;
    const missing = [
      unknown(samplers, sampler, 'the sampler'),
      unknown(schedules, schedule, 'the schedule'),
      reading.checkpoint.name !== null && stem(reading.checkpoint.name) !== stem(checkpoint ?? '')
        ? `the checkpoint ${reading.checkpoint.name}`
        : null,
    ].filter((what) => what !== null);
    form.restore({
      ...parameters,
      ...(has(samplers, sampler) ? { sampler } : {}),
      ...(has(schedules, schedule) ? { schedule } : {}),
    });
    const lost = [...missing, ...loras.take(reading.loras), ...reading.notRestored];
    this.outcome =
      lost.length === 0
        ? 'Its settings are in the form now.'
        : `Its settings are in the form now, except for ${new Intl.ListFormat('en').format(lost)}.`;
  }

  forget(): void {
    this.#looking = null;
    this.reading = null;
    this.outcome = null;
  }
}

function has(choices: Choice[], id: string | undefined): boolean {
  return choices.some((choice) => choice.id === id);
}

function unknown(choices: Choice[], id: string | undefined, what: string): string | null {
  return id === undefined || has(choices, id) ? null : `${what} ${readable(id)}`;
}

/** Tools name files in folders, with endings; we name folders. */
function stem(name: string): string {
  return name
    .replace(/^.*[\\/]/, '')
    .replace(/\.(safetensors|ckpt|pt|bin)$/i, '')
    .toLowerCase();
}
