/**
 * The second pass of a video: another network doubles the sides of the latents that the first one left, and they are sampled again from there.
 * `upsampling_parameters.ts` has its parameters.
 * Reference: diffusers/pipelines/ltx/pipeline_ltx_latent_upsample.py, and the second call of pipeline_ltx_condition.py behind it
 */
import { keptPass, type KeptPass } from './kept_pass.ts';
import { likeBefore, scaled, toneMapped, unscaled } from './latent_upsampling.ts';
import type { CpuTensor } from './media.ts';
import type { LatentUpsampler, Latents, Model, SampleRequest } from './model.ts';
import { UPSAMPLING, stepsAgain, type Upsampling } from './upsampling_parameters.ts';

/**
 * @param request of the first pass
 * @param random of the second, from the same seed anew, as the reference's second call draws
 * @param frames of the latents
 * @param sample runs a pass
 * @returns the latents of the larger video
 */
export async function sampleTwice(
  model: Model,
  request: SampleRequest,
  input: Upsampling,
  random: SampleRequest['random'],
  frames: number,
  sample: (request: SampleRequest) => Promise<Latents>,
  load: () => Promise<LatentUpsampler>,
): Promise<Latents> {
  const { upsampled_strength: strength = UPSAMPLING.strength, upsampled_timesteps: timesteps } = input;
  const [width, height] = [UPSAMPLING.factor * request.width, UPSAMPLING.factor * request.height];
  const steps = stepsAgain(input);
  const after = Math.floor(steps * strength);
  let before = request.steps;
  const isIts = ([batch, , rows, columns]: readonly number[]) =>
    batch === 1 && width * (rows / frames) === height * columns;
  let kept: KeptPass | null = keptPass(request.resume, isIts);
  if (!kept) {
    const first = await sample({
      ...request,
      onStart: (all, done) => {
        before = all;
        request.onStart(all + after, done);
      },
      onStep: (report) => request.onStep({ ...report, steps: report.steps + after }),
    });
    try {
      const latents = { dims: [...first.dims], data: await first.read() };
      kept = { enlarged: await enlarge(model, latents, frames, input, await load(), request.signal), state: null };
    } finally {
      first.dispose();
    }
  }
  const { enlarged, state } = kept;
  const start = model.latentsFrom?.(enlarged);
  if (start === undefined || after === 0) {
    return start as Latents;
  }
  try {
    return await sample({
      ...request,
      width,
      height,
      steps,
      timesteps,
      strength,
      start,
      random,
      resume: state,
      keep: (own) => {
        request.keep({ enlarged, state: own } satisfies KeptPass);
      },
      onStart: (all, done) => {
        request.onStart(before + all, before + done);
      },
      onStep: (report) => request.onStep({ ...report, step: before + report.step, steps: before + report.steps }),
    });
  } finally {
    start.dispose();
  }
}

async function enlarge(
  model: Model,
  latents: CpuTensor,
  frames: number,
  { adain_factor: share = 0, tone_map_compression_ratio: ratio = 0 }: Upsampling,
  upsampler: LatentUpsampler,
  signal: AbortSignal,
): Promise<CpuTensor> {
  const scales = await model.latentScales?.();
  if (!scales) {
    throw new Error('Assertion failed: the latents of a checkpoint that is enlarged have scales');
  }
  const before = { dims: latents.dims, data: unscaled(latents.data, scales) };
  const { dims, data } = await upsampler.upsample(before, frames, signal);
  const alike = share > 0 ? likeBefore(data, before.data, dims[1], share) : data;
  return { dims, data: scaled(ratio > 0 ? toneMapped(alike, ratio) : alike, scales) };
}
