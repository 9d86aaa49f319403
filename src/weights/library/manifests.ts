/** Manifests of checkpoints to be fetched: new ones, and extended ones. */
import type { Listing } from './library_api.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { Card } from './exported_folder.ts';
import { SCHEMA_VERSION } from './records.ts';
import type { Manifest, ManifestFile } from './records.ts';

/** Values for every checkpoint of which nothing is here yet. */
const BEGUN = { schema_version: SCHEMA_VERSION, usedAt: null, complete: false, damaged: false, error: null } as const;

/** Of files of an origin. @param now milliseconds since 1970 */
export function fromListing(
  ref: string,
  { name, origin, revision, license }: Listing,
  variant: WeightVariant,
  files: ManifestFile[],
  now: number,
): Manifest {
  return { ...BEGUN, ref, name, origin, revision, license, variant, files, addedAt: now, imported: false };
}

/**
 * Of files from the disk.
 * @param card of a folder exported by Darkroom
 * @param addedAt milliseconds since 1970
 */
export function fromDisk(
  ref: string,
  name: string,
  files: ManifestFile[],
  card: Card | null,
  addedAt: number,
): Manifest {
  return {
    ...BEGUN,
    ref,
    name: card?.name ?? name,
    origin: card?.origin ?? { kind: 'import' },
    revision: card?.revision ?? null,
    license: card?.license ?? { id: null, link: null, mustAccept: false },
    variant: card?.variant ?? 'full',
    files,
    addedAt,
    imported: true,
  };
}

/** A checkpoint's manifest with additional or newly listed files. */
export function extended(manifest: Manifest, listing: Listing, files: ManifestFile[]): Manifest {
  const same = (a: ManifestFile, b: ManifestFile) => a.path === b.path && a.size === b.size && a.sha256 === b.sha256;
  const kept = manifest.files.filter(({ path }) => !files.some((file) => file.path === path));
  const complete = manifest.complete && files.every((file) => manifest.files.some((known) => same(known, file)));
  const { name, origin, revision, license } = listing;
  return complete
    ? manifest
    : { ...manifest, name, origin, revision, license, files: [...kept, ...files], complete: false, error: null };
}
