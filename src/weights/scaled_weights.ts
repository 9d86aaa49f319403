/**
 * Weights in 8-bit floating point that are meant times a scale, one for the matrix or one for each of its rows, as ComfyUI's `…_fp8_scaled` files
 * have them: `layer.scale_weight` beside a tensor `scaled_fp8`, or, since the end of 2025, `layer.weight_scale` beside `layer.comfy_quant`. What
 * stands there for what a layer is given (`scale_input`, `input_scale`) is for multiplying in 8 bits, which is not done here.
 *
 * Reference: ComfyUI's comfy/utils.py (convert_old_quants), QUANTIZATION.md
 */
import type { StoredTensor } from '../graphs/graph.ts';
import type { SafetensorsHeader, TensorEntry } from './safetensors.ts';

const SPELLINGS = ['scale_weight', 'weight_scale'];

/** What such files have beside the weights, and where other tools keep scales that are not these. */
const BESIDE =
  /(?:^|\.)(?:scaled_fp8|scale_weight|scale_input|weight_scale|weight_scale_2|weight_scale_inv|input_scale|comfy_quant)$/;

/** Whether a tensor is no weight, but says how weights are meant. */
export function isBesideWeights(name: string): boolean {
  return BESIDE.test(name);
}

/**
 * The scale of a tensor in 8 bits.
 * @returns null where it has none; the name of one that is not understood, which is of blocks, say
 */
export function scaleOf(tensors: SafetensorsHeader['tensors'], tensor: TensorEntry): TensorEntry | string | null {
  const layer = /^(.*)\.weight$/.exec(tensor.name)?.[1];
  if (layer === undefined || !tensor.dtype.startsWith('F8_E')) {
    return null;
  }
  const others = ['weight_scale_2', 'weight_scale_inv'].map((ending) => `${layer}.${ending}`);
  const other = others.find((name) => tensors.has(name));
  const [scale] = SPELLINGS.flatMap((ending) => tensors.get(`${layer}.${ending}`) ?? []);
  if (other !== undefined || scale === undefined) {
    return other ?? null;
  }
  const count = scale.shape.reduce((product, side) => product * side, 1);
  const isKnown = ['F32', 'F16', 'BF16'].includes(scale.dtype) && (count === 1 || count === tensor.shape[0]);
  return isKnown ? scale : scale.name;
}

/**
 * Multiplies the numbers of a tensor's elements, in place.
 * @param from number of the first of them in the tensor
 * @param columns of a row
 * @param scales one for all, or those of the rows that they lie in
 */
export function applyScale(values: Float32Array, from: number, columns: number, scales: Float32Array): void {
  if (scales.length === 1) {
    for (let i = 0; i < values.length; i++) {
      values[i] *= scales[0];
    }
    return;
  }
  const first = Math.floor(from / columns);
  for (let i = 0; i < values.length; i++) {
    values[i] *= scales[Math.floor((from + i) / columns) - first];
  }
}

/** How many scales a tensor has: one, or one for each row. */
export function scaleCount({ shape }: StoredTensor): number {
  return shape.reduce((product, side) => product * side, 1);
}
