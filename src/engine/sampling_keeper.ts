/** Saves the state from which a sampling resumes after its device was lost. */
import { StudioError } from '../core/errors.ts';
import type { SampleRequest } from '../core/model.ts';
import { NOT_FINITE } from './arithmetic.ts';
import type { SamplingLoop } from './sampling_loop.ts';

/** Milliseconds between saved states; faster steps are not worth a copy each. */
export const KEPT_EVERY = 500;

/**
 * Saves the state of a sampling, so that it resumes after a lost device. The loop never waits: a copy starts after a finished step and
 * arrives some steps later, one at a time.
 */
export class SamplingKeeper {
  #last = -Infinity;
  #isFinite = true;

  constructor(
    readonly loop: SamplingLoop,
    readonly request: Pick<SampleRequest, 'keep' | 'random'>,
  ) {}

  /** @throws StudioError `result_invalid` if an earlier state turned out to contain NaN or infinity, which cannot become a picture */
  afterStep(): void {
    if (!this.#isFinite) {
      throw new StudioError('result_invalid', NOT_FINITE);
    }
    const now = performance.now();
    if (now - this.#last >= KEPT_EVERY && this.#keep()) {
      this.#last = now;
    }
  }

  /** The finished latents are always saved, replacing a copy under way. */
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
