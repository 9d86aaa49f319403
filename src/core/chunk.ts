/**
 * A chunk is one executable unit in one file of `chunks/`: its contract (`meta`, `parameters`) and its execution.
 * The page imports only `meta` and `parameters`; a worker loads `execute` when it is asked for.
 */
import type * as v from 'valibot';
import type { LoraUse } from './loras.ts';
import type { CpuTensor, PixelImage } from './media.ts';
import type { CheckpointRef, Model } from './model.ts';
import type { Recordable } from './operation.ts';
import type { ImageSource } from './parameters.ts';
import type { StepSpeech } from './speech_service.ts';
import type { StepText } from './text_service.ts';

export interface ChunkMeta {
  /** Equals the file's name. */
  id: string;
  /** The medium of its result: a file of `src/media`. */
  media: string;
  /** Kinds of operations that it can carry out. The kinds that exist are those that chunks declare. */
  operations: readonly string[];
  needs: Needs;
  /** What it goes through, in order. Progress, estimates and the page's words come from here. */
  stages: readonly StageDeclaration[];
  /** What {@link Chunk.execute} gives, by name; later steps are wired to it. */
  outputs: Readonly<Record<string, OutputDeclaration>>;
  /** Entity types that it always records between its parameters and its result, such as the text that was really encoded. */
  records?: readonly string[];
}

export interface Needs {
  /** Whether it waits for the GPU's turn. What needs no GPU runs beside what does. */
  gpu: boolean;
  /** `_class_name`s of the `model_index.json` files that it runs; absent = it needs no checkpoint. */
  checkpoint?: readonly string[];
  /** The service of the language engine that it uses, see {@link ContextOf}. Its checkpoint is named by the operation, by step. */
  language?: 'text' | 'speech';
  /** The engine of `src/engines` that it uses. */
  remote?: string;
}

export interface StageDeclaration {
  id: string;
  /** For the person, such as "Reading your words". */
  label: { en: string; de: string };
  /** What its steps are; absent for a stage that is not counted through. Counted stages carry the time that a job is expected to take. */
  unit?: 'steps' | 'tokens' | 'frames';
  /** Its share of the time before anything was measured, in steps of the counted stage; 1 where nothing is said. */
  weight?: number;
}

export interface OutputDeclaration {
  medium: string;
  /** It gives a list of them. */
  many?: boolean;
  /** The entity type that it is recorded as when its step is the last; `output_<medium>` where nothing is said. */
  entity?: string;
}

/** The generic abilities that a chunk is handed; it imports no engine, queue or store. */
export interface Context {
  /** The kind that this step carries out. */
  operation: string;
  /** The ref of the checkpoint that this step runs; empty for a chunk that needs none. */
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
  /** @param stage one of those that the chunk declares */
  progress: (stage: string, step?: number, steps?: number) => void;
  /**
   * Shows words while they come into being; the result is what `execute` returns.
   * @param thinking whether they are a model's thoughts, which are shown apart
   */
  delta: (text: string, thinking?: boolean) => void;
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
  /** Shows a picture while it comes into being on another machine, where somebody watches. */
  develop: (picture: Blob) => void;
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
  /**
   * A key that the person entered, such as that of a service. It is never part of an operation and never recorded, so a chunk must neither return
   * nor record it. Throws `invalid_operation` when there is none of this name.
   */
  secret: (name: string) => Promise<string>;
  /** Opens the engine that `needs.remote` names; what it gives is an interface of the core. Throws the engine's own sentences. */
  engine: () => Promise<unknown>;
  signal: AbortSignal;
}

/**
 * What a chunk of this meta is handed: with a service of the language engine where it `needs` one. Write
 * `context: ContextOf<typeof meta>`.
 */
export type ContextOf<M extends ChunkMeta> = Context &
  (M['needs'] extends { language: 'text' }
    ? { text: StepText }
    : M['needs'] extends { language: 'speech' }
      ? { speech: StepSpeech }
      : unknown);

/** What a step gives, by the names that its chunk declares: a value of the output's medium (`media.ts`), or a list of them. */
export type Outputs = Record<string, unknown>;

export interface Chunk<S extends v.GenericSchema = v.GenericSchema> {
  meta: ChunkMeta;
  /** Parsed with the operation's kind as the field `operation`, so that a schema can ask for a picture or a mask. */
  parameters: S;
  execute: (input: v.InferOutput<S>, context: Context) => Promise<Outputs>;
}

/** What the page and the planner know of a chunk. */
export interface ChunkContract {
  meta: ChunkMeta;
  parameters: v.GenericSchema;
}
