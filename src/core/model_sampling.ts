/**
 * ComfyUI's nodes that say how the levels of a flow are shifted towards the noise, chosen by their names. With one of them sampling is
 * ComfyUI's altogether: its levels and its schedules in place of the checkpoint's own.
 */
import * as v from 'valibot';
import type { FieldMetadata } from './field.ts';
import { integer, real } from './parameters.ts';

export const MODEL_SAMPLINGS = ['ModelSamplingAuraFlow', 'ModelSamplingFlux', 'ModelSamplingSD3'] as const;
export type ModelSamplingName = (typeof MODEL_SAMPLINGS)[number];

export function isModelSampling(type: string): type is ModelSamplingName {
  return MODEL_SAMPLINGS.some((name) => name === type);
}

/** What the nodes themselves suggest. */
export const USUAL_SHIFTS = {
  ModelSamplingAuraFlow: 1.73,
  ModelSamplingSD3: 3,
  base_shift: 0.5,
  max_shift: 1.15,
} as const;

export interface ModelSamplingRequest {
  /** Undefined = as the checkpoint says. */
  model_sampling?: ModelSamplingName | undefined;
  /** Of ModelSamplingAuraFlow and ModelSamplingSD3; undefined = {@link USUAL_SHIFTS}. */
  shift?: number | undefined;
  /** Of ModelSamplingFlux: the logarithm of the shift for 256 tokens and for 4096. */
  base_shift?: number | undefined;
  max_shift?: number | undefined;
  /** Of ModelSamplingFlux: the size that is shifted for, in pixels; undefined = the picture's own. */
  shift_width?: number | undefined;
  shift_height?: number | undefined;
}

export const modelSampling = () =>
  v.picklist(MODEL_SAMPLINGS, `model_sampling must be one of ${MODEL_SAMPLINGS.join(', ')}.`);
export const baseShift = () => real('base_shift', 0, 100);
export const maxShift = () => real('max_shift', 0, 100);
export const shiftSide = (name: string) => integer(name, 16, 16384);

const names = Object.fromEntries(MODEL_SAMPLINGS.map((name) => [name, { en: name, de: name }]));
const ofFlux = { with: 'model_sampling', withValue: 'ModelSamplingFlux' } satisfies FieldMetadata;
const ofFluxFrom0To3 = { ...ofFlux, slider: { min: 0, max: 3, step: 0.05 } } satisfies FieldMetadata;

export const modelSamplingEntries = () => ({
  model_sampling: v.optional(v.pipe(modelSampling(), v.metadata({ choices: names } satisfies FieldMetadata))),
  base_shift: v.optional(v.pipe(baseShift(), v.metadata(ofFluxFrom0To3))),
  max_shift: v.optional(v.pipe(maxShift(), v.metadata(ofFluxFrom0To3))),
  shift_width: v.optional(v.pipe(shiftSide('shift_width'), v.metadata(ofFlux))),
  shift_height: v.optional(v.pipe(shiftSide('shift_height'), v.metadata(ofFlux))),
});

/** Whether everything that is said of a shift belongs to the node that is chosen. For `v.check`, with {@link STRAY_SHIFT} as its message. */
export function isWholeShift(request: ModelSamplingRequest): boolean {
  const { model_sampling: node, shift, base_shift, max_shift, shift_width, shift_height } = request;
  const isSized = [base_shift, max_shift, shift_width, shift_height].some((value) => value !== undefined);
  return node === 'ModelSamplingFlux' ? shift === undefined : !isSized;
}

export const STRAY_SHIFT =
  'base_shift, max_shift, shift_width and shift_height belong to the model_sampling ModelSamplingFlux, and shift does not; leave out what does not belong.';
