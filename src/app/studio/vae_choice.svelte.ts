/** The autoencoder of the form that takes the place of the checkpoint's own, or shows the picture before that one has decoded it. */
import type { CheckpointSummary } from '../../core/model.ts';
import type { JobClient } from '../../jobs/client.ts';
import type { Library } from '../library/library.svelte.ts';
import { said } from '../messages/messages.svelte.ts';
import { AdditionChoices } from './addition_uses.svelte.ts';

export class VaeChoice extends AdditionChoices {
  /** A ref of the library; empty = the checkpoint's own. */
  ref = $state('');
  /** Whether it only shows the picture first. */
  isFirst = $state(false);
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
    return this.ref === '' ? {} : { [this.isFirst ? 'first_vae' : 'vae']: this.ref };
  }

  restore({ vae, first_vae: first }: Record<string, unknown>): Promise<void> {
    const named = vae ?? first;
    this.takeStored(typeof named === 'string' ? this.refOf(named) : '');
    this.isFirst = typeof vae !== 'string' && typeof first === 'string';
    return Promise.resolve();
  }
}
