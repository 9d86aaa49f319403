/**
 * Plan before running: which chunks, with which values, on which checkpoint, and whether it fits; or typed reasons why not.
 * Pure: the same answer for the page before a download and for the worker before a run.
 */
import type { ChunkContract } from './chunk.ts';
import type { ErrorCode } from './errors.ts';
import { StudioError } from './errors.ts';
import type { DeviceReport } from './job.ts';
import type { CheckpointSummary } from './model.ts';
import type { Operation } from './operation.ts';
import { parse } from './operation.ts';

export interface Pipeline {
  name: string;
  /** Chunk ids in order; `{{NAME}}` is an open place that a config fills by its parameter of that name. */
  chunks: string[];
}

export interface Config {
  id: string;
  name: Record<string, string>;
  pipeline: string;
  media: 'image';
  parameters: Record<string, unknown>;
  /** Reference of the checkpoint it brings, or null for one that takes any checkpoint of its family. */
  checkpoint: string | null;
}

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
  /** Bytes on the device: weights as computed there. */
  memoryBytes: number;
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
 */
export function plan(
  operation: Operation,
  catalogue: Catalogue,
  checkpoint: CheckpointSummary | null,
  device: DeviceReport | null,
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
    const open = OPEN_PLACE.exec(place);
    const id = open ? String(config.parameters[open[1]]) : place;
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
      const values = { ...closed(config.parameters), ...habits(checkpoint, contract), ...operation.parameters };
      const input = parse(contract.parameters, { ...values, operation: operation.operation }, 'The parameter object');
      chunks.push({ id, parameters: input as Record<string, unknown> });
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
        'out_of_memory',
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
      memoryBytes: checkpoint?.memoryBytes ?? 0,
    },
  };
}

/** A name from outside must not reach `Object.prototype`. */
function own<T>(record: Record<string, T>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

/** A config's values without the names that fill open places. */
function closed(parameters: Record<string, unknown>): Record<string, unknown> {
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
