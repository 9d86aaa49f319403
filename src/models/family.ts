/** What a file of this folder exports: one family of checkpoints, opened from its files. The folder is the registry. */
import type { CheckedAddition } from '../core/additions.ts';
import { StudioError } from '../core/errors.ts';
import type { DeviceReport } from '../core/job.ts';
import type {
  Estimate,
  EstimateRequest,
  LatentUpsampler,
  MemoryBudget,
  Model,
  OpenedCheckpoint,
  Upscaler,
  WeightVariant,
} from '../core/model.ts';
import type { MusicModel } from '../core/music_model.ts';
import type { SongModel } from '../core/song_model.ts';
import type { SoundModel } from '../core/sound_model.ts';
import type { Engine } from '../engine/engine.ts';
import type { Loading } from '../engine/network_shelf.ts';
import type { Rates } from '../engine/self_measurement.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';
import { whatPartsAre } from '../weights/mmdit_parts.ts';

export interface OpenOptions {
  /** How linear layers' weights are stored on the device; weights that a file has quantised stay as they are. */
  weights: WeightVariant;
}

/** Circumstances of a run. */
export interface Circumstances {
  device: DeviceReport;
  budget: MemoryBudget;
  /** What is known about the device's speed. */
  rates: Rates;
  /** Bytes to download before it can run. */
  downloadBytes: number;
}

/** How fast blocks' weights come to the device, in bytes per second; null where networks run as a whole. */
export type Streaming = { perSecond: number } | null;

/** A LoRA to be merged into a model's weights. */
export interface ModelLora {
  /** Its one `.safetensors` file. */
  file: Blob;
  /** Names it for people, recordings and errors. */
  name: string;
  /** 1 = as trained; 0 = not at all; may be negative. */
  strength: number;
  /** The same for text encoders; absent = `strength`. */
  textStrength?: number | undefined;
  /** As in `LoraUse`. */
  blocks?: readonly number[] | undefined;
  start?: number | undefined;
  end?: number | undefined;
  /** In the library, for recordings. */
  ref?: string;
  /** SHA-256 of the file, if known without reading it. */
  sha256?: string | null;
}

/** A file that is used beside a model: a ControlNet, an IP-Adapter, a vision encoder for these. */
export interface ModelAddition {
  /** Its one `.safetensors` file. */
  file: Blob;
  /** Names it for people, recordings and errors. */
  name: string;
  /** In the library, for recordings. */
  ref?: string;
  /** Of the file, where it is known without reading it. */
  sha256?: string | null;
  /** How it is used, for recordings. */
  use?: Record<string, unknown>;
}

export interface ModelAdditions {
  controlnets: readonly ModelAddition[];
  ip_adapters: readonly ModelAddition[];
  /** Those that may see pictures for the IP-Adapters; the first that fits does. */
  image_encoders: readonly ModelAddition[];
  /** In place of the checkpoint's own; one, or none. */
  vaes: readonly ModelAddition[];
  /** Shows the picture before it is decoded; one, or none. */
  first_vaes: readonly ModelAddition[];
}

/** A checkpoint with its networks, some of which may be on the device. */
export interface LoadedCheckpoint extends OpenedCheckpoint {
  /** Called repeatedly while weights are loaded. */
  onLoading: ((loading: Loading) => void) | null;
  /** Bytes a run would still have to load, by the name of the network in `onLoading`. */
  toLoad(request: EstimateRequest): Promise<Map<string, number>>;
  /** Whether it was opened from exactly these files, unchanged since. */
  isFrom(files: CheckpointFiles): boolean;
  /**
   * Merges exactly these LoRAs into the weights from now on. Networks are reloaded when the list changes.
   * @returns a sentence for each LoRA of which something does not fit this checkpoint or cannot be applied
   * @throws StudioError `checkpoint_damaged` | `checkpoint_unsupported` for one that does not fit this checkpoint at all; then the list is
   * unchanged
   */
  useLoras(loras: readonly ModelLora[]): Promise<string[]>;
  /**
   * Compares a LoRA's header with this checkpoint's, without using it.
   * @returns a sentence on what would be left out of it; null if nothing
   * @throws StudioError like {@link useLoras}
   */
  checkLora(lora: ModelLora): Promise<string | null>;
  /**
   * Takes these, and no others, for the pictures in {@link SampleRequest.controls} and {@link SampleRequest.imagePrompts} from now on; absent
   * where it takes none.
   * @throws StudioError `checkpoint_damaged` | `checkpoint_unsupported` for one of another kind of model, `invalid_operation` where no vision
   * encoder fits; then nothing is changed
   */
  useAdditions?(additions: Partial<ModelAdditions>): Promise<void>;
  /** Reads an addition's header and compares it with this checkpoint's; uses it for nothing. @throws StudioError as {@link useAdditions} */
  checkAddition?(kind: CheckedAddition, addition: ModelAddition): Promise<void>;
  /** What a run would compute and hold, and whether it fits; from configs and headers alone. */
  estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate>;
  /**
   * Loads the networks of such a run. Stops between two of them if the signal is aborted.
   * @param runs whether they are also run once, which compiles them (on the processor, what of the runtime they use); left alone by models that have nothing
   *   to win by it
   */
  prepare(request: EstimateRequest, signal: AbortSignal, runs: boolean): Promise<void>;
  /** Names of the networks that are on the device. */
  readonly onDevice: readonly string[];
  /** Has these networks run in blocks whose weights take so many bytes, from now on, and no others. Absent where nothing can be cut. */
  useBlocks?(bytes: ReadonlyMap<string, number>): void;
  /** Whether convolutions do without weights that take more memory, from now on; see {@link VariantEstimate.plainConvolutions}. Absent where none has any. */
  usePlainConvolutions?(isPlain: boolean): void;
  /** Frees all its memory on the device. */
  release(): Promise<void>;
}

export interface LoadedModel extends LoadedCheckpoint, Model {}

export interface LoadedUpscaler extends LoadedCheckpoint, Upscaler {}

export interface LoadedLatentUpsampler extends LoadedCheckpoint, LatentUpsampler {}

export interface LoadedSoundModel extends LoadedCheckpoint, SoundModel {}

export interface LoadedMusicModel extends LoadedCheckpoint, MusicModel {}

export interface LoadedSongModel extends LoadedCheckpoint, SongModel {}

/** Whichever kind it is. */
export type Loaded =
  LoadedModel | LoadedUpscaler | LoadedLatentUpsampler | LoadedSoundModel | LoadedMusicModel | LoadedSongModel;

export function isUpscaling(checkpoint: LoadedCheckpoint): checkpoint is LoadedUpscaler {
  return 'upscale' in checkpoint;
}

/** Whether it enlarges the latents of another checkpoint's videos. */
export function isUpsampling(checkpoint: LoadedCheckpoint): checkpoint is LoadedLatentUpsampler {
  return 'upsample' in checkpoint;
}

/** Whether it makes sounds, be they music or not. */
export function isSounding(
  checkpoint: LoadedCheckpoint,
): checkpoint is LoadedSoundModel | LoadedMusicModel | LoadedSongModel {
  return 'form' in checkpoint;
}

export function isMusical(checkpoint: LoadedCheckpoint): checkpoint is LoadedMusicModel {
  return 'tasks' in checkpoint;
}

/** Whether it writes songs frame by frame. */
export function isWriting(checkpoint: LoadedCheckpoint): checkpoint is LoadedSongModel {
  return 'framesPerSecond' in checkpoint;
}

export interface Family {
  /** What it opens, for the sentence refusing anything else. */
  pipelineClasses: readonly string[];
  /** Whether these files are a checkpoint of this family, from their names and small texts alone. Families exclude each other. */
  recognises(files: CheckpointFiles): Promise<boolean>;
  /** Reads configurations and headers, no weights. Throws `checkpoint_…` errors. */
  open(files: CheckpointFiles, engine: Engine, options: OpenOptions): Promise<Loaded>;
}

const families = Object.values(import.meta.glob<Family>(['./*.ts', '!./family.ts'], { eager: true, import: 'family' }));

/** One that paints. @throws StudioError as {@link openCheckpoint}, `checkpoint_unsupported` for another kind */
export async function openModel(
  files: CheckpointFiles,
  engine: Engine,
  options: OpenOptions = { weights: 'full' },
): Promise<LoadedModel> {
  return asModel(await openCheckpoint(files, engine, options));
}

/** @throws StudioError `checkpoint_unsupported` for a checkpoint that does not paint */
export function asModel(checkpoint: Loaded): LoadedModel {
  if (isSounding(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" makes sounds and paints nothing; choose a checkpoint that does.`,
    );
  }
  if (isUpscaling(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" is an upscaler and paints nothing; choose a checkpoint that does.`,
    );
  }
  if (isUpsampling(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" enlarges the videos of LTX-Video between two passes and makes none by itself; choose a checkpoint that does, and this one as its latent upsampler.`,
    );
  }
  return checkpoint;
}

/** @throws StudioError `checkpoint_unsupported` for a checkpoint that makes no sounds */
export function asSoundModel(checkpoint: Loaded): LoadedSoundModel {
  if (!isSounding(checkpoint) || isMusical(checkpoint) || isWriting(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" makes no sounds; choose a checkpoint of Stable Audio.`,
    );
  }
  return checkpoint;
}

/** @throws StudioError `checkpoint_unsupported` for a checkpoint that makes no music of lyrics */
export function asMusicModel(checkpoint: Loaded): LoadedMusicModel {
  if (!isMusical(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" sings no lyrics; choose a checkpoint of ACE-Step 1.5.`,
    );
  }
  return checkpoint;
}

/** @throws StudioError `checkpoint_unsupported` for a checkpoint that does not write songs */
export function asSongModel(checkpoint: Loaded): LoadedSongModel {
  if (!isWriting(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" writes no songs of lyrics and tags; choose a checkpoint of HeartMuLa.`,
    );
  }
  return checkpoint;
}

/** @throws StudioError `checkpoint_unsupported` for a checkpoint that does not enlarge */
export function asUpscaler(checkpoint: Loaded): LoadedUpscaler {
  if (!isUpscaling(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" is no upscaler; choose one, such as builtin:realesr-animevideov3.`,
    );
  }
  return checkpoint;
}

/** @throws StudioError `checkpoint_unsupported` for a checkpoint that enlarges no latents */
export function asLatentUpsampler(checkpoint: Loaded): LoadedLatentUpsampler {
  if (!isUpsampling(checkpoint)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `"${checkpoint.summary.name}" enlarges no latents; choose a latent upsampler of LTX-Video, such as ltxv-spatial-upscaler-0.9.8.`,
    );
  }
  return checkpoint;
}

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` */
export async function openCheckpoint(
  files: CheckpointFiles,
  engine: Engine,
  options: OpenOptions = { weights: 'full' },
): Promise<Loaded> {
  for (const family of families) {
    if (await family.recognises(files)) {
      return family.open(files, engine, options);
    }
  }
  const unknown = await whatPartsAre(files);
  if (unknown) {
    throw unknown;
  }
  // Reports what is missing without a model_index.json, or which class it names.
  const { pipelineClass } = await Checkpoint.open(files);
  const known = [...new Set(families.flatMap(({ pipelineClasses }) => pipelineClasses))].join(', ');
  throw new StudioError(
    'checkpoint_unsupported',
    `"${files.name}" is a ${pipelineClass}, which Darkroom cannot run yet; it runs: ${known}.`,
  );
}
