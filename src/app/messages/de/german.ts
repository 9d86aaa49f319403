/** German, from one file for each part of the page and each layer. `told` are sentences that are made away from the page, and in English. */
import type { Catalogue } from '../template.ts';

export const page = joined(import.meta.glob<Catalogue>('./page/*.json', { eager: true, import: 'default' }));
export const told = joined(import.meta.glob<Catalogue>('./told/*.json', { eager: true, import: 'default' }));

function joined(files: Record<string, Catalogue>): Catalogue {
  return Object.assign({}, ...Object.values(files)) as Catalogue;
}
