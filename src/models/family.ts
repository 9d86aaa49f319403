/** What a file of this folder exports: one family of checkpoints, opened from its files. The folder is the registry. */
import { StudioError } from '../core/errors.ts';
import type { Model } from '../core/model.ts';
import type { Engine } from '../engine/engine.ts';
import { Checkpoint } from '../weights/checkpoint.ts';
import type { CheckpointFiles } from '../weights/checkpoint_files.ts';

export interface LoadedModel extends Model {
  /** Called with a network's name while its weights are being brought to the device. */
  onLoading: ((network: string) => void) | null;
  /** Whether it was opened from exactly these files, unchanged since. */
  isFrom(files: CheckpointFiles): boolean;
  /** Frees all that it holds on the device. */
  release(): Promise<void>;
}

export interface Family {
  /** `_class_name`s of the model_index.json files that it opens. */
  pipelineClasses: readonly string[];
  /** Reads configurations and headers, no weights. Throws `checkpoint_…` errors. */
  open(checkpoint: Checkpoint, engine: Engine): Promise<LoadedModel>;
}

const families = Object.values(import.meta.glob<Family>(['./*.ts', '!./family.ts'], { eager: true, import: 'family' }));

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` */
export async function openModel(files: CheckpointFiles, engine: Engine): Promise<LoadedModel> {
  const checkpoint = await Checkpoint.open(files);
  const family = families.find(({ pipelineClasses }) => pipelineClasses.includes(checkpoint.pipelineClass));
  if (!family) {
    const known = families.flatMap(({ pipelineClasses }) => pipelineClasses).join(', ');
    throw new StudioError(
      'checkpoint_unsupported',
      `"${files.name}" is a ${checkpoint.pipelineClass}, which Darkroom cannot run yet; it runs: ${known}.`,
    );
  }
  return family.open(checkpoint, engine);
}
