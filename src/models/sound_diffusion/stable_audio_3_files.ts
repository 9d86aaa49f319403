/**
 * Stable Audio 3 as its authors publish it: weights in one file, `model_config.json`, and T5Gemma with its configuration and vocabulary, whose weights
 * may be in that file or in one of their own.
 */
import { StudioError } from '../../core/errors.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as same from '../../graphs/autoencoder_same.ts';
import * as dit from '../../graphs/stable_audio3_dit.ts';
import * as t5gemma from '../../graphs/t5gemma_encoder.ts';
import { TensorIndex, readJson, type CheckpointComponents, type Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { weightFilesOf } from '../../weights/mmdit_parts.ts';
import { stableAudio3Config, stableAudio3Tensors, type StableAudio3Part } from '../../weights/stable_audio_3_layout.ts';
import { objectIn, stableAudioSettings } from '../../weights/stable_audio_settings.ts';
import { readWeightFile } from '../../weights/weight_file.ts';
import * as duration from './duration_embedder.ts';
import { folderOf, stableAudioKind } from './stable_audio_files.ts';

const VOCABULARY = /(^|\/)tokenizer\.json$/;
/** Of T5Gemma; the whole of it has a root more. */
const READER = /^(?:model\.)?(encoder\..+)$/;
const READER_PART = 'encoder.layers.0.pre_self_attn_layernorm.weight';

const CLASSES: Record<StableAudio3Part, string> = {
  transformer: dit.className,
  vae: same.className,
  duration_embedder: duration.className,
  text_encoder: t5gemma.className,
};

/** What samples a distilled one in its authors' words. */
const DISTILLED = 'rf_denoiser';

export class StableAudio3Files implements CheckpointComponents {
  private constructor(
    readonly files: CheckpointFiles,
    readonly pipelineClass: string,
    readonly settings: unknown,
    readonly parts: ReadonlyMap<StableAudio3Part, Map<string, StoredTensor>>,
    readonly reader: Record<string, unknown>,
    /** Folders of what is read besides weights. */
    readonly texts: readonly string[],
    /** Where the vocabulary lies, '' for the outermost folder. */
    readonly vocabulary: string,
  ) {}

  /** @throws StudioError `checkpoint_damaged`, `checkpoint_incomplete`, `checkpoint_unsupported` */
  static async open(files: CheckpointFiles, pipelineClass: string): Promise<StableAudio3Files> {
    const read = await Promise.all(weightFilesOf(files).map((path) => readWeightFile(files, path)));
    const mains = read.filter(({ names }) => stableAudioKind(names) === 'three');
    if (mains.length !== 1) {
      throw mains.length > 1
        ? new StudioError(
            'checkpoint_unsupported',
            `${mains[0].path} and ${mains[1].path} in "${files.name}" hold the same part of a model; choose only the files that belong together.`,
          )
        : new StudioError(
            'checkpoint_incomplete',
            `"${files.name}" has Stable Audio 3's model_config.json without its weights; choose the model.safetensors that belongs to it as well.`,
          );
    }
    const [main] = mains;
    const parts = new Map(stableAudio3Tensors(main.tensors));
    const others = read.filter((file) => file !== main && file.tensors.some(({ name }) => ownName(name) !== null));
    for (const file of others) {
      const own = parts.get('text_encoder') ?? new Map<string, StoredTensor>();
      for (const tensor of file.tensors) {
        const name = ownName(tensor.name);
        if (name !== null) {
          own.set(name, { ...tensor, name });
        }
      }
      parts.set('text_encoder', own);
    }
    const settings = await stableAudioSettings(files);
    const config = await readerConfig(files);
    const vocabulary = files.paths().find((path) => VOCABULARY.test(path));
    const needed = [
      ...(settings ? [] : ['model_config.json']),
      ...(parts.get('text_encoder')?.has(READER_PART) ? [] : ['model.safetensors (google/t5gemma-b-b-ul2)']),
      ...(config ? [] : ['config.json (google/t5gemma-b-b-ul2)']),
      ...(vocabulary === undefined ? ['tokenizer.json (google/t5gemma-b-b-ul2)'] : []),
    ];
    if (!settings || !config || vocabulary === undefined || needed.length > 0) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${main.path} is Stable Audio 3 without all that it needs; choose what is missing with it, or a folder that holds all of it: ${needed.join(', ')}. A diffusers folder has everything in it.`,
      );
    }
    for (const file of [main, ...others]) {
      file.requireReadable(() => true);
    }
    const texts = [...new Set([settings.path, config.path, vocabulary].map(folderOf))];
    return new StableAudio3Files(
      files,
      pipelineClass,
      settings.values,
      parts,
      config.values,
      texts,
      folderOf(vocabulary),
    );
  }

  get name(): string {
    return this.files.name.replace(/\.safetensors$/i, '');
  }

  component(name: string): Promise<Component> {
    const part = name as StableAudio3Part;
    const tensors = this.parts.get(part) ?? new Map<string, StoredTensor>();
    return Promise.resolve({
      name,
      className: CLASSES[part],
      config: part === 'text_encoder' ? this.reader : stableAudio3Config(part, tensors, this.settings),
      weights: new TensorIndex(tensors),
      files: [...new Set(Array.from(tensors.values(), ({ file }) => file))],
    });
  }

  async text(path: string): Promise<string | undefined> {
    if (path !== 'scheduler/scheduler_config.json') {
      return this.files.has(path) ? (await this.files.blob(path)).text() : undefined;
    }
    const { diffusion_objective: objective } = objectIn(this.settings, 'model', 'diffusion');
    return JSON.stringify({
      _class_name: 'FlowMatchEulerDiscreteScheduler',
      num_train_timesteps: 1,
      shift: 1,
      stochastic_sampling: objective === DISTILLED,
    });
  }
}

/** A tensor of T5Gemma's encoder, by its name in it; null for any other. */
function ownName(name: string): string | null {
  return READER.exec(name)?.[1] ?? null;
}

/** T5Gemma's own configuration, which tells what no shape does. */
async function readerConfig(files: CheckpointFiles): Promise<{ path: string; values: Record<string, unknown> } | null> {
  for (const path of files.paths().filter((one) => /(^|\/)config\.json$/.test(one))) {
    const text = await (await files.blob(path)).text();
    if (text.includes('"t5gemma"')) {
      return { path, values: { ...(await readJson(files, path)), is_encoder_decoder: false } };
    }
  }
  return null;
}
