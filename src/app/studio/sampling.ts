/** What can be chosen of how a picture is sampled. Fetched with the settings: it brings the samplers themselves. */
import * as samplerFiles from '../../samplers/registry.ts';
import * as scheduleFiles from '../../schedules/registry.ts';
import { t } from '../messages/messages.svelte.ts';
import { readable } from './catalogue.ts';

export interface Choice {
  id: string;
  label: string;
}

export const samplers = choices(Object.keys(samplerFiles.samplers));
export const schedules = choices(Object.keys(scheduleFiles.schedules));

export const predictions = (): Choice[] => [
  { id: 'noise', label: t('Noise (epsilon)') },
  { id: 'velocity', label: t('Velocity (v-prediction)') },
  { id: 'velocity_zero_snr', label: t('Velocity, from pure noise (zero terminal SNR)') },
];

function choices(ids: string[]): Choice[] {
  return ids.map((id) => ({ id, label: readable(id) })).sort((a, b) => a.label.localeCompare(b.label));
}
