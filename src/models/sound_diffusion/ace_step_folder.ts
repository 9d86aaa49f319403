/**
 * The folder in which ACE-Step 1.5's authors publish it: the autoencoder and the text encoder as in diffusers, beside a folder with all else in one
 * file, and the latents of silence that go with it.
 */
import { StudioError } from '../../core/errors.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import * as detokenizer from '../../graphs/ace_step_audio_token_detokenizer.ts';
import * as tokenizer from '../../graphs/ace_step_audio_tokenizer.ts';
import * as encoder from '../../graphs/ace_step_condition_encoder.ts';
import * as dit from '../../graphs/ace_step_transformer1d.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import * as qwen3 from '../../graphs/qwen3.ts';
import { ACE_STEP_CLASS, aceStepConfig, aceStepName, type AceStepPart } from '../../weights/ace_step_layout.ts';
import { Checkpoint, TensorIndex, type CheckpointComponents, type Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readTorchTensor } from '../../weights/torch_file.ts';

const READER = 'Qwen3-Embedding-0.6B';
const VAE = 'vae';
const SILENCE = 'silence_latent.pt';
const SCHEDULER = { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 1, shift: 1 };
const CLASSES: Record<AceStepPart, string> = {
  transformer: dit.className,
  condition_encoder: encoder.className,
  audio_tokenizer: tokenizer.className,
  audio_token_detokenizer: detokenizer.className,
};

/** Folders of what sings, of which there may be several versions; '' for the outermost. */
export async function aceStepFolders(files: CheckpointFiles): Promise<string[]> {
  const found: string[] = [];
  for (const path of files.paths().filter((one) => /(^|\/)config\.json$/.test(one))) {
    if ((await (await files.blob(path)).text()).includes(ACE_STEP_CLASS)) {
      found.push(path.replace(/\/?config\.json$/, ''));
    }
  }
  return found;
}

export class AceStepFolder implements CheckpointComponents {
  readonly #folders: Checkpoint;
  #singer: Promise<Component> | undefined;

  private constructor(
    readonly files: CheckpointFiles,
    readonly pipelineClass: string,
    /** With all but the autoencoder and the text encoder. */
    readonly folder: string,
  ) {
    this.#folders = Checkpoint.withoutIndex(files, pipelineClass);
  }

  /** @throws StudioError `checkpoint_incomplete`, `checkpoint_unsupported` where several versions lie side by side */
  static async open(files: CheckpointFiles, pipelineClass: string): Promise<AceStepFolder> {
    const folders = await aceStepFolders(files);
    if (folders.length > 1) {
      throw new StudioError(
        'checkpoint_unsupported',
        `"${files.name}" holds several models of one kind (${folders.join(', ')}); leave only one of them in the folder.`,
      );
    }
    const [folder = ''] = folders;
    const opened = new AceStepFolder(files, pipelineClass, folder);
    const lacking = [VAE, READER].find((name) => !files.has(`${opened.#beside(name)}/config.json`));
    if (lacking !== undefined) {
      throw new StudioError(
        'checkpoint_incomplete',
        lacking === VAE
          ? `"${files.name}" is ACE-Step 1.5 without its autoencoder; open the folder that holds ${VAE}, ${READER} and one model such as acestep-v15-turbo.`
          : `"${files.name}" is ACE-Step 1.5 without its text encoder; open the folder that holds ${VAE}, ${READER} and one model such as acestep-v15-turbo.`,
      );
    }
    if (!files.has(opened.#silence)) {
      throw new StudioError('checkpoint_incomplete', `"${files.name}" lacks ${opened.#silence}; get that file, too.`);
    }
    return opened;
  }

  get name(): string {
    return this.files.name;
  }

  /** Where the text encoder's vocabulary lies. */
  get tokenizer(): string {
    return this.#beside(READER);
  }

  /** What is read besides weights: the folders of the networks. */
  get texts(): string[] {
    return [this.folder, this.#beside(VAE), this.tokenizer];
  }

  /** Undefined for one that this checkpoint lacks. */
  async componentClass(name: string): Promise<string | undefined> {
    const { weights } = await this.#sings();
    const isHere = [...weights.names()].some((tensor) => aceStepName(tensor)?.part === name);
    return isHere ? CLASSES[name as AceStepPart] : undefined;
  }

  async component(name: string): Promise<Component> {
    if (name === VAE) {
      const own = await this.#folders.componentOf(this.#beside(VAE), oobleck.className);
      return { ...own, name };
    }
    if (name === 'text_encoder') {
      const own = await this.#folders.componentOf(this.tokenizer, qwen3.headlessClassName);
      return { ...own, name };
    }
    const { config, weights, files } = await this.#sings();
    const part = name as AceStepPart;
    const tensors = new Map<string, StoredTensor>();
    for (const stored of weights.names()) {
      const own = aceStepName(stored);
      const tensor = weights.get(stored);
      if (own?.part === part && tensor) {
        tensors.set(own.name, { ...tensor, name: own.name });
      }
    }
    const isEncoder = part === 'condition_encoder';
    if (isEncoder) {
      const silence = await readTorchTensor(this.files, this.#silence, encoder.SILENCE_BY_CHANNEL);
      tensors.set(silence.name, silence);
    }
    return {
      name,
      className: CLASSES[part],
      config: aceStepConfig(part, config),
      weights: new TensorIndex(tensors),
      files: isEncoder ? [...files, this.#silence] : files,
    };
  }

  async text(path: string): Promise<string | undefined> {
    return path === 'scheduler/scheduler_config.json' ? JSON.stringify(SCHEDULER) : this.#folders.text(path);
  }

  #sings(): Promise<Component> {
    this.#singer ??= this.#folders.componentOf(this.folder, ACE_STEP_CLASS);
    return this.#singer;
  }

  get #silence(): string {
    return this.folder === '' ? SILENCE : `${this.folder}/${SILENCE}`;
  }

  #beside(name: string): string {
    return this.folder.replace(/[^/]*$/, '') + name;
  }
}
