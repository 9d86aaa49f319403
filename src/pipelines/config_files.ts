/** The config files, whole, for the library and for rules; what the page needs of them from its start is in `catalogue.ts`. */
import { parse } from 'valibot';
import type { Config } from '../core/catalogue.ts';
import { configFileSchema } from '../core/config_file.ts';
import type { CatalogueCheckpoint, ConfigFile } from '../core/config_file.ts';
import { idOf } from './catalogue.ts';

const files = import.meta.glob<unknown>('../configs/*.json', { eager: true, import: 'default' });

/** By id. */
export const configFiles: Record<string, ConfigFile> = Object.fromEntries(
  Object.entries(files).map(([path, file]) => [idOf(path), parse(configFileSchema, file)]),
);

/** A checkpoint that can be had, with the config that brings it. */
export interface Offer {
  /** The config's id. */
  id: string;
  name: Config['name'];
  checkpoint: CatalogueCheckpoint;
}

/** From what anybody may do anything with to what is for research only. */
const KINDS: CatalogueCheckpoint['license']['kind'][] = [
  'permissive',
  'share_alike',
  'use_restricted',
  'non_commercial',
  'unknown',
];

/** The checkpoints that configs bring, the most permissive licences first. */
export const offers: Offer[] = Object.entries(configFiles)
  .flatMap(([id, { name, checkpoint }]): Offer[] => (checkpoint ? [{ id, name, checkpoint }] : []))
  .sort((a, b) => KINDS.indexOf(a.checkpoint.license.kind) - KINDS.indexOf(b.checkpoint.license.kind));
