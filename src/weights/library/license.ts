/** Licences, by the names repositories use. */
import type { License } from './library_api.ts';

/** Licences that demand nothing from a person making pictures with the weights; all others must be accepted. */
const PERMISSIVE = new Set([
  'apache-2.0',
  'mit',
  'bsd',
  'bsd-2-clause',
  'bsd-3-clause',
  'bsd-3-clause-clear',
  'isc',
  'unlicense',
  'wtfpl',
  'zlib',
  'cc0-1.0',
  'pddl',
  'cc-by-2.0',
  'cc-by-2.5',
  'cc-by-3.0',
  'cc-by-4.0',
  'cc-by-sa-3.0',
  'cc-by-sa-4.0',
  'afl-3.0',
  'artistic-2.0',
  'ecl-2.0',
  'ms-pl',
  'mpl-2.0',
]);

/** @param id the repository's name for it; null if it names none */
export function licenseOf(id: string | null, link: string | null): License {
  return { id, link, mustAccept: id === null || !PERMISSIVE.has(id.toLowerCase()) };
}
