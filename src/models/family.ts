/** What a file of this folder exports: one family of checkpoints, opened from its files. The folder is the registry. */
import { StudioError } from '../core/errors.ts';
import type { DeviceReport } from '../core/job.ts';
import type { Estimate, EstimateRequest, MemoryBudget, Model, WeightVariant } from '../core/model.ts';
import type { Engine } from '../engine/engine.ts';
import type { Loading } from '../engine/network_shelf.ts';
import type { Rates } from '../engine/self_measurement.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';

export interface OpenOptions {
  /** How the weights of linear layers are kept on the device; those that a file keeps quantised stay as they are. */
  weights: WeightVariant;
}

/** Where a run would happen. */
export interface Circumstances {
  device: DeviceReport;
  budget: MemoryBudget;
  /** What is known of the device's speed. */
  rates: Rates;
  /** Bytes to fetch before it can run. */
  downloadBytes: number;
}

/** A LoRA to be merged into a model's weights. */
export interface ModelLora {
  /** Its one `.safetensors` file. */
  file: Blob;
  /** Names it for people, recordings and errors. */
  name: string;
  /** 1 = as it was trained; 0 = not at all; may be negative. */
  strength: number;
  /** In the library, for recordings. */
  ref?: string;
  /** Of the file, where it is known without reading it. */
  sha256?: string | null;
}

export interface LoadedModel extends Model {
  /** Called again and again while weights are being brought to the device. */
  onLoading: ((loading: Loading) => void) | null;
  /** What a run would still have to bring to the device: bytes by the name of the network, as `onLoading` names it. */
  toLoad(request: EstimateRequest): Promise<Map<string, number>>;
  /** Whether it was opened from exactly these files, unchanged since. */
  isFrom(files: CheckpointFiles): boolean;
  /**
   * Merges these LoRAs, and no others, into the weights from now on. Networks are brought to the device anew when the list changes.
   * @returns what of them this checkpoint has no place for, or cannot be applied: a sentence for each LoRA of which something is left out
   * @throws StudioError `checkpoint_damaged` | `checkpoint_unsupported` for one of which nothing can be used with this checkpoint; then
   *   the list stays as it was
   */
  useLoras(loras: readonly ModelLora[]): Promise<string[]>;
  /**
   * Reads a LoRA's header and compares it with this checkpoint's; uses it for nothing.
   * @returns what would be left out of it, as a sentence; null = nothing
   * @throws StudioError as {@link useLoras}
   */
  checkLora(lora: ModelLora): Promise<string | null>;
  /** What a run would compute and hold, and whether that fits; from configs and headers alone. */
  estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate>;
  /**
   * Brings the networks of such a run to the device, and on a GPU has them compute once, which also compiles them. Stops between two of them
   * when the signal is aborted.
   */
  prepare(request: EstimateRequest, signal: AbortSignal): Promise<void>;
  /** Names of the networks that are on the device. */
  readonly onDevice: readonly string[];
  /** Frees all that it holds on the device. */
  release(): Promise<void>;
}

export interface Family {
  /** What it opens, for the sentence that refuses everything else. */
  pipelineClasses: readonly string[];
  /** Whether these files are a checkpoint of this family, from their names and small texts alone. Families exclude each other. */
  recognises(files: CheckpointFiles): Promise<boolean>;
  /** Reads configurations and headers, no weights. Throws `checkpoint_…` errors. */
  open(files: CheckpointFiles, engine: Engine, options: OpenOptions): Promise<LoadedModel>;
}

const families = Object.values(import.meta.glob<Family>(['./*.ts', '!./family.ts'], { eager: true, import: 'family' }));

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` */
export async function openModel(
  files: CheckpointFiles,
  engine: Engine,
  options: OpenOptions = { weights: 'full' },
): Promise<LoadedModel> {
  for (const family of families) {
    if (await family.recognises(files)) {
      return family.open(files, engine, options);
    }
  }
  // Says what is missing where there is no model_index.json, and which class it names where there is one.
  const { pipelineClass } = await Checkpoint.open(files);
  const known = [...new Set(families.flatMap(({ pipelineClasses }) => pipelineClasses))].join(', ');
  throw new StudioError(
    'checkpoint_unsupported',
    `"${files.name}" is a ${pipelineClass}, which Darkroom cannot run yet; it runs: ${known}.`,
  );
}
