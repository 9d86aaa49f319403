/** German, from one file per part of the page and per layer. `told` has sentences written outside the page, in English. */
import type { Catalogue } from '../template.ts';

export const page = joined(import.meta.glob<Catalogue>('./page/*.json', { eager: true, import: 'default' }));
export const told = joined(import.meta.glob<Catalogue>('./told/*.json', { eager: true, import: 'default' }));

function joined(files: Record<string, Catalogue>): Catalogue {
  return Object.assign({}, ...Object.values(files)) as Catalogue;
}
