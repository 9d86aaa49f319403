/** What a sampling is taken up from after its device was lost. */
import { StudioError } from '../core/errors.ts';
import type { SampleRequest } from '../core/model.ts';
import { NOT_FINITE } from './arithmetic.ts';
import type { SamplingLoop } from './sampling_loop.ts';

/** Milliseconds between two states that are kept; steps that are faster than this are not worth a copy each. */
const KEPT_EVERY = 500;

/**
 * Keeps where a sampling stands, so that after a lost device it goes on from there. The loop never waits for it: a copy is begun behind a
 * finished step and arrives some steps later; while one is on its way no other is begun.
 */
export class SamplingKeeper {
  #last = -Infinity;
  #isFinite = true;

  constructor(
    readonly loop: SamplingLoop,
    readonly request: Pick<SampleRequest, 'keep' | 'random'>,
  ) {}

  /** @throws StudioError `result_invalid` when an earlier state turned out to hold NaN or infinity, of which no picture can come */
  afterStep(): void {
    if (!this.#isFinite) {
      throw new StudioError('result_invalid', NOT_FINITE);
    }
    const now = performance.now();
    if (now - this.#last >= KEPT_EVERY && this.#keep()) {
      this.#last = now;
    }
  }

  /** The finished latents are always kept, in place of what is on its way. */
  afterLast(): void {
    this.loop.snapshots.dispose();
    this.#keep();
  }

  #keep(): boolean {
    return this.loop.keep(this.request.random.state, (state) => {
      this.#isFinite = state.x.every(Number.isFinite);
      if (this.#isFinite) {
        this.request.keep(state);
      }
    });
  }
}
