/** Runs the steps of Stable Audio's samplings: from noise, or from where an earlier attempt stopped. */
import type { Latents } from '../../core/model.ts';
import type { SoundSampleRequest } from '../../core/sound_model.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { runSampling } from '../../engine/sampling_run.ts';
import type { SamplerPlan } from '../../samplers/sampler.ts';
import { readState } from '../../samplers/state.ts';
import type { FlowDenoiser } from '../flow_transformer/flow_networks.ts';
import { OneByOne } from '../flow_transformer/one_by_one.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import type { SoundConditions, SoundTexts } from './sound_texts.ts';

export interface SoundSampling {
  engine: Engine;
  plan: SamplerPlan;
  request: SoundSampleRequest;
  dims: readonly [batch: number, channels: number, height: 1, length: number];
  texts: SoundTexts;
  /** The latents before the first step. */
  begin(): Promise<DeviceTensor>;
  /** Of one sound at a time, with a prediction for each of these, which outlive it. */
  denoiser(conditions: readonly SoundConditions[]): Promise<FlowDenoiser>;
}

export async function sampleSounds(sampling: SoundSampling): Promise<Latents> {
  const { engine, plan, request, dims, texts } = sampling;
  const { arithmetic } = engine;
  const { prompt, away } = texts;
  const state = readState(request.resume, plan, elements(dims));
  if (state?.done === plan.steps.length) {
    // Only the sound was missing: the transformer need not be brought to the device for it.
    request.random.state = state.random;
    return new DeviceLatents(arithmetic.upload(state.x, dims), engine);
  }
  const snapshots = arithmetic.snapshots();
  let x: DeviceTensor | undefined;
  try {
    x = await sampling.begin();
    const conditions = [...(away ? [away] : []), prompt];
    const single = await sampling.denoiser(conditions);
    const denoiser = new OneByOne(engine, single, dims, conditions.length);
    try {
      await runSampling({
        engine,
        plan,
        x,
        copies: 1,
        blend: null,
        snapshots,
        request,
        state,
        colours: null,
        predict: async (input, timestep) => {
          const predictions = await denoiser.predict(input, timestep);
          const [uncond, cond] = away ? predictions : [null, predictions[0]];
          return { uncond, cond, condOffset: 0, guidance: request.guidance_scale };
        },
      });
    } finally {
      denoiser.dispose();
      single.dispose();
    }
    return new DeviceLatents(x, engine, snapshots);
  } catch (error) {
    snapshots.dispose();
    x?.dispose();
    throw error;
  }
}
