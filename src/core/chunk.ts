/**
 * A chunk is one executable unit in one file of `chunks/`: its contract (`meta`, `parameters`) and its execution.
 * The page imports only `meta` and `parameters`; a worker loads `execute` when it is asked for.
 */
import type * as v from 'valibot';
import type { ImageSource } from './parameters.ts';
import type { LoraUse } from './loras.ts';
import type { CheckpointRef, Model } from './model.ts';
import type { CpuTensor, Media, PixelImage } from './media.ts';
import type { OperationKind, Recordable } from './operation.ts';
import type { Stage } from './job.ts';

export interface ChunkMeta {
  /** Equals the file's name. */
  id: string;
  media: 'image';
  operations: readonly OperationKind[];
  /** `_class_name`s of the `model_index.json` files that it runs; empty = it needs no checkpoint. */
  pipelineClasses: readonly string[];
  /** Entity types that it always records between its parameters and its result, such as the text that was really encoded. */
  records?: readonly string[];
}

/** The generic abilities that a chunk is handed; it imports no engine, queue or store. */
export interface Context {
  operation: OperationKind;
  checkpoint: CheckpointRef;
  /**
   * `loras` are merged into the model's weights, and no others. Throws `invalid_operation` for one that is not stored,
   * `checkpoint_unsupported` for one of another kind of model.
   */
  models: { load(ref: CheckpointRef, loras?: readonly LoraUse[]): Promise<Model> };
  /**
   * Decodes a picture parameter. All but masks are opaque: they lie on the parameter `background`, or on white. Throws
   * `image_unreadable`.
   */
  readImage: (source: ImageSource, name: string) => Promise<PixelImage>;
  progress: (stage: Stage, step?: number, steps?: number) => void;
  /**
   * What this chunk last gave to {@link keep} in an attempt that was broken off; null when it begins anew. The parameters are then those
   * of that attempt. It has been in a database meanwhile, so the chunk reads it as foreign data.
   */
  resume: unknown;
  /**
   * Keeps what the chunk needs to go on from here with the same result, in place of what it kept before; survives structured clone. Call
   * it as often as there is something finished; it never waits.
   */
  keep: (state: unknown) => void;
  /** The canvas that somebody watches, asked for anew at every step; null when nobody does. */
  preview: () => OffscreenCanvas | null;
  /** One sentence for the person, such as a prompt that was cut; also kept in the recording. */
  notice: (message: string) => void;
  /** What the caller asked to have recorded beside the result. */
  wants: (what: Recordable) => boolean;
  /** Records one entity of this run. Values: objects become JSON, strings text, Blobs their own type. */
  record: (entityType: string, content: Blob | string | object, metadata?: Record<string, unknown>) => Promise<string>;
  /** Records named tensors as one safetensors file. */
  recordTensors: (
    entityType: string,
    tensors: Record<string, CpuTensor>,
    metadata?: Record<string, unknown>,
  ) => Promise<string>;
  signal: AbortSignal;
}

export interface Chunk<S extends v.GenericSchema = v.GenericSchema> {
  meta: ChunkMeta;
  /** Parsed with the operation's kind as the field `operation`, so that a schema can ask for a picture or a mask. */
  parameters: S;
  execute: (input: v.InferOutput<S>, context: Context) => Promise<Media>;
}

/** What the page and the planner know of a chunk. */
export interface ChunkContract {
  meta: ChunkMeta;
  parameters: v.GenericSchema;
}
