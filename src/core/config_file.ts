/** A config's file, whole: with what only the library and the rules show, which the page loads with those. */
import * as v from 'valibot';
import { configEntries, localized } from './catalogue.ts';

const https = v.pipe(v.string(), v.url(), v.startsWith('https://'));
const whole = (min: number) => v.pipe(v.number(), v.integer(), v.minValue(min));
/** The checkpoint a config brings with it. Anything not known for certain is null, never a guess. */
export const catalogueCheckpointSchema = v.strictObject({
  /** `org/name` on the hub. */
  repo: v.pipe(v.string(), v.regex(/^[\w.-]+\/[\w.-]+$/)),
  /** The commit that was examined; null = `main`, resolved to a commit when the repository is inspected. */
  revision: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/))),
  /** The repository's page. */
  link: https,
  license: v.strictObject({
    /** An SPDX id or the hub's own; null if none is known. */
    id: v.nullable(v.pipe(v.string(), v.nonEmpty())),
    link: v.nullable(https),
    /** A rough idea of what it allows; the licence text decides. */
    kind: v.picklist(['permissive', 'share_alike', 'use_restricted', 'non_commercial', 'unknown']),
  }),
  /** Size of the files that a picture from words needs. */
  bytes: v.nullable(whole(1)),
  /** Parameters of all its networks. */
  parameters: v.nullable(whole(1)),
  /** Whether revision, licence, bytes and a picture were checked against the repository itself. */
  verified: v.boolean(),
  /** A sentence saying what could not be checked; null once verified. */
  unverified: v.nullable(localized),
  recommended: v.strictObject({
    /** Of pictures. */
    width: v.optional(whole(16)),
    height: v.optional(whole(16)),
    steps: whole(1),
    guidance_scale: v.pipe(v.number(), v.minValue(0)),
  }),
  description: localized,
  /** Who it is for. */
  audience: localized,
});

/** Marks the place of the person's words in a config's template; `___` marks blanks for them to fill. */
export const BLANK = '{words}';

const template = v.pipe(
  localized,
  v.check(
    (texts) => Object.values(texts).every((text) => text.split(BLANK).length === 2),
    `A template holds ${BLANK} once in each language.`,
  ),
);

const size = v.tuple([whole(16), whole(16)]);

/** Sizes that a family of checkpoints does well. A config without any has those of another one whose main step has the same chunk. */
export const sizesSchema = v.strictObject({
  /** Widths and heights in pixels: lists for checkpoints that were trained at about the area of the first of the list. */
  buckets: v.pipe(v.array(v.pipe(v.array(size), v.minLength(1))), v.minLength(1)),
  /** Where any area will do: those to offer the sizes at, in 1024×1024 pixels, and what the sides are multiples of. */
  scaled: v.optional(
    v.strictObject({ megapixels: v.array(v.pipe(v.number(), v.minValue(0.1), v.maxValue(8))), multiple: whole(1) }),
  ),
});

/** A config file; its name is its id. */
export const configFileSchema = v.strictObject({
  ...configEntries,
  sizes: v.optional(sizesSchema),
  /** The rule as text with blanks, to fill in by hand when there is no language model. */
  template: v.optional(template),
  /** The checkpoint it brings; null if it runs any checkpoint of its family, or none at all. */
  checkpoint: v.nullable(catalogueCheckpointSchema),
});

export type CatalogueCheckpoint = v.InferOutput<typeof catalogueCheckpointSchema>;
export type ConfigFile = v.InferOutput<typeof configFileSchema>;
