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

/** Ids of samplers whose pictures depend on who draws the noise of each step. */
export const noisy = Object.values(allSamplers).flatMap(({ id, addsNoise }) => (addsNoise ? [id] : []));

function choices(ids: string[]): Choice[] {
  return ids.map((id) => ({ id, label: readable(id) })).sort((a, b) => a.label.localeCompare(b.label));
}
