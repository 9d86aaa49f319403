/** What the new ground of a widened picture can begin as. */
import { t } from '../messages/messages.svelte.ts';
import type { Choice } from './sampling.ts';

export const outpaintContents = (): Choice[] => [
  { id: '', label: t("The edge's colours, stretched outward") },
  { id: 'original', label: t('The background colour') },
  { id: 'latent_noise', label: t('Noise') },
  { id: 'latent_nothing', label: t('Nothing (empty latents)') },
];
