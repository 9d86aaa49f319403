/**
 * A chunk is one executable unit in one file of `chunks/`: its contract (`meta`, `parameters`) and its execution.
 * The page imports only `meta` and `parameters`; a worker loads `execute` when it is asked for.
 */
import type * as v from 'valibot';
import type { UsedAdditions } from './additions.ts';
import type { SoundPiece } from './job.ts';
import type { CpuTensor, PixelImage, Sound } from './media.ts';
import type { CheckpointRef, LatentUpsampler, Model, Upscaler } from './model.ts';
import type { Recordable } from './operation.ts';
import type { ImageSource, SoundSource } from './parameters.ts';
import type { MusicModel } from './music_model.ts';
import type { SongModel } from './song_model.ts';
import type { SoundModel } from './sound_model.ts';
import type { StepSpeech } from './speech_service.ts';
import type { StepText } from './text_service.ts';
import type { VideoRequest, VideoWriter } from './video.ts';

export interface ChunkMeta {
  /** The file's name. */
  id: string;
  /** The medium of its result: a file of `src/media`. */
  media: string;
  /** The kinds of operations it can carry out; a kind exists once a chunk declares it. */
  operations: readonly string[];
  needs: Needs;
  /** Its stages, in order; the source of progress, estimates and the page's wording. */
  stages: readonly StageDeclaration[];
  /** The outputs of {@link Chunk.execute}, by name, which later steps are wired to. */
  outputs: Readonly<Record<string, OutputDeclaration>>;
  /** Receives input pictures with their transparency; absent = they are flattened onto a background first. */
  keepsTransparency?: boolean;
  /** Entity types that it always records beside its result, such as the text that was actually encoded. */
  records?: readonly string[];
}

export interface Needs {
  /** Whether it waits for the GPU; chunks that don't need it run in parallel. */
  gpu: boolean;
  /** The `_class_name`s (in `model_index.json`) that it can run; absent = it needs no checkpoint. */
  checkpoint?: readonly string[];
  /**
   * Parameters whose value may be the ref of a further checkpoint, see `further_checkpoints.ts`, and the `_class_name`s that it may be of. It is
   * asked for by its ref.
   */
  further?: Readonly<Record<string, readonly string[]>>;
  /** The service of the language engine that it uses, see {@link ContextOf}. Its checkpoint is named by the operation, by step. */
  language?: 'text' | 'speech';
  /** The engine of `src/engines` that it uses. */
  remote?: string;
  /**
   * Whether that engine itself gives each server one job at a time. Then one job more than there are servers is handed to it, so that no
   * server stands idle while the result of another job is fetched and recorded.
   */
  standsBy?: boolean;
}

export interface StageDeclaration {
  id: string;
  /** For the person, such as "Reading your words". */
  label: { en: string; de: string };
  /** What its steps are called; absent for a stage without steps. Estimates of a job's time come from the stages with steps. */
  unit?: 'steps' | 'tokens' | 'frames' | 'tiles';
  /** Its length before anything was measured, in steps of the counted stage; 1 by default. */
  weight?: number;
}

export interface OutputDeclaration {
  medium: string;
  /** The output is a list. */
  many?: boolean;
  /** The entity type it is recorded as when its step is the last; `output_<medium>` by default. */
  entity?: string;
}

/** Everything a chunk may use. It imports no engine, queue or store. */
export interface Context {
  /** The kind of operation this step carries out. */
  operation: string;
  /** The ref of the checkpoint that this step runs; empty for a chunk that needs none. */
  checkpoint: CheckpointRef;
  /**
   * Uses exactly these additions beside the model: LoRAs are merged into its weights, ControlNets and IP-Adapters lead it. Throws
   * `invalid_operation` for one that is not stored, `checkpoint_unsupported` for one of another kind of model.
   */
  models: {
    load(ref: CheckpointRef, additions?: UsedAdditions): Promise<Model>;
    loadUpscaler(ref: CheckpointRef): Promise<Upscaler>;
    loadLatentUpsampler(ref: CheckpointRef): Promise<LatentUpsampler>;
    loadSoundModel(ref: CheckpointRef): Promise<SoundModel>;
    loadMusicModel(ref: CheckpointRef): Promise<MusicModel>;
    loadSongModel(ref: CheckpointRef): Promise<SongModel>;
  };
  /**
   * Decodes a picture parameter. Unless the chunk `keepsTransparency`, all pictures but masks are flattened onto the parameter
   * `background`, or onto white. Throws `image_unreadable`.
   */
  readImage: (source: ImageSource, name: string) => Promise<PixelImage>;
  /** Decodes a sound parameter, at `rate` samples per second. Throws `media_unreadable`. */
  readSound: (source: SoundSource, rate: number) => Promise<Sound>;
  /** @param stage one that the chunk declares */
  progress: (stage: string, step?: number, steps?: number) => void;
  /**
   * Tells the person which machine runs the step, until the step ends.
   * @param ahead jobs before this one there
   */
  place: (server: string, ahead: number) => void;
  /**
   * Shows words as they are written; the result is what `execute` returns.
   * @param thinking whether they are a model's thoughts, which are shown separately
   */
  delta: (text: string, thinking?: boolean) => void;
  /** Plays a sound while it is being made, to whoever wants to hear it: each sample once and in order. The result is what `execute` returns. */
  sound: (piece: Omit<SoundPiece, 'step'>) => void;
  /**
   * What this chunk last passed to {@link keep} in an interrupted attempt, whose parameters it then has again; null on a fresh start. It
   * was stored in between, so the chunk must validate it.
   */
  resume: unknown;
  /**
   * Saves what the chunk needs to continue from here with the same result, replacing what it saved before. The value must survive
   * structured clone. Call it whenever something is finished; it never blocks.
   */
  keep: (state: unknown) => void;
  /** The canvas on screen; ask again at every step. Null when nobody is watching. */
  preview: () => OffscreenCanvas | null;
  /** Shows an unfinished picture from another machine if somebody is watching. */
  develop: (picture: Blob) => void;
  /** Tells the person something in one sentence, such as that a prompt was cut; also recorded. */
  notice: (message: string) => void;
  /** What the caller wants recorded beside the result. */
  wants: (what: Recordable) => boolean;
  /** Records one entity of this run: objects as JSON, strings as text, Blobs as their own type. */
  record: (entityType: string, content: Blob | string | object, metadata?: Record<string, unknown>) => Promise<string>;
  /**
   * Like `record`, for what nothing waits for: the disk works beside the chunk. What goes wrong ends the step at its next progress, and the step's
   * outputs are recorded after it.
   */
  recordBeside: (entityType: string, content: Blob | string | object, metadata?: Record<string, unknown>) => void;
  /** Begins a video. Throws `invalid_operation` for a format that is not encoded here. */
  writeVideo: (request: VideoRequest) => Promise<VideoWriter>;
  /**
   * Records what there is so far of an output, as results are recorded, when the step ends without it: cancelled half way for instance.
   * @param output as the chunk declares it
   */
  keepPart: (output: string, value: unknown) => Promise<void>;
  /** Records named tensors as one safetensors file. */
  recordTensors: (
    entityType: string,
    tensors: Record<string, CpuTensor>,
    metadata?: Record<string, unknown>,
  ) => Promise<string>;
  /**
   * A key that the person entered, such as one for a service. A chunk must neither return nor record it. Throws `invalid_operation` if
   * there is none of this name.
   */
  secret: (name: string) => Promise<string>;
  /** Opens the engine that `needs.remote` names and returns its interface, which the core defines. Throws the engine's own errors. */
  engine: () => Promise<unknown>;
  signal: AbortSignal;
}

/**
 * The context of a chunk with this meta, including a language service if it `needs` one. Write
 * `context: ContextOf<typeof meta>`.
 */
export type ContextOf<M extends ChunkMeta> = Context &
  (M['needs'] extends { language: 'text' }
    ? { text: StepText }
    : M['needs'] extends { language: 'speech' }
      ? { speech: StepSpeech }
      : unknown);

/** A step's outputs, by the names its chunk declares: a value of the output's medium (`media.ts`), or a list of them. */
export type Outputs = Record<string, unknown>;

export interface Chunk<S extends v.GenericSchema = v.GenericSchema> {
  meta: ChunkMeta;
  /** Parsed with the operation's kind as the field `operation`, so a schema can require a picture or a mask. */
  parameters: S;
  execute: (input: v.InferOutput<S>, context: Context) => Promise<Outputs>;
}

/** What the page and the planner know of a chunk. */
export interface ChunkContract {
  meta: ChunkMeta;
  parameters: v.GenericSchema;
}
