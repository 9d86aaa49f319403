import { StudioError } from '../../core/errors.ts';
import type { Operation } from '../../core/operation.ts';
import type { JobClient } from '../../jobs/client.ts';
import { recogniseFile } from '../../media/registry.ts';
import type { LostRun } from '../../recorder/recorder_api.ts';
import type { Told } from '../parts/told.svelte.ts';
import type { Run } from '../recordings/runs.ts';
import { Brought } from './brought.svelte.ts';
import { rewritesWords } from './catalogue.ts';
import type { Form } from './form.svelte.ts';
import type { Guides } from './guides.svelte.ts';
import type { Library } from '../library/library.svelte.ts';
import type { Loras } from './loras.svelte.ts';
import type { Making } from './making.svelte.ts';
import type { Opened } from './opened.svelte.ts';
import type { StartPicture } from './picture.svelte.ts';
import type { Rewriting } from './rewriting.svelte.ts';

/** What the settings that come back are put into. */
export interface Forms {
  readonly form: Form;
  readonly picture: StartPicture;
  readonly loras: Loras;
  readonly making: Making;
  readonly opened: Opened;
  readonly library: Library;
  readonly rewriting: Rewriting | null;
  openRewriting(): Promise<void>;
  readonly guides: Guides | null;
  openGuides(): Promise<Guides>;
}

/** Settings that come back: those of a run, of one that the browser lost, and those that a given file says it was made with. */
export class Restoring {
  readonly brought: Brought;
  /** The name of the video or sound that {@link brought} is about; null where it is about the starting picture. */
  recordingOfSettings = $state<string | null>(null);

  readonly #forms: Forms;
  readonly #client: JobClient;
  readonly #told: Told;

  constructor(forms: Forms, client: JobClient, told: Told) {
    this.#forms = forms;
    this.brought = new Brought(forms.library, client);
    this.#client = client;
    this.#told = told;
  }

  /** A video or a sound is no picture to start from, but may say how it was made. */
  async putPicture(blob: Blob, name: string): Promise<void> {
    const medium = (await recogniseFile(blob))?.medium;
    let refusal: StudioError | null = null;
    if (!medium?.readMetadata || medium.id === 'image') {
      try {
        await this.#forms.picture.put(blob, name);
        this.#told.announce(`Starting from ${name}.`);
      } catch (error) {
        refusal = StudioError.from(error);
      }
    } else {
      refusal = new StudioError(
        'media_unreadable',
        `${name} is no picture to start from and does not say how it was made; drop it on the recordings to keep it.`,
      );
    }
    this.recordingOfSettings = null;
    await this.brought.look(blob);
    if (refusal && this.brought.reading) {
      this.recordingOfSettings = name;
      this.#told.announce(`${name} says how it was made.`);
    } else if (refusal) {
      this.#told.tell(refusal.message);
      await this.#lookAgain();
    }
  }

  /** At the picture that stays, after a file that was none. */
  async #lookAgain(): Promise<void> {
    const { loaded } = this.#forms.picture;
    if (loaded) {
      await this.brought.look(loaded.blob);
    } else {
      this.brought.forget();
    }
  }

  /** Takes over the settings that the given file brought along. */
  async useBrought(): Promise<void> {
    await this.#told.report(async () => {
      const { useBrought } = await import('./brought_use.ts');
      this.#told.announce(await useBrought(this.#forms, this.brought, this.recordingOfSettings !== null));
    });
  }

  /** Brings back the settings of an earlier run, and the picture that it started from; a mask is painted anew. */
  async restore(run: Run): Promise<void> {
    const { making, opened, form, loras, picture } = this.#forms;
    if (run.operation && (await making.chooseConfig(run.operation.config))) {
      await this.#restoreConfig(run);
      return;
    }
    if (run.operation) {
      await this.#restoreRewriting(run.operation);
    }
    const { image } = run.parameters;
    // Its own checkpoint chooses the same by itself, and knows more of it than the names say; any other may choose something else.
    const isOther = run.checkpoint !== opened.checkpoint?.name;
    form.restore({ ...(isOther ? { sampler: run.sampler, schedule: run.schedule } : {}), ...run.parameters });
    loras.restore(run.parameters.loras);
    picture.remove();
    await this.#told.report(async () => {
      const { controlnets, ip_adapters: adapters, vae, first_vae: first, tiled_scale: tiled } = run.parameters;
      const guides =
        controlnets || adapters || vae || first || tiled ? await this.#forms.openGuides() : this.#forms.guides;
      await guides?.restore(run.parameters, (file) => this.#client.entity(run.id, file));
      if (image instanceof Blob) {
        await picture.put(image, 'Starting picture');
      } else if (typeof image === 'string') {
        await picture.put(await this.#client.entity(run.id, image), image);
      }
      if (run.operation?.operation === 'image_outpaint' && picture.loaded) {
        form.width.text = String(picture.loaded.width);
        form.height.text = String(picture.loaded.height);
      }
      this.#told.announce('These settings are in the form now.');
    });
  }

  async #restoreRewriting(operation: Operation): Promise<void> {
    if (this.#forms.rewriting || rewritesWords(operation.config)) {
      await this.#forms.openRewriting();
      this.#forms.rewriting?.restore(operation);
    }
  }

  async #restoreConfig({ id, operation }: Run): Promise<void> {
    await this.#told.report(async () => {
      await this.#forms.making.form?.restore(operation?.parameters ?? {}, (file) => this.#client.entity(id, file));
      this.#told.announce('These settings are in the form now.');
    });
  }

  /** Brings back the settings of a run that the browser has lost, without the picture that it started from. */
  restoreLost({ operation }: LostRun): void {
    if (operation) {
      this.#forms.form.restore(operation.parameters);
      this.#forms.loras.restore(operation.parameters.loras);
      this.#told.announce('These settings are in the form now; give it the picture to start from.');
    }
  }
}
