/** The levels of ComfyUI's ModelSampling nodes: comfy_extras/nodes_model_advanced.py. */
import { USUAL_SHIFTS, type ModelSamplingRequest } from '../core/model_sampling.ts';

/** How levels are shifted, and how many of them schedules choose among. */
export interface ModelSampling {
  /** As `shiftedTime` takes it. */
  shift: number;
  levels: number;
}

/** Between these numbers of tokens ModelSamplingFlux goes from one shift to the other, and on in the same line. */
const [FEWEST, MOST] = [256, 4096];

/** Pixels per side of a token, whatever the checkpoint's are. */
const TOKEN = 16;

/**
 * @param picture its size in pixels
 * @returns null where no node is chosen. AuraFlow's and SD3's differ in how the network is told the time, which is the network's affair here.
 */
export function modelSamplingOf(
  request: ModelSamplingRequest,
  picture: { width: number; height: number },
): ModelSampling | null {
  const { model_sampling: node, shift } = request;
  switch (node) {
    case undefined:
      return null;
    case 'ModelSamplingAuraFlow':
    case 'ModelSamplingSD3':
      return { shift: shift ?? USUAL_SHIFTS[node], levels: 1000 };
    case 'ModelSamplingFlux': {
      const { base_shift: base = USUAL_SHIFTS.base_shift, max_shift: max = USUAL_SHIFTS.max_shift } = request;
      const { shift_width: width = picture.width, shift_height: height = picture.height } = request;
      const slope = (max - base) / (MOST - FEWEST);
      const tokens = (width * height) / TOKEN ** 2;
      return { shift: Math.exp(tokens * slope + base - slope * FEWEST), levels: 10_000 };
    }
  }
}
