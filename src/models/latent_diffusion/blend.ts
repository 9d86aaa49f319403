/** What a mask keeps of a picture, in the form the sampling loop blends in at every step. */
import type { PixelImage } from '../../core/media.ts';
import { elements, type Arithmetic, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { SampleRequest } from '../../core/model.ts';
import { maskToTensor } from '../../formats/resample.ts';
import type { SamplerPlan } from '../../samplers/sampler.ts';

/**
 * @param mask white = change, black = keep; any size
 * @param size of the result, in pixels
 * @param image and
 * @param noise as latents
 * @returns image | noise | mask, each the size of the latents
 */
export function blendOf(
  arithmetic: Arithmetic,
  mask: PixelImage,
  size: { width: number; height: number },
  image: DeviceTensor,
  noise: DeviceTensor,
): DeviceTensor {
  const [, , height, width] = noise.dims;
  const count = elements(noise.dims);
  const change = maskToTensor(mask, size.width, size.height, width, height).data;
  const repeated = new Float32Array(count);
  for (let at = 0; at < count; at += change.length) {
    repeated.set(change, at);
  }
  const blend = arithmetic.empty([3 * count]);
  const uploaded = arithmetic.upload(repeated, [count]);
  arithmetic.copy(image, 0, blend, 0, count);
  arithmetic.copy(noise, 0, blend, count, count);
  arithmetic.copy(uploaded, 0, blend, 2 * count, count);
  uploaded.dispose();
  return blend;
}

/**
 * Differential diffusion: what is darker than white is kept as it is in the first steps, the longer the darker it is, so that it is changed
 * from a picture with less noise.
 *
 * Reference: https://arxiv.org/abs/2306.00950; diffusers, examples/community/pipeline_stable_diffusion_xl_differential_img2img.py
 * @param dims of the latents
 * @returns the mask after a number of calls of the network; null where greys do not count
 */
export function softMask(
  { mask, width, height, steps, soft_inpainting: isSoft }: SampleRequest,
  plan: SamplerPlan,
  dims: readonly number[],
): ((done: number) => Float32Array<ArrayBuffer>) | null {
  if (!mask || isSoft !== true) {
    return null;
  }
  const keeps = maskToTensor(mask, width, height, dims[3], dims[2], true).data.map((change) => 1 - change);
  const calls = Math.max(steps, plan.steps.length);
  const change = new Float32Array(elements(dims));
  return (done) => {
    // The last call's result stays as it is, as in the reference.
    const threshold = done === plan.steps.length ? 1 : Math.fround(done / calls);
    return change.map((_, i) => (keeps[i % keeps.length] > threshold ? 0 : 1));
  };
}
