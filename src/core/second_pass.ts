/** The second pass of hires fix: enlarges what the first one painted, and paints from there. `hires.ts` has its parameters. */
import { upscaled } from './enlarging.ts';
import { StudioError } from './errors.ts';
import { REF } from './further_checkpoints.ts';
import { keptPass, type KeptPass } from './kept_pass.ts';
import { USUAL_HIRES, hiresSide, type HiresRequest } from './hires.ts';
import { LATENT_UPSCALERS, resizeLatents } from './latent_resize.ts';
import type { CpuTensor, PixelImage } from './media.ts';
import type { Conditioning, Latents, Model, SampleRequest, TextRequest, Upscaler } from './model.ts';
import { noiseSource } from './noise_sources.ts';
import type { NoiseRequest } from './noise.ts';

/** The parameters of a painting in two passes. */
type Input = HiresRequest & NoiseRequest & TextRequest & { steps: number; tile_size?: number | undefined };

/**
 * @param request of the first pass; the second differs from it in size, steps, strength and where it starts
 * @param text what `input` says, encoded for the first pass
 * @param loadUpscaler opens the one that `hires_upscaler` names, if it does
 * @returns the latents of the larger picture
 */
export async function paintTwice(
  model: Model,
  text: Conditioning,
  request: SampleRequest,
  input: Input,
  loadUpscaler: (ref: string) => Promise<Upscaler>,
): Promise<Latents> {
  if (!model.latentsFrom) {
    throw new StudioError(
      'invalid_operation',
      `"${model.summary.name}" has no second pass (hires); leave hires_scale out, or choose another checkpoint.`,
    );
  }
  const { hires_scale: scale, hires_steps: steps = input.steps } = input;
  const { hires_denoising_strength: strength = USUAL_HIRES.strength } = input;
  const larger: SampleRequest = {
    ...request,
    width: hiresSide(request.width, scale),
    height: hiresSide(request.height, scale),
    steps,
    strength,
    // As the tools and diffusers' second call do, it draws its noise from the same seed anew.
    random: noiseSource(input),
  };
  let before = input.steps;
  let kept = keptPass(
    request.resume,
    ([batch, , height, columns]) => larger.width * height === larger.height * columns && batch === larger.batch_size,
  );
  if (!kept) {
    const after = Math.max(1, Math.floor(steps * strength));
    const first = await model.sample(text, {
      ...request,
      onStart(steps, done) {
        before = steps;
        request.onStart(steps + after, done);
      },
      onStep: (report) => request.onStep({ ...report, steps: report.steps + after }),
    });
    try {
      kept = { enlarged: await enlarge(model, first, larger, request.width, input, loadUpscaler), state: null };
    } finally {
      first.dispose();
    }
  }
  const { enlarged, state } = kept;
  const start = model.latentsFrom(enlarged);
  // Words that change while it is painted are spread over this pass's own steps.
  const isSpread = (input.prompt_syntax ?? 'literal') !== 'literal' && steps !== input.steps;
  const words = isSpread ? await model.encodeText({ ...input, steps }) : text;
  try {
    return await model.sample(words, {
      ...larger,
      start,
      resume: state,
      keep: (state) => {
        request.keep({ enlarged, state } satisfies KeptPass);
      },
      onStart: (steps, done) => {
        request.onStart(before + steps, before + done);
      },
      onStep: (report) => request.onStep({ ...report, step: before + report.step, steps: before + report.steps }),
    });
  } finally {
    start.dispose();
    if (words !== text) {
      words.dispose();
    }
  }
}

/** @param before the width of the first picture, in pixels */
async function enlarge(
  model: Model,
  first: Latents,
  { width, height, batch_size, random, signal, phased }: SampleRequest,
  before: number,
  { hires_upscaler: how = USUAL_HIRES.upscaler, tile_size }: Input,
  loadUpscaler: (ref: string) => Promise<Upscaler>,
): Promise<CpuTensor> {
  const ofLatents = LATENT_UPSCALERS.find((one) => one === how);
  if (ofLatents) {
    const factor = before / first.dims[3];
    return resizeLatents(
      { dims: [...first.dims], data: await first.read() },
      height / factor,
      width / factor,
      ofLatents,
    );
  }
  let pictures = await model.decode(first, { tile_size, phased, signal, onPart: () => undefined });
  if (REF.test(how)) {
    const upscaler = await loadUpscaler(how);
    const enlarged: PixelImage[] = [];
    for (const picture of pictures) {
      enlarged.push(await upscaled(upscaler, picture, { width, signal }));
    }
    pictures = enlarged;
  }
  const encoded: Float32Array[] = [];
  let dims: number[] = [];
  for (const picture of pictures) {
    const latents = await model.encodeImage(picture, { width, height, batch_size: 1, random });
    dims = [batch_size, ...latents.dims.slice(1)];
    encoded.push(await latents.read());
    latents.dispose();
  }
  const data = new Float32Array(dims.reduce((count, dim) => count * dim, 1));
  encoded.forEach((one, n) => {
    data.set(one, n * one.length);
  });
  return { dims, data };
}
