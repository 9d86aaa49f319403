/** Runs the remaining steps of one sampling: between them it calls the network, reports, saves state and checks for a cancel. */
import { cancelled } from '../core/errors.ts';
import type { SampleRequest } from '../core/model.ts';
import type { SamplerPlan } from '../samplers/sampler.ts';
import type { SamplingState } from '../samplers/state.ts';
import type { Arithmetic, DeviceTensor, PreviewColours, Snapshots } from './arithmetic.ts';
import type { Engine } from './engine.ts';
import { SamplingKeeper } from './sampling_keeper.ts';
import { SamplingLoop, type Prediction } from './sampling_loop.ts';

export interface SamplingRun {
  engine: Engine;
  plan: SamplerPlan;
  /** The latents before the first step, and in the end those after the last; owned by the caller. */
  x: DeviceTensor;
  /** How many times the network's input repeats them. */
  copies: number;
  /** See {@link SamplingLoop}. */
  blend: DeviceTensor | null;
  /** The mask of that after a number of calls of the network, where it changes; undefined or null = it does not. */
  mask?: ((done: number) => Float32Array<ArrayBuffer>) | null;
  snapshots: Snapshots;
  request: Pick<SampleRequest, 'random' | 'signal' | 'keep' | 'onStart' | 'onStep'>;
  /** Where an earlier attempt stopped; null = start at the beginning. */
  state: SamplingState | null;
  /** For previews, if somebody is watching. */
  colours: PreviewColours | null;
  /** @param call index of this call of the network, from 0 */
  predict(input: DeviceTensor, timestep: number, call: number): Promise<Omit<Prediction, 'noise'>>;
}

/** @throws StudioError `cancelled` between two steps */
export async function runSampling(run: SamplingRun): Promise<void> {
  const { plan, x, request, state, colours } = run;
  const { arithmetic } = run.engine;
  const [batch, channels, height, width] = x.dims;
  const loop = new SamplingLoop(arithmetic, plan, x, run.copies, run.blend, run.snapshots);
  const fresh = plan.steps.some((step) => step.noise) ? arithmetic.empty(x.dims) : null;
  try {
    if (state) {
      loop.restore(state);
      request.random.state = state.random;
    }
    const keeper = new SamplingKeeper(loop, request);
    request.onStart(plan.steps.length, loop.done);
    for (const step of plan.steps.slice(loop.done)) {
      if (request.signal.aborted) {
        throw cancelled();
      }
      const prediction = await run.predict(loop.input, step.timestep, loop.done);
      if (fresh && step.noise) {
        arithmetic.write(
          fresh,
          request.random.ofStep([batch, channels, height, width], { ...step.noise, range: plan.range }),
        );
      }
      if (run.mask && run.blend) {
        writeMask(arithmetic, run.blend, run.mask(loop.done + 1));
      }
      loop.step({ ...prediction, noise: fresh });
      // Without waiting, all steps would be queued at once: no progress to show and nothing left to cancel.
      await arithmetic.settle();
      keeper.afterStep();
      await request.onStep({
        step: loop.done,
        steps: plan.steps.length,
        preview: colours && ((canvas) => arithmetic.preview(loop.denoised, colours, canvas)),
      });
    }
    keeper.afterLast();
  } finally {
    loop.dispose();
    fresh?.dispose();
  }
}

function writeMask(arithmetic: Arithmetic, blend: DeviceTensor, mask: Float32Array<ArrayBuffer>): void {
  const uploaded = arithmetic.upload(mask, [mask.length]);
  arithmetic.copy(uploaded, 0, blend, 2 * mask.length, mask.length);
  uploaded.dispose();
}
