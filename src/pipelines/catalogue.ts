/**
 * What the folders hold: they are the registry, so a new chunk, pipeline or config is one file and no other edit. Of chunks only
 * metas and schemas, so that the page carries no code that runs a model; the generation worker loads `execute` by itself.
 */
import type { GenericSchema } from 'valibot';
import type { ChunkContract, ChunkMeta } from '../core/chunk.ts';
import { parse as read } from 'valibot';
import { configSchema, pipelineSchema } from '../core/catalogue.ts';
import type { Catalogue, CatalogueCheckpoint, Config, Pipeline } from '../core/catalogue.ts';

const metas = import.meta.glob<ChunkMeta>('../../chunks/*.ts', { eager: true, import: 'meta' });
const schemas = import.meta.glob<GenericSchema>('../../chunks/*.ts', { eager: true, import: 'parameters' });
const configs = import.meta.glob<unknown>('../configs/*.json', { eager: true, import: 'default' });
const pipelines = import.meta.glob<unknown>('./*.json', { eager: true, import: 'default' });

export const catalogue: Catalogue = {
  pipelines: Object.fromEntries(
    Object.values(pipelines)
      .map((pipeline): Pipeline => read(pipelineSchema, pipeline))
      .map((pipeline) => [pipeline.name, pipeline]),
  ),
  configs: Object.fromEntries(
    Object.entries(configs).map(([path, config]): [string, Config] => [
      stem(path),
      { ...read(configSchema, config), id: stem(path) },
    ]),
  ),
  chunks: Object.fromEntries(
    Object.entries(metas).map(([path, meta]): [string, ChunkContract] => [
      meta.id,
      { meta, parameters: schemas[path] },
    ]),
  ),
};

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
export const offers: Offer[] = Object.values(catalogue.configs)
  .flatMap(({ id, name, checkpoint }): Offer[] => (checkpoint ? [{ id, name, checkpoint }] : []))
  .sort((a, b) => KINDS.indexOf(a.checkpoint.license.kind) - KINDS.indexOf(b.checkpoint.license.kind));

function stem(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1, path.lastIndexOf('.'));
}
