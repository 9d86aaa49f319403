/**
 * The library's records beside the pieces, and their validation: an invalid record counts as absent, so that an older or damaged store
 * loses nothing valid and blocks nothing.
 *
 * Keys of the one object store: `checkpoint/<ref>` manifest, `file/<ref>/<path>` record of a file, `piece/<ref>/<path>/<n>`
 * its bytes as Blobs, `header/<ref>/<path>` the safetensors header of a file that is stored transformed, `licenses`.
 */
import * as v from 'valibot';
import { ERROR_CODES } from '../../core/errors.ts';

/** Schema of manifests and file records. There are no older versions to migrate. */
export const SCHEMA_VERSION = 1;

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/));
/** Relative, with forward slashes, and never upwards. */
const path = v.pipe(v.string(), v.check(isPath));

export const licenseSchema = v.object({
  id: v.nullable(v.string()),
  link: v.nullable(v.string()),
  mustAccept: v.boolean(),
});

export const originSchema = v.variant('kind', [
  v.object({ kind: v.literal('hub'), repo: v.string(), revision: v.nullable(v.string()) }),
  v.object({ kind: v.literal('url'), url: v.string() }),
]);

export const listedFileSchema = v.object({
  path,
  size,
  sha256: v.nullable(sha256),
  gitSha1: v.optional(v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/))),
});

export const listingSchema = v.object({
  ref: v.pipe(v.string(), v.regex(/^(hub|url):[^#]+$/)),
  name: v.string(),
  origin: originSchema,
  revision: v.nullable(v.string()),
  license: licenseSchema,
  gated: v.boolean(),
  files: v.array(listedFileSchema),
});

export const variantSchema = v.picklist(['full', 'q8', 'q4']);

const errorSchema = v.object({
  code: v.picklist(ERROR_CODES),
  message: v.string(),
  retry: v.picklist(['same', 'smaller', 'never']),
  cause: v.optional(v.string()),
});

const manifestSchema = v.object({
  schema_version: v.literal(SCHEMA_VERSION),
  ref: v.string(),
  name: v.string(),
  origin: v.union([originSchema, v.object({ kind: v.literal('import') })]),
  revision: v.nullable(v.string()),
  license: licenseSchema,
  variant: variantSchema,
  files: v.array(listedFileSchema),
  addedAt: v.number(),
  usedAt: v.nullable(v.number()),
  /** Written true last: readers trust nothing else. */
  complete: v.boolean(),
  /** Verification found wrong bytes, which are dropped. */
  damaged: v.boolean(),
  /** Its files came from a folder in their stored form, so an origin may have different ones. */
  imported: v.boolean(),
  error: v.nullable(errorSchema),
});

export type Manifest = v.InferOutput<typeof manifestSchema>;
export type ManifestFile = v.InferOutput<typeof listedFileSchema>;

const fileRecordSchema = v.object({
  schema_version: v.literal(SCHEMA_VERSION),
  /** Bytes at the origin. */
  size,
  /** Expected hash of the bytes at the origin, or null. */
  sha256: v.nullable(sha256),
  /** The origin's version of the file: its ETag, else its date; null if it gives neither. */
  version: v.nullable(v.string()),
  /** Whether it is stored transformed, as derived from the header stored beside it. */
  transformed: v.boolean(),
  /** Size of the stored file. */
  storedSize: size,
  /** Pieces that have arrived, from the first: their stored bytes and SHA-256. */
  pieces: v.array(v.object({ length: size, sha256 })),
  /** Pieces dropped by a verification, to be refetched. */
  missing: v.array(size),
  /** State of the SHA-256 over the origin's bytes so far, as saved by hash-wasm; null when done. */
  hashState: v.nullable(v.instance(Uint8Array)),
  /** SHA-256 of the origin's bytes, once all were verified. */
  digest: v.nullable(sha256),
  done: v.boolean(),
});

export type FileRecord = v.InferOutput<typeof fileRecordSchema>;

/** Enough to list and remove a checkpoint written by another version of Darkroom. */
const foreignSchema = v.looseObject({ name: v.fallback(v.string(), ''), addedAt: v.fallback(v.number(), 0) });

export const keyOf = {
  manifest: (ref: string) => `checkpoint/${ref}`,
  file: (ref: string, path: string) => `file/${ref}/${path}`,
  piece: (ref: string, path: string, n: number) => `piece/${ref}/${path}/${n}`,
  header: (ref: string, path: string) => `header/${ref}/${path}`,
  licenses: 'licenses',
};

export function parseManifest(value: unknown): Manifest | null {
  const result = v.safeParse(manifestSchema, value);
  return result.success ? result.output : null;
}

export function parseForeign(value: unknown): { name: string; addedAt: number } {
  const result = v.safeParse(foreignSchema, value);
  return result.success ? result.output : { name: '', addedAt: 0 };
}

/** Null also for one that contradicts itself. */
export function parseFileRecord(value: unknown): FileRecord | null {
  const result = v.safeParse(fileRecordSchema, value);
  if (!result.success) {
    return null;
  }
  const record = result.output;
  const holds = record.missing.every((n) => n < record.pieces.length) && record.done === (record.digest !== null);
  return holds ? record : null;
}

export function parseLicenses(value: unknown): string[] {
  const result = v.safeParse(v.array(v.string()), value);
  return result.success ? result.output : [];
}

/** Whether an untrusted path stays inside its folder. */
export function isPath(text: string): boolean {
  return (
    text !== '' &&
    text.length < 1000 &&
    // eslint-disable-next-line no-control-regex
    !/[\\\u0000-\u001f\u007f]/.test(text) &&
    text.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
  );
}
