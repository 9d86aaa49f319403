/**
 * Flow transformers as ComfyUI has them: transformer, text encoders and autoencoder in one file, or in one for each, `.safetensors` or
 * `.gguf`. They are used as they lie; how the networks are put together follows from their tensors' shapes, and what no shape tells from what
 * all published ones have.
 *
 * The vocabulary of a large text encoder is in hardly any such file, so `tokenizer.json` or T5's `spiece.model` has to lie beside it; only
 * ComfyUI's files of UMT5 have it, as the bytes of a tensor.
 */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { TensorIndex, type CheckpointComponents, type Component } from './checkpoint.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { Shapes, clipConfig, clipVisionConfig } from './inferred_configs.ts';
import { LTX2_PART } from './ltx_layout.ts';
import { TRANSFORMERS, VAES, readerOf } from './mmdit_configs.ts';
import { isSpiece, mmditNames, type MmditComponent, type MmditKind, type MmditMeaning } from './mmdit_layout.ts';
import { kindOf, noiseOf, readParts, requireSingle, weightFilesOf, type PartFile } from './mmdit_parts.ts';
import { PUBLISHED, publishedAs, type Published } from './mmdit_published.ts';
import { rowsOf } from './tensor_rows.ts';
import type { FilePlace, WeightFile } from './weight_file.ts';

const VOCABULARIES = /(?:^|\/)(?:tokenizer\.json|spiece\.model)$/;

/** Which family what was opened is of; null for anything else, and for files that cannot be read. */
export async function mmditFileKind(files: CheckpointFiles): Promise<MmditKind | null> {
  return (await mmditTransformer(files))?.kind ?? null;
}

/** As {@link mmditFileKind}, with the file that the transformer is in. */
export async function mmditTransformer(files: CheckpointFiles): Promise<{ kind: MmditKind; file: WeightFile } | null> {
  if (weightFilesOf(files).length === 0) {
    return null;
  }
  try {
    const parts = await readParts(files);
    const kind = kindOf(parts);
    // One that is in several files is in none of them alone.
    const { file } = parts.find((part) => kindOf([part])) ?? parts[0];
    return kind && { kind, file };
  } catch {
    // What is wrong with them is said when they are opened.
    return null;
  }
}

/** What no tensor tells, but the published file's name or a mark in it. */
export interface Told {
  pipelineClass?: string;
  /** Of its config. */
  transformer?: Readonly<Record<string, unknown>>;
}

export class MmditFile implements CheckpointComponents {
  private constructor(
    readonly files: CheckpointFiles,
    readonly kind: MmditKind,
    /** By their names in diffusers' modules. */
    readonly tensors: ReadonlyMap<MmditComponent, Map<string, StoredTensor>>,
    /** Where the vocabulary lies: a folder of what was opened, '' for the outermost; null where there is none. */
    readonly vocabularyFolder: string | null,
    readonly spieceAt: FilePlace | null,
    readonly told: Told,
  ) {}

  /**
   * @throws StudioError `checkpoint_damaged`, `checkpoint_incomplete` (a part is missing), `checkpoint_unsupported`
   */
  static async open(files: CheckpointFiles, kind: MmditKind, told: Told = {}): Promise<MmditFile> {
    const parts = await readParts(files);
    requireSingle(files, parts);
    const vocabulary = files.paths().find((path) => VOCABULARIES.test(path)) ?? null;
    const names = parts.flatMap(({ file, nameOf }) => [...file.names].map(nameOf));
    requireRunnable(kind, parts);
    const meaningsOf = mmditNames(kind, names);
    // Stable Diffusion 3 can do without T5, which it is only read with where it has a vocabulary.
    const isRead = ({ component }: MmditMeaning) =>
      kind !== 'sd3' || component !== PUBLISHED.sd3.reader.component || vocabulary !== null;
    const tensors = new Map<MmditComponent, Map<string, StoredTensor>>();
    for (const { file, nameOf } of parts) {
      const ownMeanings = (name: string) => meaningsOf(nameOf(name)).filter(isRead);
      file.requireReadable((name) => ownMeanings(name).length > 0);
      for (const tensor of file.tensors) {
        for (const meaning of ownMeanings(tensor.name)) {
          const own = tensors.get(meaning.component) ?? new Map<string, StoredTensor>();
          own.set(meaning.name, viewOf(tensor, meaning));
          tensors.set(meaning.component, own);
        }
      }
    }
    const transformer = new Shapes(tensors.get('transformer') ?? new Map<string, StoredTensor>());
    const published = publishedAs(kind, transformer);
    const { reader } = published;
    const what = parts.length === 1 ? parts[0].file.path : `"${files.name}"`;
    const spiece = placeOfSpiece(parts);
    const lacksWords = kind !== 'sd3' && vocabulary === null && spiece === null;
    const lacking = published.parts.filter(
      ({ component, has, isNeeded }) => isNeeded?.(transformer) !== false && !tensors.get(component)?.has(has),
    );
    if (lacking.length > 0) {
      const bringsWords = lacking.some(({ brings }) => brings === 'vocabulary');
      const needed = [
        ...lacking.map(({ file }) => (typeof file === 'string' ? file : file(transformer))),
        ...(lacksWords && !bringsWords ? [reader.vocabulary] : []),
      ];
      throw new StudioError(
        'checkpoint_incomplete',
        `${what} is ${published.name} without its ${listed(lacking.map(({ name }) => name))}; choose what is missing with it, or a folder that holds all of it: ${needed.join(', ')}. A diffusers folder has everything in it.`,
      );
    }
    if (lacksWords) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${what} does not have ${reader.name}'s vocabulary in it, as no such file has, and ${published.name} cannot read words without it; choose ${reader.vocabulary} with it, or a folder that holds both.`,
      );
    }
    return new MmditFile(files, kind, tensors, vocabulary === null ? null : folderOf(vocabulary), spiece, told);
  }

  get pipelineClass(): string {
    const { pipelineClass } = this.#published;
    return this.told.pipelineClass ?? (typeof pipelineClass === 'string' ? pipelineClass : pipelineClass(this.#vae));
  }

  get name(): string {
    return this.files.name.replace(/\.(safetensors|gguf)$/i, '');
  }

  /** The file that the transformer is in; what no tensor tells, published ones say in its name. */
  get transformerPath(): string {
    return [...this.#transformer.tensors.values()][0].file;
  }

  /** Whether there is a second transformer, for little noise. */
  get hasSecond(): boolean {
    return this.tensors.has('transformer_2');
  }

  /** Whether the text encoder that needs a vocabulary is there and can be read with. */
  get hasReader(): boolean {
    return this.tensors.has(this.#published.reader.component);
  }

  readonly publishedPart = (part: 'reader' | 'vae'): string | null => {
    const { parts, reader } = this.#published;
    const wanted = part === 'vae' ? part : reader.component;
    const file = parts.find(({ component }) => component === wanted)?.file;
    return typeof file === 'function' ? file(this.#transformer) : (file ?? null);
  };

  /** SentencePiece's file, where one of the weights' files has it. */
  async spiece(): Promise<Uint8Array | null> {
    if (!this.spieceAt) {
      return null;
    }
    const { path, offset, length } = this.spieceAt;
    return new Uint8Array(await (await this.files.blob(path)).slice(offset, offset + length).arrayBuffer());
  }

  component(name: string): Promise<Component> {
    const component = name as MmditComponent;
    const tensors = this.tensors.get(component) ?? new Map<string, StoredTensor>();
    const shapes = new Shapes(tensors);
    return Promise.resolve({
      name,
      ...this.#described(component, shapes),
      weights: new TensorIndex(tensors),
      files: [...new Set(Array.from(tensors.values(), ({ file }) => file))],
    });
  }

  async text(path: string): Promise<string | undefined> {
    if (path !== 'scheduler/scheduler_config.json') {
      return this.files.has(path) ? (await this.files.blob(path)).text() : undefined;
    }
    return JSON.stringify(this.#published.scheduler(this.#transformer, this.#vae));
  }

  get #published(): Published {
    return publishedAs(this.kind, this.#transformer);
  }

  get #transformer(): Shapes {
    return new Shapes(this.tensors.get('transformer') ?? new Map<string, StoredTensor>());
  }

  get #vae(): Shapes {
    return new Shapes(this.tensors.get('vae') ?? new Map<string, StoredTensor>());
  }

  #described(component: MmditComponent, shapes: Shapes): Pick<Component, 'className' | 'config'> {
    if (component === 'transformer' || component === 'transformer_2') {
      const { className, configOf } = TRANSFORMERS[this.kind];
      return { className, config: { ...configOf(shapes), ...this.told.transformer } };
    }
    if (component === 'vae') {
      const { className, configOf } = VAES[this.kind];
      return { className, config: configOf(shapes) };
    }
    if (component === this.#published.reader.component) {
      const { className, configOf } = readerOf(this.kind, shapes);
      return { className, config: configOf(shapes) };
    }
    if (component === 'image_encoder') {
      return { className: 'CLIPVisionModelWithProjection', config: clipVisionConfig(shapes) };
    }
    // Files for Stable Diffusion 3 have no projection of the smaller encoder, where it would change nothing.
    const isProjected = this.kind === 'sd3' && shapes.has('text_projection.weight');
    return {
      className: isProjected ? 'CLIPTextModelWithProjection' : 'CLIPTextModel',
      config: clipConfig(shapes, component === 'text_encoder_2'),
    };
  }
}

/** @throws StudioError `checkpoint_unsupported` for relatives of what can be run, by what they are */
function requireRunnable(kind: MmditKind, parts: readonly PartFile[]): void {
  for (const { file } of parts) {
    const noise = kind === 'wan' ? noiseOf(file.path) : null;
    if (noise && !parts.some((other) => ![null, noise].includes(noiseOf(other.file.path)))) {
      throw new StudioError(
        'checkpoint_incomplete',
        `${file.path} is one of the two transformers of Wan 2.2 A14B, that for ${noise} noise; choose the other one with it.`,
      );
    }
    if (kind === 'ltx' && [...file.names].some((name) => name.endsWith(LTX2_PART))) {
      throw new StudioError(
        'checkpoint_unsupported',
        `${file.path} is LTX-2, which Darkroom cannot run; choose LTX-Video, such as 0.9.5.`,
      );
    }
  }
}

function placeOfSpiece(parts: readonly PartFile[]): FilePlace | null {
  const places = parts.flatMap(({ file, nameOf }) => {
    const own = [...file.names].find((name) => isSpiece(nameOf(name)));
    return (own !== undefined && file.placeOf(own)) || [];
  });
  return places.at(0) ?? null;
}

function listed(names: readonly string[]): string {
  return names.join(', ').replace(/, (?=[^,]*$)/, ' and ');
}

function folderOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '';
}

/** The range of a tensor that a module has, under the module's name. */
function viewOf(tensor: StoredTensor, { name, rows }: MmditMeaning): StoredTensor {
  const { shape } = tensor;
  if (rows) {
    return rowsOf(tensor, rows, name);
  }
  // The autoencoder's attention is made of 1×1 convolutions there and of linear layers here: the same bytes.
  const isLinear = /\.mid_block\.attentions\.0\.to_/.test(name) && shape.length === 4;
  return { ...tensor, name, shape: isLinear ? shape.slice(0, 2) : shape };
}
