/**
 * What doors can ask beside jobs: the engine's state, preparing and freeing it, and looking at, fetching and removing checkpoints.
 * Answered by the tab that serves the channel, and loaded on the first question.
 */
import * as v from 'valibot';
import { additionOf, additionPlace, type Addition } from '../core/additions.ts';
import { BUILTIN_CHECKPOINTS, BUILTIN_UPSCALER } from '../core/builtin_checkpoints.ts';
import { StudioError } from '../core/errors.ts';
import { WEIGHT_VARIANTS, type CheckpointSummary, type WeightVariant } from '../core/model.ts';
import { parse, parseOperation } from '../core/operation.ts';
import type { AdditionFacts, License, Listing, StoredCheckpoint } from '../weights/library/library_api.ts';
import type { JobClient } from './client.ts';
import type { EngineQuestion } from './engine_questions.ts';
import { needsOf } from './needs.ts';

/** A checkpoint that operations can name. */
export interface CheckpointReport {
  ref: string;
  name: string;
  kind: StoredCheckpoint['kind'];
  variant: WeightVariant;
  /** `builtin` comes with the page and cannot be removed. */
  state: 'builtin' | StoredCheckpoint['state'];
  bytes: number | null;
  storedBytes: number | null;
  license: License['id'];
  /** Why its download failed; null if it did not, or was stopped on request. */
  error: string | null;
}

/** A LoRA or another file that operations can use beside a checkpoint. */
export interface AdditionReport extends Omit<CheckpointReport, 'kind' | 'variant' | 'state'> {
  kind: Addition;
  state: StoredCheckpoint['state'];
}

/** A checkpoint at its origin; only configs and headers were fetched. */
export interface CheckpointLook {
  ref: string;
  name: string;
  license: License;
  gated: boolean;
  pipeline_class: string;
  parameters: number;
  /** To fetch. */
  bytes: number;
  variants: readonly WeightVariant[];
  defaults: CheckpointSummary['defaults'];
}

/** A repository or address that holds no checkpoint, but files that are used beside one. */
export interface AdditionLook extends Pick<CheckpointLook, 'ref' | 'name' | 'license' | 'gated' | 'bytes'> {
  pipeline_class: null;
  additions: (AdditionFacts & { path: string; bytes: number })[];
}

const origin = {
  /** `org/name` on the hub. */
  repo: v.optional(v.pipe(v.string('repo must be text.'), v.regex(/^[\w.-]+\/[\w.-]+$/, 'repo must be org/name.'))),
  revision: v.optional(v.string('revision must be text.')),
  url: v.optional(v.pipe(v.string('url must be text.'), v.url('url must be an address.'))),
  /** For a gated repository; used for this request only. */
  token: v.optional(v.string('token must be text.')),
};
const oneOrigin = 'Say either repo or url.';
const hasOneOrigin = ({ repo, url }: { repo?: string; url?: string }) => (repo === undefined) !== (url === undefined);

const questions = {
  engine: v.strictObject({}),
  prepare: v.strictObject({ operation: v.unknown() }),
  unload: v.strictObject({}),
  checkpoints: v.strictObject({}),
  look: v.pipe(
    v.strictObject({
      ...origin,
      /** The ref of one, with which LoRAs found there are compared. */
      checkpoint: v.optional(v.string('checkpoint must be the ref of a checkpoint.')),
    }),
    v.check((asked) => hasOneOrigin(asked), oneOrigin),
  ),
  fetch: v.pipe(
    v.strictObject({
      ...origin,
      variant: v.optional(v.picklist(WEIGHT_VARIANTS, `variant must be one of ${WEIGHT_VARIANTS.join(', ')}.`), 'full'),
      /** Of a LoRA or another addition there, which is fetched in place of a checkpoint. */
      path: v.optional(v.string('path must be text.')),
      accept_license: v.optional(v.boolean('accept_license must be true or false.'), false),
    }),
    v.check((asked) => hasOneOrigin(asked), oneOrigin),
    v.check(
      ({ path, variant }) => path === undefined || variant === 'full',
      'variant is for checkpoints; what is used beside one is kept as it is.',
    ),
  ),
  remove: v.strictObject({ ref: v.string('ref must be the ref of a checkpoint.') }),
} satisfies Record<EngineQuestion, v.GenericSchema>;

type Asked<Q extends EngineQuestion> = v.InferOutput<(typeof questions)[Q]>;

/** The part of the page's client used here. */
export type DeskClient = Pick<JobClient, 'engineState' | 'prepare' | 'unload' | 'describe' | 'summaryOf' | 'library'>;

/** @throws StudioError, `invalid_operation` for what is not understood */
export async function answerEngine(client: DeskClient, type: EngineQuestion, asked: unknown): Promise<unknown> {
  const given = parse(questions[type], asked, 'The request');
  switch (type) {
    case 'engine':
      return client.engineState();
    case 'prepare': {
      const operation = parseOperation((given as Asked<'prepare'>).operation);
      if (!needsOf(operation).graphs) {
        throw new StudioError(
          'invalid_operation',
          'This operation runs no checkpoint of pictures, so there is nothing to prepare.',
        );
      }
      await client.prepare(operation);
      return client.engineState();
    }
    case 'unload':
      await client.unload();
      return client.engineState();
    case 'checkpoints':
      return stored(client);
    case 'look':
      return lookForAny(client, given as Asked<'look'>);
    case 'fetch':
      return { ref: await fetched(client, given as Asked<'fetch'>) };
    case 'remove': {
      const { ref } = given as Asked<'remove'>;
      if (!(await client.library.list()).some((one) => one.ref === ref)) {
        throw new StudioError('invalid_operation', `There is no checkpoint "${ref}" in the library.`);
      }
      await client.library.remove(ref);
      return stored(client);
    }
  }
}

async function stored({
  library,
}: DeskClient): Promise<{ checkpoints: CheckpointReport[]; additions: AdditionReport[] }> {
  const checkpoints = [...BUILTIN_CHECKPOINTS, BUILTIN_UPSCALER].map(({ id, name, license }): CheckpointReport => {
    const sizes = { bytes: null, storedBytes: null };
    return {
      ref: `builtin:${id}`,
      name,
      kind: 'image',
      variant: 'full',
      state: 'builtin',
      ...sizes,
      license: license.toLowerCase(),
      error: null,
    };
  });
  const additions: AdditionReport[] = [];
  for (const { ref, name, kind, variant, state, bytes, storedBytes, license, error } of await library.list()) {
    const report = { ref, name, state, bytes, storedBytes, license: license.id, error: error?.message ?? null };
    const addition = additionOf(ref);
    if (addition) {
      additions.push({ ...report, kind: addition });
    } else {
      checkpoints.push({ ...report, kind, variant });
    }
  }
  return { checkpoints, additions };
}

type At = Pick<Asked<'look'>, 'repo' | 'revision' | 'url' | 'token'>;

function listed({ library }: DeskClient, { repo, revision, url, token }: At): Promise<Listing> {
  const from =
    repo === undefined
      ? ({ kind: 'url', url: url ?? '' } as const)
      : ({ kind: 'hub', repo, revision: revision ?? null } as const);
  return library.look(from, token ?? null);
}

/** A checkpoint, else what is used beside one. */
async function lookForAny(client: DeskClient, asked: Asked<'look'>): Promise<CheckpointLook | AdditionLook> {
  const listing = await listed(client, asked);
  try {
    return (await look(client, listing, asked.token)).report;
  } catch (error) {
    const found = await lookForAdditions(client, listing, asked);
    if (found.additions.length === 0) {
      throw error;
    }
    return found;
  }
}

async function lookForAdditions(
  client: DeskClient,
  listing: Listing,
  { checkpoint, token }: Asked<'look'>,
): Promise<AdditionLook> {
  const { ref, name, license, gated, files } = listing;
  const additions: AdditionLook['additions'] = [];
  const wantedFor = checkpoint === undefined ? undefined : (await client.summaryOf(checkpoint)).loraFamilies;
  for (const { path, size } of files.filter((file) => /\.safetensors$/i.test(file.path))) {
    const request = { listing, path, token: token ?? null, wantedFor };
    const facts = await client.library.lookAtAddition(request).catch(() => null);
    if (facts) {
      additions.push({ path, bytes: size, ...facts });
    }
  }
  const bytes = additions.reduce((sum, one) => sum + one.bytes, 0);
  return { ref, name, license, gated, bytes, pipeline_class: null, additions };
}

async function look(
  client: DeskClient,
  listing: Listing,
  token: string | undefined,
): Promise<{ summary: CheckpointSummary; report: CheckpointLook }> {
  const summary = await client.describe(listing, token ?? null);
  const { ref, name, license, gated, files } = listing;
  const needed = new Set(summary.needs);
  const report = {
    ref,
    name,
    license,
    gated,
    pipeline_class: summary.pipelineClass,
    parameters: summary.parameters,
    bytes: files.filter(({ path }) => needed.has(path)).reduce((sum, { size }) => sum + size, 0),
    variants: summary.variants,
    defaults: summary.defaults,
  };
  return { summary, report };
}

/** Starts the download and returns what it will be called; the list shows its progress. */
async function fetched(client: DeskClient, asked: Asked<'fetch'>): Promise<string> {
  const { library } = client;
  const { path, variant, token = null } = asked;
  const listing = await listed(client, asked);
  if (path !== undefined) {
    if (!listing.files.some((file) => file.path === path)) {
      throw new StudioError('invalid_operation', `"${listing.name}" has no file "${path}".`);
    }
    const { kind } = await library.lookAtAddition({ listing, path, token });
    await requireLicense(client, listing, asked);
    library.downloadAddition({ listing, path, token }, () => undefined).catch(() => undefined);
    return `${kind}:${additionPlace(listing, path)}`;
  }
  const { summary, report } = await look(client, listing, asked.token);
  if (!summary.variants.includes(variant)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${listing.name}" cannot be kept as ${variant}; it can be ${summary.variants.join(' or ')}.`,
    );
  }
  await requireLicense(client, listing, asked);
  // The list shows a failure, like the page's library.
  library.download({ listing, paths: summary.needs, variant, token }, () => undefined).catch(() => undefined);
  return variant === 'full' ? report.ref : `${report.ref}#${variant}`;
}

async function requireLicense(
  { library }: DeskClient,
  { ref, name, license }: Listing,
  { accept_license: accepts }: Asked<'fetch'>,
): Promise<void> {
  if (!license.mustAccept || (await library.acceptedLicenses()).includes(ref)) {
    return;
  }
  if (!accepts) {
    throw new StudioError(
      'invalid_operation',
      `The licence of "${name}" is ${license.id ?? 'not stated'}${license.link ? ` (${license.link})` : ''}; read it, then say accept_license: true.`,
    );
  }
  await library.acceptLicense(ref);
}
