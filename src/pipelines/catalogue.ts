/**
 * What the folders hold: they are the registry, so a new chunk, pipeline or config is one file and no other edit. Of chunks only
 * metas and schemas, so that the page carries no code that runs a model; the generation worker loads `execute` by itself.
 */
import type { GenericSchema } from 'valibot';
import type { ChunkContract, ChunkMeta } from '../core/chunk.ts';
import { parse as read } from 'valibot';
import { configSchema, pipelineSchema } from '../core/catalogue.ts';
import type { Catalogue, Config, Pipeline } from '../core/catalogue.ts';

const metas = import.meta.glob<ChunkMeta>('../../chunks/*.ts', { eager: true, import: 'meta' });
const schemas = import.meta.glob<GenericSchema>('../../chunks/*.ts', { eager: true, import: 'parameters' });
/** Where the page loads this, without what `config_files.ts` has (`startOfConfigs` in vite.config.ts). */
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
      idOf(path),
      { ...read(configSchema, config), id: idOf(path) },
    ]),
  ),
  chunks: Object.fromEntries(
    Object.entries(metas).map(([path, meta]): [string, ChunkContract] => [
      meta.id,
      { meta, parameters: schemas[path] },
    ]),
  ),
};

/** The id in a file's path. */
export function idOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1, path.lastIndexOf('.'));
}
