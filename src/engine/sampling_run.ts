/** The steps of one sampling, from the first that is left to the last: what is asked of the network, told, kept and cancelled between them. */
import { cancelled } from '../core/errors.ts';
import type { SampleRequest } from '../core/model.ts';
import type { SamplerPlan } from '../samplers/sampler.ts';
import type { SamplingState } from '../samplers/state.ts';
import { elements, type DeviceTensor, type PreviewColours, type Snapshots } from './arithmetic.ts';
import type { Engine } from './engine.ts';
import { SamplingKeeper } from './sampling_keeper.ts';
import { SamplingLoop, type Prediction } from './sampling_loop.ts';

export interface SamplingRun {
  engine: Engine;
  plan: SamplerPlan;
  /** The latents before the first step, and those of the last one in the end; stays the caller's. */
  x: DeviceTensor;
  /** How often the network's input repeats them. */
  copies: number;
  /** As of {@link SamplingLoop}. */
  blend: DeviceTensor | null;
  snapshots: Snapshots;
  request: Pick<SampleRequest, 'random' | 'signal' | 'keep' | 'onStart' | 'onStep'>;
  /** Where an earlier attempt stopped; null = at the beginning. */
  state: SamplingState | null;
  /** For previews, where somebody watches. */
  colours: PreviewColours | null;
  predict(input: DeviceTensor, timestep: number): Promise<Omit<Prediction, 'noise'>>;
}

/** @throws StudioError `cancelled` between two steps */
export async function runSampling(run: SamplingRun): Promise<void> {
  const { plan, x, request, state, colours } = run;
  const { arithmetic } = run.engine;
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
      const prediction = await run.predict(loop.input, step.timestep);
      if (fresh && step.noise) {
        arithmetic.write(fresh, request.random.randn(elements(x.dims)));
      }
      loop.step({ ...prediction, noise: fresh });
      // Without waiting, every step would be queued at once: no progress to see and nothing left to cancel.
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
