/**
 * Plan before running: which chunks, with which values, on which checkpoint; then, given an estimate, in which variant of its
 * weights, whether that fits and how long it takes; or typed reasons why not.
 * Pure: the same answer for the page before a download and for the worker before a run.
 */
import * as v from 'valibot';
import type { ChunkContract } from './chunk.ts';
import type { ErrorCode } from './errors.ts';
import { StudioError } from './errors.ts';
import type { DeviceReport, ResumePoint } from './job.ts';
import { WEIGHT_VARIANTS } from './model.ts';
import type { CheckpointSummary, Estimate, EstimateRequest, WeightVariant } from './model.ts';
import type { Operation } from './operation.ts';
import { parse } from './operation.ts';

export interface Pipeline {
  name: string;
  /** Chunk ids in order; `{{NAME}}` is an open place that a config fills by its parameter of that name. */
  chunks: string[];
}

const localized = v.strictObject({ en: v.pipe(v.string(), v.nonEmpty()), de: v.pipe(v.string(), v.nonEmpty()) });
const https = v.pipe(v.string(), v.url(), v.startsWith('https://'));
const whole = (min: number) => v.pipe(v.number(), v.integer(), v.minValue(min));

/** A checkpoint that a config brings. What is not known for certain is null, never a guess. */
export const catalogueCheckpointSchema = v.strictObject({
  /** `org/name` on the hub. */
  repo: v.pipe(v.string(), v.regex(/^[\w.-]+\/[\w.-]+$/)),
  /** The commit it was seen at; null = its `main`, which a look resolves to a commit. */
  revision: v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{40}$/))),
  /** The repository's page. */
  link: https,
  license: v.strictObject({
    /** SPDX id or the hub's own; null where the repository is not known to name one. */
    id: v.nullable(v.pipe(v.string(), v.nonEmpty())),
    link: v.nullable(https),
    /** What it allows, roughly; the text decides. */
    kind: v.picklist(['permissive', 'share_alike', 'use_restricted', 'non_commercial', 'unknown']),
  }),
  /** Of the files that a picture from words needs. */
  bytes: v.nullable(whole(1)),
  /** Of its networks together. */
  parameters: v.nullable(whole(1)),
  /** Whether revision, licence, bytes and a picture were checked against the repository itself. */
  verified: v.boolean(),
  /** What could not be checked, as a sentence; null once it is verified. */
  unverified: v.nullable(localized),
  recommended: v.strictObject({
    width: whole(16),
    height: whole(16),
    steps: whole(1),
    guidance_scale: v.pipe(v.number(), v.minValue(0)),
  }),
  description: localized,
  /** Whom it suits. */
  audience: localized,
});

/** A config file, without its id, which is its name. */
export const configSchema = v.strictObject({
  name: v.record(v.string(), v.string()),
  pipeline: v.string(),
  media: v.literal('image'),
  parameters: v.record(v.string(), v.unknown()),
  /** The checkpoint it brings, or null for one that takes any checkpoint of its family. */
  checkpoint: v.nullable(catalogueCheckpointSchema),
});

export type CatalogueCheckpoint = v.InferOutput<typeof catalogueCheckpointSchema>;
export type Config = v.InferOutput<typeof configSchema> & { id: string };

export interface Catalogue {
  pipelines: Record<string, Pipeline>;
  configs: Record<string, Config>;
  chunks: Record<string, ChunkContract>;
}

export interface Plan {
  operation: Operation;
  config: string;
  pipeline: string;
  chunks: { id: string; parameters: Record<string, unknown> }[];
  checkpoint: string;
  /** How its weights are run; `full` until {@link fit} chose. */
  variant: WeightVariant;
  /** The most bytes on the device at once; before {@link fit} its weights in full precision. */
  memoryBytes: number;
  /** Bytes to fetch before it can run; null until {@link fit} said. */
  downloadBytes: number | null;
  /** Without loading; null where nothing was measured yet. */
  seconds: number | null;
  /** What was chosen for the person, as whole sentences. */
  notices: string[];
}

export interface Refusal {
  code: ErrorCode;
  message: string;
}

export type PlanResult = { ok: true; plan: Plan } | { ok: false; reasons: Refusal[] };

const OPEN_PLACE = /^\{\{([A-Z_]+)\}\}$/;

/**
 * @param checkpoint the summary of the operation's checkpoint, or null when none could be opened
 * @param device what the engine runs on, or null when it is not known yet (then fitting is not judged)
 * @param settled parameters by chunk that an earlier attempt at this operation ran with; they come before all others
 */
export function plan(
  operation: Operation,
  catalogue: Catalogue,
  checkpoint: CheckpointSummary | null,
  device: DeviceReport | null,
  settled: ResumePoint['parameters'] = {},
): PlanResult {
  const reasons: Refusal[] = [];
  const refuse = (code: ErrorCode, message: string) => {
    reasons.push({ code, message });
  };

  const config = own(catalogue.configs, operation.config);
  if (!config) {
    const known = Object.keys(catalogue.configs).join(', ');
    refuse('invalid_operation', `There is no config "${operation.config}"; the configs here are: ${known}.`);
    return { ok: false, reasons };
  }
  const pipeline = own(catalogue.pipelines, config.pipeline);
  if (!pipeline) {
    refuse('internal', `The config "${config.id}" names the pipeline "${config.pipeline}", which does not exist.`);
    return { ok: false, reasons };
  }

  const chunks: Plan['chunks'] = [];
  for (const place of pipeline.chunks) {
    const id = chunkId(place, config.parameters);
    const contract = own(catalogue.chunks, id);
    if (!contract) {
      refuse('internal', `The pipeline "${pipeline.name}" needs the chunk "${id}", which does not exist.`);
      continue;
    }
    if (!contract.meta.operations.includes(operation.operation)) {
      refuse('invalid_operation', `The config "${config.id}" cannot do ${operation.operation}.`);
      continue;
    }
    if (contract.meta.pipelineClasses.length > 0) {
      if (!checkpoint) {
        refuse('checkpoint_incomplete', 'No checkpoint is chosen; pick one first.');
      } else if (!contract.meta.pipelineClasses.includes(checkpoint.pipelineClass)) {
        refuse(
          'checkpoint_unsupported',
          `"${checkpoint.name}" is a ${checkpoint.pipelineClass}, which the config "${config.id}" cannot run; choose a checkpoint of the family ${contract.meta.pipelineClasses.join(' or ')}.`,
        );
      }
    }
    try {
      // Unset values fall back from the operation to the checkpoint's own habit, then to the config, then to the chunk.
      const values = {
        ...closed(config.parameters),
        ...habits(checkpoint, contract),
        ...operation.parameters,
        ...own(settled, id),
      };
      const input = parse(contract.parameters, { ...values, operation: operation.operation }, 'The parameter object');
      chunks.push({ id, parameters: input as Record<string, unknown> });
      const { weights } = input as { weights?: unknown };
      if (checkpoint && isVariant(weights) && !checkpoint.variants.includes(weights)) {
        refuse(
          'invalid_operation',
          `"${checkpoint.name}" cannot be run with weights of the kind "${weights}", only ${checkpoint.variants.join(', ')}; leave weights at auto.`,
        );
      }
    } catch (error) {
      const refusal = StudioError.from(error);
      refuse(refusal.code, refusal.message);
    }
  }

  if (checkpoint && device?.limits) {
    const biggest = checkpoint.largestTensorBytes;
    const limit = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);
    if (biggest > limit) {
      refuse(
        'does_not_fit',
        `"${checkpoint.name}" has a tensor of ${mebibytes(biggest)} MiB, but this GPU takes at most ${mebibytes(limit)} MiB in one buffer; choose a smaller checkpoint, or run it with ?backend=wasm.`,
      );
    }
  }

  if (reasons.length > 0) {
    return { ok: false, reasons };
  }
  return {
    ok: true,
    plan: {
      operation,
      config: config.id,
      pipeline: pipeline.name,
      chunks,
      checkpoint: checkpoint?.ref ?? '',
      variant: checkpoint?.variants[0] ?? 'full',
      memoryBytes: checkpoint?.memoryBytes ?? 0,
      downloadBytes: null,
      seconds: null,
      notices: [],
    },
  };
}

/**
 * What a plan asks of the device, for the estimate that {@link fit} judges; null for a plan that runs no checkpoint.
 * @param picture the size of the picture that the operation starts from, where there is one
 */
export function estimateRequest(
  { operation, chunks }: Plan,
  checkpoint: CheckpointSummary,
  picture: { width: number; height: number } | null = null,
): EstimateRequest | null {
  const parameters = chunks.map((chunk) => chunk.parameters).find(({ steps }) => typeof steps === 'number');
  if (!parameters) {
    return null;
  }
  const number = (name: string, otherwise: number): number => {
    const value = parameters[name];
    return typeof value === 'number' ? value : otherwise;
  };
  const usual = picture ?? checkpoint.defaults;
  const { guidance_mode: mode, strength, tile_size: tile, weights } = parameters;
  return {
    operation: operation.operation,
    width: number('width', usual.width),
    height: number('height', usual.height),
    batch_size: number('batch_size', 1),
    steps: number('steps', 1),
    guidance_scale: number('guidance_scale', 1),
    ...(mode === 'batched' || mode === 'serial' ? { guidance_mode: mode } : {}),
    ...(typeof strength === 'number' ? { strength } : {}),
    ...(typeof tile === 'number' ? { tile_size: tile } : {}),
    ...(isVariant(weights) ? { weights } : {}),
  };
}

/**
 * Chooses the variant that the device can hold: full precision, else 8 bits, else 4, and says so in a notice.
 * @param inDoubt what happens when only a guess of the device's memory speaks against it: before a download it is a refusal, for
 *   weights that are here a notice, because the guess may be wrong and trying costs little
 */
export function fit(
  plan: Plan,
  checkpoint: CheckpointSummary,
  estimate: Estimate,
  inDoubt: 'refuse' | 'warn' = 'refuse',
): PlanResult {
  const here = estimate.variants.filter(({ runsHere }) => runsHere);
  const possible = here.filter(({ misfit }) => misfit === null || (misfit.guessed && inDoubt === 'warn'));
  // Among those beyond the guess the smallest has the best chance.
  const chosen = possible.find(({ misfit }) => misfit === null) ?? possible.at(-1);
  if (!chosen) {
    const [first] = here.flatMap(({ misfit }) => (misfit ? [misfit] : []));
    if (!first) {
      return { ok: false, reasons: [{ code: 'checkpoint_unsupported', message: nothingRuns(checkpoint) }] };
    }
    return { ok: false, reasons: [{ code: first.code, message: `${first.message} ${wayOut(estimate)}` }] };
  }
  const notices = [...plan.notices];
  if (chosen.variant !== 'full' && here[0].variant === 'full') {
    notices.push(
      `"${checkpoint.name}" runs with weights of ${BITS[chosen.variant]} bits, because in full precision it needs about ${gibibytes(here[0].memory.peak)} GiB and ${budget(estimate)}.`,
    );
  }
  if (chosen.misfit) {
    notices.push(
      `This needs about ${gibibytes(chosen.memory.peak)} GiB and ${budget(estimate)}, so it may fail; a smaller size needs less.`,
    );
  }
  return {
    ok: true,
    plan: {
      ...plan,
      variant: chosen.variant,
      memoryBytes: chosen.memory.peak,
      downloadBytes: estimate.downloadBytes,
      seconds: chosen.seconds,
      notices,
    },
  };
}

const BITS = { full: 0, q8: 8, q4: 4 } as const;

function nothingRuns({ name }: CheckpointSummary): string {
  return `"${name}" cannot be run on this device in any precision; choose another checkpoint.`;
}

/** What would fit, as one sentence. */
function wayOut({ request, smaller, budget: { source }, variants }: Estimate): string {
  const ways: string[] = [];
  if (smaller) {
    ways.push(`choose ${smaller.width}×${smaller.height} pixels`);
  }
  if (request.batch_size > 1) {
    ways.push('make fewer pictures at a time');
  }
  ways.push('choose a smaller checkpoint');
  if (source === 'guess' && variants.some(({ misfit }) => misfit?.guessed)) {
    ways.push('say how much memory your GPU has, if it is more than that');
  }
  const sentence = ways.length > 1 ? `${ways.slice(0, -1).join(', ')} or ${ways[ways.length - 1]}` : ways[0];
  return `${sentence.charAt(0).toUpperCase()}${sentence.slice(1)}.`;
}

function budget({ budget: { bytes, source } }: Estimate): string {
  return source === 'set'
    ? `the memory set for the GPU is ${gibibytes(bytes)} GiB`
    : `this device is guessed to have ${gibibytes(bytes)} GiB for it`;
}

/** With one digit after the point, and never 0. */
export function gibibytes(bytes: number): string {
  return Math.max(0.1, bytes / 2 ** 30).toFixed(1);
}

function isVariant(value: unknown): value is WeightVariant {
  return WEIGHT_VARIANTS.some((variant) => variant === value);
}

/** A name from outside must not reach `Object.prototype`. */
function own<T>(record: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

/** The chunks that a config runs, in order, as far as they exist. */
export function chunksOf({ pipeline, parameters }: Config, { pipelines, chunks }: Catalogue): ChunkContract[] {
  return (own(pipelines, pipeline)?.chunks ?? []).flatMap((place) => {
    const contract = own(chunks, chunkId(place, parameters));
    return contract ? [contract] : [];
  });
}

/** The chunk in one place of a pipeline; an open place is filled by the config's value. */
function chunkId(place: string, parameters: Record<string, unknown>): string {
  const open = OPEN_PLACE.exec(place);
  return open ? String(parameters[open[1]]) : place;
}

/** A config's values without the names that fill open places. */
export function closed(parameters: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(parameters).filter(([name]) => !/^[A-Z_]+$/.test(name)));
}

/** What the checkpoint itself says of how it is best run, as far as the chunk has a use for it. */
function habits(checkpoint: CheckpointSummary | null, contract: ChunkContract): Record<string, unknown> {
  const { steps, guidance_scale } = checkpoint?.defaults ?? {};
  const known = (contract.parameters as { entries?: Record<string, unknown> }).entries ?? {};
  return Object.fromEntries(
    Object.entries({ steps, guidance_scale }).filter(([name, value]) => value !== undefined && name in known),
  );
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}
