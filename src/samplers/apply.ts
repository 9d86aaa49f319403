/** One step on plain arrays: the reference for the GPU kernel, and the implementation where there is no GPU. */
import type { Level } from '../predictions/prediction.ts';
import type { Step } from './sampler.ts';

/** All arrays are f32 and of the same length, except `mask`. */
export interface StepBuffers {
  /** The latents; overwritten by the step. */
  x: Float32Array;
  /** Network output for the prompt. */
  cond: Float32Array;
  /** Network output for the negative prompt; null = no guidance. */
  uncond: Float32Array | null;
  guidance: number;
  /** `historyLength` buffers, latest first; rotated and overwritten if the step says so. */
  history: Float32Array[];
  /** Standard normal noise, for steps that ask for it. */
  noise?: Float32Array | null;
  /** Receives the predicted picture, if given. */
  denoised?: Float32Array;
  /** Inpainting: x' = mask · x' + (1 − mask) · (level.alpha · image + level.sigma · noise). */
  inpaint?: {
    /** 1 = change, 0 = keep; `[1, 1, h, w]`, repeated over channels and batch. */
    mask: Float32Array;
    image: Float32Array;
    noise: Float32Array;
    /** `addNoise` of the step after this one. */
    level: Level;
  };
}

export function applyStep(step: Step, buffers: StepBuffers): void {
  const { x, cond, uncond, guidance, history, noise: fresh, denoised, inpaint } = buffers;
  const { next, noise, remember } = step;
  if (noise && !fresh) {
    throw new TypeError('This step adds noise, and none was given.');
  }
  // The oldest buffer becomes the newest, now that its contents have been used.
  const oldest = step.shift ? history[history.length - 1] : undefined;
  for (let i = 0; i < x.length; i++) {
    const value = x[i];
    const conditional = cond[i];
    const negative = uncond ? uncond[i] : conditional;
    const m = negative + guidance * (conditional - negative);
    let result = next.x * value + next.model * m + next.negative * negative;
    for (let k = 0; k < next.history.length; k++) {
      result += next.history[k] * history[k][i];
    }
    if (noise && fresh) {
      result += noise.scale * fresh[i];
    }
    if (denoised) {
      denoised[i] = step.denoised.x * value + step.denoised.model * m;
    }
    if (oldest) {
      let kept = remember.x * value + remember.model * m + remember.negative * negative;
      for (let k = 0; k < remember.history.length; k++) {
        kept += remember.history[k] * history[k][i];
      }
      oldest[i] = kept;
    }
    if (inpaint) {
      const { mask, image, level } = inpaint;
      const known = level.alpha * image[i] + level.sigma * inpaint.noise[i];
      const change = mask[i % mask.length];
      result = change * result + (1 - change) * known;
    }
    x[i] = result;
  }
  if (oldest) {
    history.pop();
    history.unshift(oldest);
  }
}
