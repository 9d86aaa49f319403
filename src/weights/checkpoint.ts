/**
 * A checkpoint in the diffusers folder layout: `model_index.json`, or `modular_model_index.json`, and one folder per component, each with its
 * `config.json` and `.safetensors` weights. Opening reads configs and headers only, never the weights.
 */
import * as v from 'valibot';
import { indexOf } from '../core/checkpoint_indexes.ts';
import { StudioError } from '../core/errors.ts';
import type { StoredTensor, WeightIndex } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader } from './safetensors.ts';

const modelIndexSchema = v.looseObject({ _class_name: v.string() });
/** In a modular index where it comes from follows, which does not count once it is here. */
const componentSchema = v.looseTuple([v.nullable(v.string()), v.nullable(v.string())]);
const shardIndexSchema = v.looseObject({ weight_map: v.record(v.string(), v.string()) });

/** The names under which diffusers and transformers save weights, in the order in which they are preferred. */
const WEIGHT_STEMS = ['diffusion_pytorch_model', 'model'];
const VARIANTS = ['', '.fp16', '.bf16'];

export interface Component {
  /** Folder name, such as `unet`. */
  name: string;
  className: string;
  config: Record<string, unknown>;
  weights: WeightIndex;
  /** Paths of its `.safetensors` files. */
  files: string[];
}

/** What a family of models asks of a checkpoint, in whichever layout it lies. */
export interface CheckpointComponents {
  readonly files: CheckpointFiles;
  /** For people. */
  readonly name: string;
  readonly pipelineClass: string;
  component(name: string): Promise<Component>;
  /** A small text of the diffusers layout, or undefined when there is none. */
  text(path: string): Promise<string | undefined>;
  /** Where people get the part that goes with its transformer, as "file (repository)"; null where none is known, absent in the diffusers layout. */
  readonly publishedPart?: (part: 'reader' | 'vae') => string | null;
}

export class Checkpoint implements CheckpointComponents {
  readonly #index: Record<string, unknown>;

  private constructor(
    readonly files: CheckpointFiles,
    index: Record<string, unknown>,
    readonly pipelineClass: string,
  ) {
    this.#index = index;
  }

  /**
   * @throws StudioError `checkpoint_incomplete` (no model_index.json), `checkpoint_damaged` (not JSON)
   */
  static async open(files: CheckpointFiles): Promise<Checkpoint> {
    const path = indexOf((one) => files.has(one));
    if (path === undefined) {
      const single = files.paths().find((one) => /\.(safetensors|ckpt|bin|pt)$/.test(one));
      throw new StudioError(
        'checkpoint_incomplete',
        single
          ? `"${files.name}" has no model_index.json, only files such as ${single}; open one .safetensors file by itself, or a folder in the diffusers layout.`
          : `"${files.name}" has no model_index.json; choose a checkpoint in the diffusers layout.`,
      );
    }
    const index = await readJson(files, path);
    const parsed = v.safeParse(modelIndexSchema, index);
    if (!parsed.success) {
      throw new StudioError(
        'checkpoint_damaged',
        `${path} of "${files.name}" does not say which pipeline it is for; download it again.`,
      );
    }
    return new Checkpoint(files, index, parsed.output._class_name);
  }

  /** One whose layout has no model_index.json: its components are {@link componentOf} folders. */
  static withoutIndex(files: CheckpointFiles, pipelineClass: string): Checkpoint {
    return new Checkpoint(files, {}, pipelineClass);
  }

  get name(): string {
    return this.files.name;
  }

  /** Class name of a component, or undefined when the checkpoint has none (a null entry counts as none). */
  componentClass(name: string): string | undefined {
    const entry = v.safeParse(componentSchema, this.#index[name]);
    return entry.success ? (entry.output[1] ?? undefined) : undefined;
  }

  async json(path: string): Promise<Record<string, unknown>> {
    return readJson(this.files, path);
  }

  /** A small text file, or undefined when it does not exist. */
  async text(path: string): Promise<string | undefined> {
    return this.files.has(path) ? (await this.files.blob(path)).text() : undefined;
  }

  /**
   * One network: its class, its configuration and where each of its tensors lies.
   * @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged`
   */
  async component(name: string): Promise<Component> {
    const className = this.componentClass(name);
    if (className === undefined) {
      throw new StudioError(
        'checkpoint_incomplete',
        `"${this.files.name}" has no ${name} in its model_index.json; open a complete checkpoint.`,
      );
    }
    return this.componentOf(name, className);
  }

  /** As {@link component}, of a folder that model_index.json need not name. */
  async componentOf(name: string, className: string): Promise<Component> {
    const config = await this.json(`${name}/config.json`);
    const files = await this.#weightFiles(name);
    const tensors = new Map<string, StoredTensor>();
    for (const file of files) {
      for (const tensor of await readHeader(this.files, file)) {
        tensors.set(tensor.name, tensor);
      }
    }
    return { name, className, config, files, weights: new TensorIndex(tensors) };
  }

  async #weightFiles(component: string): Promise<string[]> {
    for (const variant of VARIANTS) {
      for (const stem of WEIGHT_STEMS) {
        const whole = `${component}/${stem}${variant}.safetensors`;
        if (this.files.has(whole)) {
          return [whole];
        }
        for (const index of [
          `${component}/${stem}.safetensors.index${variant}.json`,
          `${component}/${stem}${variant}.safetensors.index.json`,
        ]) {
          if (this.files.has(index)) {
            return this.#shards(component, index);
          }
        }
      }
    }
    const within = this.files.paths().filter((path) => path.startsWith(`${component}/`));
    const pickle = within.find((path) => /\.(bin|ckpt|pt|pth)$/.test(path));
    const other = within.find((path) => path.endsWith('.safetensors'));
    throw new StudioError(
      'checkpoint_incomplete',
      other
        ? `"${this.files.name}" has ${component} only as ${other}, which is not the file that pictures are made with; take the whole checkpoint, or another one.`
        : pickle
          ? `"${this.files.name}" has ${component} only as ${pickle}, a pickle that can run code; get the .safetensors version of this checkpoint.`
          : `"${this.files.name}" has no .safetensors weights in ${component}/; take the whole checkpoint, or another one.`,
    );
  }

  async #shards(component: string, index: string): Promise<string[]> {
    const parsed = v.safeParse(shardIndexSchema, await this.json(index));
    if (!parsed.success) {
      throw new StudioError('checkpoint_damaged', `${index} does not list its weights; download it again.`);
    }
    const shards = [...new Set(Object.values(parsed.output.weight_map))].sort();
    for (const shard of shards) {
      // A shard name comes from the file: it may only name a file beside it.
      if (shard.includes('/') || !shard.endsWith('.safetensors')) {
        throw new StudioError('checkpoint_damaged', `${index} names "${shard}", which is not a weight file beside it.`);
      }
    }
    return shards.map((shard) => `${component}/${shard}`);
  }
}

export class TensorIndex implements WeightIndex {
  constructor(readonly tensors: Map<string, StoredTensor>) {}

  get(name: string): StoredTensor | undefined {
    return this.tensors.get(name);
  }

  names(): Iterable<string> {
    return this.tensors.keys();
  }
}

/** A configuration. @throws StudioError `checkpoint_damaged` */
export async function readJson(files: CheckpointFiles, path: string): Promise<Record<string, unknown>> {
  const blob = await files.blob(path);
  if (blob.size > 10_000_000) {
    throw new StudioError(
      'checkpoint_damaged',
      `${path} of "${files.name}" is far too large for a configuration; download it again.`,
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(await blob.text());
  } catch (cause) {
    throw new StudioError('checkpoint_damaged', `${path} of "${files.name}" is not valid JSON; download it again.`, {
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new StudioError('checkpoint_damaged', `${path} of "${files.name}" is not a JSON object; download it again.`);
  }
  return value as Record<string, unknown>;
}

async function readHeader(files: CheckpointFiles, path: string): Promise<StoredTensor[]> {
  const header = await readSafetensorsHeader(await files.blob(path), path);
  requireReadable(header, path, (name) => /\.(weight|bias)$/.test(name));
  return storedTensors(header, path);
}
