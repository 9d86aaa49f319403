/** Checkpoints that can be had, as the library shows them. */
import type { CatalogueCheckpoint } from '../../core/config_file.ts';
import { offers as brought } from '../../pipelines/config_files.ts';
import { configName } from '../studio/catalogue.ts';

export interface Offer {
  /** Of the config that brings it, or of the language model. */
  id: string;
  name: string;
  checkpoint: Omit<CatalogueCheckpoint, 'recommended'>;
}

/** The most permissive licences first. */
export const offers: Offer[] = brought.map((offer) => ({
  ...offer,
  get name() {
    return configName(offer.name);
  },
}));
