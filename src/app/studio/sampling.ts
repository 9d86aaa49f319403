/** What can be chosen of how a picture is sampled. Fetched with the settings: it brings the samplers themselves. */
import { samplers as allSamplers } from '../../samplers/registry.ts';
import { schedules as allSchedules } from '../../schedules/registry.ts';
import { t } from '../messages/messages.svelte.ts';
import { readable } from './catalogue.ts';

export interface Choice {
  id: string;
  label: string;
}

export const samplers = choices(Object.keys(allSamplers));
export const schedules = choices(Object.keys(allSchedules));

export const predictions = (): Choice[] => [
  { id: 'noise', label: t('Noise (epsilon)') },
  { id: 'velocity', label: t('Velocity (v-prediction)') },
  { id: 'velocity_zero_snr', label: t('Velocity, from pure noise (zero terminal SNR)') },
];

export const syntaxes = (): Choice[] => [
  { id: 'automatic1111', label: 'AUTOMATIC1111' },
  { id: 'comfyui', label: 'ComfyUI' },
  { id: 'literal', label: t('Word for word') },
];

export const conventions = (): Choice[] => [
  { id: 'diffusers', label: 'diffusers' },
  { id: 'comfyui', label: 'ComfyUI' },
];

/**
 * Whose numbers a sampler gives where nobody says: diffusers' where one of its classes knows the sampler, else ComfyUI's.
 * @param sampler its id
 */
export function usualConvention(sampler: string): string {
  return Object.values(allSamplers).some(({ id, ofDiffusers }) => id === sampler && ofDiffusers)
    ? 'diffusers'
    : 'comfyui';
}

export const guidanceMethods = (): Choice[] => [
  { id: 'cfg', label: t('Classifier-free (CFG)') },
  { id: 'apg', label: t('Projected (APG)') },
  { id: 'cfg_zero_star', label: 'CFG-Zero*' },
];

/** Of flow transformers, whose own kind differs. */
export const flowGuidanceMethods = (): Choice[] => [
  ...guidanceMethods(),
  { id: 'comfyui_cfg_norm', label: t('CFGNorm, as in ComfyUI') },
];

export const hiresUpscalers = (): Choice[] => [
  { id: 'latent', label: t('Latents, bilinear') },
  { id: 'latent_antialiased', label: t('Latents, bilinear, antialiased') },
  { id: 'latent_bicubic', label: t('Latents, bicubic') },
  { id: 'latent_bicubic_antialiased', label: t('Latents, bicubic, antialiased') },
  { id: 'latent_nearest', label: t('Latents, nearest') },
  { id: 'latent_nearest_exact', label: t('Latents, nearest (exact)') },
  { id: 'lanczos', label: t('Pixels, Lanczos') },
];

export const noises = (): Choice[] => [
  { id: 'torch_cpu', label: t('diffusers (on the processor)') },
  { id: 'comfyui', label: t('ComfyUI (on the processor)') },
  { id: 'nv', label: t('AUTOMATIC1111 (on an NVIDIA GPU)') },
  { id: 'a1111_cpu', label: t('AUTOMATIC1111 (on the processor)') },
];

/** Ids of samplers whose pictures depend on who draws the noise of each step. */
export const noisy = Object.values(allSamplers).flatMap(({ id, addsNoise }) => (addsNoise ? [id] : []));

function choices(ids: string[]): Choice[] {
  return ids.map((id) => ({ id, label: readable(id) })).sort((a, b) => a.label.localeCompare(b.label));
}
