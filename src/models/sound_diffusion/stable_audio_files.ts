/**
 * Stable Audio Open as ComfyUI users and the authors' own code have it: one file with the transformer, the autoencoder and what reads the
 * seconds, a file of T5, and its vocabulary; the authors' configuration where it lies beside them.
 */
import { StudioError } from '../../core/errors.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import * as dit from '../../graphs/stable_audio_dit.ts';
import * as projection from '../../graphs/stable_audio_projection.ts';
import * as t5Encoder from '../../graphs/t5_encoder.ts';
import { TensorIndex, type CheckpointComponents, type Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { Shapes, t5Config } from '../../weights/inferred_configs.ts';
import { weightFilesOf } from '../../weights/mmdit_parts.ts';
import { STABLE_AUDIO_3_PARTS } from '../../weights/stable_audio_3_layout.ts';
import {
  STABLE_AUDIO_PARTS,
  stableAudioConfig,
  stableAudioTensors,
  stableAudioTold,
  type StableAudioPart,
  type StableAudioTold,
} from '../../weights/stable_audio_layout.ts';
import { stableAudioSettings } from '../../weights/stable_audio_settings.ts';
import { readWeightFile, type WeightFile } from '../../weights/weight_file.ts';

const VOCABULARY = /(^|\/)(tokenizer\.json|spiece\.model)$/;
const T5 = 'encoder.block.0.layer.0.SelfAttention.q.weight';
const CLASSES: Record<StableAudioPart, string> = {
  transformer: dit.className,
  projection_model: projection.className,
  vae: oobleck.className,
};
const SCHEDULER = {
  _class_name: 'CosineDPMSolverMultistepScheduler',
  sigma_min: 0.3,
  sigma_max: 500,
  solver_order: 2,
  prediction_type: 'v_prediction',
  sigma_data: 1,
  sigma_schedule: 'exponential',
};

/** Which Stable Audio a file of these names is; `other` for one that is neither Open nor 3, null for what is none. */
export function stableAudioKind(names: ReadonlySet<string>): 'open' | 'three' | 'other' | null {
  const has = (parts: readonly string[]) => parts.every((name) => names.has(name));
  return has(STABLE_AUDIO_3_PARTS)
    ? 'three'
    : has(STABLE_AUDIO_PARTS)
      ? 'open'
      : has(STABLE_AUDIO_PARTS.slice(0, 2))
        ? 'other'
        : null;
}

/** The weight files of what was opened; empty where it is a diffusers folder, or one cannot be read. */
export async function readAll(files: CheckpointFiles): Promise<WeightFile[]> {
  try {
    return await Promise.all(weightFilesOf(files).map((path) => readWeightFile(files, path)));
  } catch {
    // What is wrong with them is said when they are opened.
    return [];
  }
}

export class StableAudioFiles implements CheckpointComponents {
  private constructor(
    readonly files: CheckpointFiles,
    readonly pipelineClass: string,
    readonly told: StableAudioTold,
    readonly parts: ReadonlyMap<StableAudioPart, Map<string, StoredTensor>>,
    readonly reader: WeightFile,
    /** Folders of what is read besides weights. */
    readonly texts: readonly string[],
    /** Where the vocabulary lies, '' for the outermost folder. */
    readonly vocabulary: string,
  ) {}

  /** @throws StudioError `checkpoint_damaged`, `checkpoint_incomplete`, `checkpoint_unsupported` */
  static async open(files: CheckpointFiles, pipelineClass: string): Promise<StableAudioFiles> {
    const read = await Promise.all(weightFilesOf(files).map((path) => readWeightFile(files, path)));
    const other = read.find(({ names }) => stableAudioKind(names) === 'other');
    if (other) {
      throw new StudioError(
        'checkpoint_unsupported',
        `${other.path} is a Stable Audio that Darkroom cannot run, such as Stable Audio Open Small; choose Stable Audio Open 1.0 or Stable Audio 3.`,
      );
    }
    const [main, ...others] = read.filter(({ names }) => stableAudioKind(names) === 'open');
    if (others.length > 0) {
      throw new StudioError(
        'checkpoint_unsupported',
        `${main.path} and ${others[0].path} in "${files.name}" hold the same part of a model; choose only the files that belong together.`,
      );
    }
    const reader = read.find(({ names }) => names.has(T5));
    const vocabulary = files.paths().find((path) => VOCABULARY.test(path));
    if (!reader || vocabulary === undefined) {
      const needed = [
        ...(reader ? [] : ['model.safetensors (google-t5/t5-base)']),
        ...(vocabulary === undefined ? ['tokenizer.json (google-t5/t5-base)'] : []),
      ];
      throw new StudioError(
        'checkpoint_incomplete',
        `${main.path} is Stable Audio Open without what reads words; choose what is missing with it, or a folder that holds all of it: ${needed.join(', ')}. A diffusers folder has everything in it.`,
      );
    }
    for (const file of [main, reader]) {
      file.requireReadable(() => true);
    }
    const settings = await stableAudioSettings(files);
    const told = stableAudioTold(settings?.values);
    const texts = [vocabulary, ...(settings ? [settings.path] : [])].map(folderOf);
    const parts = stableAudioTensors(main.tensors);
    return new StableAudioFiles(files, pipelineClass, told, parts, reader, texts, folderOf(vocabulary));
  }

  get name(): string {
    return this.files.name.replace(/\.safetensors$/i, '');
  }

  component(name: string): Promise<Component> {
    if (name === 'text_encoder') {
      const tensors = new Map(this.reader.tensors.map((tensor) => [tensor.name, tensor]));
      return Promise.resolve({
        name,
        className: t5Encoder.className,
        config: t5Config(new Shapes(tensors)),
        weights: new TensorIndex(tensors),
        files: [this.reader.path],
      });
    }
    const part = name as StableAudioPart;
    const tensors = this.parts.get(part) ?? new Map<string, StoredTensor>();
    return Promise.resolve({
      name,
      className: CLASSES[part],
      config: stableAudioConfig(part, this.parts, this.told),
      weights: new TensorIndex(tensors),
      files: [...new Set(Array.from(tensors.values(), ({ file }) => file))],
    });
  }

  async text(path: string): Promise<string | undefined> {
    if (path === 'scheduler/scheduler_config.json') {
      return JSON.stringify(SCHEDULER);
    }
    return this.files.has(path) ? (await this.files.blob(path)).text() : undefined;
  }
}

/** '' for the outermost. */
export function folderOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '';
}
