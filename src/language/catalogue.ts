/** Language models and voices on offer: one JSON file in `models` each, so adding one adds a file and edits none. */
import * as v from 'valibot';

const words = v.strictObject({ en: v.string(), de: v.string() });
const count = v.nullable(v.pipe(v.number(), v.integer(), v.minValue(1)));

const offerSchema = v.strictObject({
  name: v.string(),
  kind: v.picklist(['text', 'speech']),
  repo: v.pipe(v.string(), v.regex(/^[\w.-]+\/[\w.-]+$/)),
  /** Null = the newest, resolved to a commit when the repository is inspected. */
  revision: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/))),
  link: v.pipe(v.string(), v.url()),
  license: v.strictObject({
    id: v.string(),
    link: v.pipe(v.string(), v.url()),
    kind: v.picklist(['permissive', 'share_alike', 'use_restricted', 'non_commercial', 'unknown']),
  }),
  /** Size of the download; null if unknown before the repository is inspected. */
  bytes: count,
  parameters: count,
  verified: v.boolean(),
  /** What could not be checked. */
  unverified: v.nullable(words),
  description: words,
  audience: words,
});

export type LanguageOffer = v.InferOutput<typeof offerSchema> & { id: string };

/** Small ones first. */
export const languageOffers: LanguageOffer[] = Object.entries(
  import.meta.glob<unknown>('./models/*.json', { eager: true, import: 'default' }),
)
  .map(([path, json]) => ({
    ...v.parse(offerSchema, json),
    id: path.slice(path.lastIndexOf('/') + 1, -'.json'.length),
  }))
  .sort(
    (a, b) =>
      a.kind.localeCompare(b.kind) * -1 || (a.parameters ?? 0) - (b.parameters ?? 0) || a.id.localeCompare(b.id),
  );
