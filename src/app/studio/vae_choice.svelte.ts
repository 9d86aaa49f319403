/** The autoencoder of the form that takes the place of the checkpoint's own. */
import type { CheckpointSummary } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { said } from '../messages/messages.svelte.ts';
import { AdditionChoices } from './addition_uses.svelte.ts';

export class VaeChoice extends AdditionChoices {
  /** A ref of the library; empty = the checkpoint's own. */
  ref = $state('');
  /** What is wrong, once it is time to speak of it. */
  problem = $state<string | null>(null);

  constructor(client: JobClient, library: Library) {
    super('vae', client, library);
  }

  protected get chosen(): string[] {
    return [this.ref];
  }

  isTaken({ takesVae }: CheckpointSummary): boolean {
    return takesVae === true;
  }

  takeStored(ref: string): void {
    this.ref = ref;
    this.problem = null;
  }

  isValid(): boolean {
    const problem = this.choices.find(({ ref }) => ref === this.ref)?.problem ?? null;
    this.problem = problem === null ? null : said(problem);
    return problem === null;
  }

  parameters(): Record<string, unknown> {
    return this.ref === '' ? {} : { vae: this.ref };
  }

  restore({ vae }: Record<string, unknown>): Promise<void> {
    this.takeStored(typeof vae === 'string' ? this.refOf(vae) : '');
    return Promise.resolve();
  }
}
