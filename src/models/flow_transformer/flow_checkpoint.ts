/** Opening a checkpoint of any flow transformer: its parts, its texts and its summary. */
import { INDEXES } from '../../core/checkpoint_indexes.ts';
import { StudioError } from '../../core/errors.ts';
import { WEIGHT_VARIANTS, type CheckpointSummary, type WeightVariant } from '../../core/model.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import { BLOCK, bitsOnDevice } from '../../graphs/quantisation.ts';
import { parseSchedulerConfig, type SchedulerConfig } from '../../schedulers/config.ts';
import { samplers } from '../../samplers/registry.ts';
import { schedulers } from '../../schedulers/registry.ts';
import type { Scheduler } from '../../schedulers/scheduler.ts';
import type { TokenizerFiles } from '../../text/clip_tokenizer.ts';
import type { T5Files } from '../../text/t5_tokenizer.ts';
import type { CheckpointComponents, Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { familiesOfNetworks } from '../../weights/lora.ts';
import { storedVariant } from '../latent_diffusion/components.ts';
import { schedulerDefaults } from '../latent_diffusion/sampling_offers.ts';

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` | `checkpoint_unsupported` for a part of another class */
export async function openPart(
  checkpoint: CheckpointComponents,
  name: string,
  className: string,
  ...others: readonly string[]
): Promise<Component> {
  const component = await checkpoint.component(name);
  if (component.className !== className && !others.includes(component.className)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The ${name} of "${checkpoint.name}" is a ${component.className}; Darkroom can run a ${className} there.`,
    );
  }
  return component;
}

/**
 * @param sizes widths of text tokens and latents that the transformer takes, and that the other networks give
 * @throws StudioError `checkpoint_unsupported` for parts of different checkpoints
 */
export function requireFit(
  { files, publishedPart }: Pick<CheckpointComponents, 'files' | 'publishedPart'>,
  { text, channels }: Record<'text' | 'channels', { read: number; given: number }>,
): void {
  const unsupported = (sentence: string) => new StudioError('checkpoint_unsupported', sentence);
  if (text.read !== text.given) {
    const file = publishedPart?.('reader');
    throw unsupported(
      file
        ? `The transformer of "${files.name}" reads ${text.read} numbers of each token and its text encoder gives ${text.given}; choose ${file} in its place.`
        : `The transformer of "${files.name}" reads ${text.read} numbers of each token and its text encoder gives ${text.given}; take both from one checkpoint.`,
    );
  }
  if (channels.read !== channels.given) {
    const file = publishedPart?.('vae');
    throw unsupported(
      file
        ? `The transformer of "${files.name}" takes latents of ${channels.read} channels and its autoencoder gives ${channels.given}; choose ${file} in its place.`
        : `The transformer of "${files.name}" takes latents of ${channels.read} channels and its autoencoder gives ${channels.given}; take both from one checkpoint.`,
    );
  }
}

/**
 * @param sizes width of the pooled text that the transformer takes, and that CLIP gives
 * @throws StudioError `checkpoint_unsupported` for parts of different checkpoints
 */
export function requirePooled(files: CheckpointFiles, { read, given }: { read: number; given: number }): void {
  if (read !== given) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The transformer of "${files.name}" takes ${read} numbers of the text as a whole and its text encoders give ${given}; take all from one checkpoint.`,
    );
  }
}

/** @throws StudioError `checkpoint_incomplete` | `checkpoint_damaged` */
export async function readScheduler(checkpoint: CheckpointComponents): Promise<SchedulerConfig> {
  const text = await checkpoint.text('scheduler/scheduler_config.json');
  if (text === undefined) {
    throw new StudioError(
      'checkpoint_incomplete',
      `"${checkpoint.name}" has no scheduler/scheduler_config.json; open the whole checkpoint folder.`,
    );
  }
  return parseSchedulerConfig(text);
}

/** The texts of a tokenizer's folder, read ahead. */
export async function tokenizerTexts(checkpoint: CheckpointComponents, folder = 'tokenizer'): Promise<TokenizerFiles> {
  const texts = new Map<string, string>();
  for (const path of checkpoint.files.paths().filter((path) => isTokenizerText(path, folder))) {
    texts.set(path.slice(inFolder(folder).length), (await checkpoint.text(path)) ?? '');
  }
  return { read: (name) => texts.get(name) };
}

export interface Part {
  component: Component;
  /** How its weights are run. */
  weights: WeightVariant;
  /** Tensors that stay on the processor. */
  apart?: (name: string) => boolean;
}

/**
 * @param parts the networks, in order
 * @param texts folders of tokenizers
 * @param usual default settings
 * @param multiple width and height must be multiples of this, in pixels
 * @param others whether ComfyUI's samplers can be chosen, too
 */
export async function summarise(
  checkpoint: CheckpointComponents,
  scheduler: SchedulerConfig,
  parts: readonly Part[],
  texts: readonly string[],
  usual: Pick<CheckpointSummary['defaults'], 'width' | 'height'> & Partial<CheckpointSummary['defaults']>,
  multiple: number,
  others = true,
): Promise<CheckpointSummary> {
  const { files } = checkpoint;
  const all = parts.flatMap(({ component }) => tensorsOf(component).map(elementsOf));
  const onDevice = parts.flatMap(({ component, weights, apart = () => false }) =>
    tensorsOf(component)
      .filter(({ name }) => !apart(name))
      .map((tensor) => bytesOf(tensor, weights)),
  );
  const weightFiles = [...new Set(parts.flatMap(({ component }) => component.files))];
  const sizes = await Promise.all(weightFiles.map(async (path) => (await files.blob(path)).size));
  const stored = storedVariant(
    files,
    parts.map(({ component }) => component),
  );
  const folders = parts.map(({ component }) => component.name);
  const transformer = parts.find(({ component }) => component.name === 'transformer')?.component.weights;
  const families = transformer ? familiesOfNetworks({ transformer }) : [];
  const isText = (path: string) =>
    INDEXES.some((index) => index === path) ||
    path === 'scheduler/scheduler_config.json' ||
    folders.some((folder) => path.startsWith(`${folder}/`) && path.endsWith('.json')) ||
    texts.some(
      (folder) =>
        isTokenizerText(path, folder) ||
        (path === `${inFolder(folder)}${SPIECE}` && needsSpiece(files.paths(), folder)),
    );
  return {
    ref: files.ref,
    name: checkpoint.name,
    pipelineClass: checkpoint.pipelineClass,
    parameters: all.reduce((sum, count) => sum + count, 0),
    needs: files.paths().filter((path) => weightFiles.includes(path) || isText(path)),
    variants: stored ? [stored] : [...WEIGHT_VARIANTS],
    takesLoras: true,
    ...(families.length > 0 && { loraFamilies: families }),
    multiple,
    samplers: samplersFor(scheduler, others),
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    memoryBytes: onDevice.reduce((sum, bytes) => sum + bytes, 0),
    largestTensorBytes: Math.max(...onDevice),
    defaults: { ...schedulerDefaults(scheduler), prediction_type: 'flow_prediction', ...usual, ...files.habits },
    prompts: files.prompts,
  };
}

/** Samplers that can follow a flow: the scheduler's own first. Those that read the negative prompt's own prediction want one apart from guidance. */
function samplersFor({ className }: SchedulerConfig, others: boolean): string[] {
  const ids = (isOne: (scheduler: Scheduler) => boolean) =>
    schedulers.filter(isOne).flatMap((scheduler) => [...scheduler.samplers]);
  const own = ids(({ isFlow, className: known }) => isFlow === true && known === className);
  const comfyui = others && className.startsWith('FlowMatchEuler') ? ids(({ follows }) => follows === 'comfyui') : [];
  return [...new Set([...own, ...comfyui.filter((id) => !samplers[id].readsNegative)])];
}

/** The same for T5, whose folder may only have SentencePiece's own file. */
export async function t5Files(checkpoint: CheckpointComponents, folder: string): Promise<T5Files> {
  const texts = await tokenizerTexts(checkpoint, folder);
  const { files } = checkpoint;
  const path = `${inFolder(folder)}${SPIECE}`;
  const isNeeded = needsSpiece(files.paths(), folder) && files.has(path);
  const bytes = isNeeded ? await (await files.blob(path)).arrayBuffer() : undefined;
  return { folder, read: (name) => texts.read(name), spiece: bytes && new Uint8Array(bytes) };
}

const SPIECE = 'spiece.model';

function needsSpiece(paths: readonly string[], folder: string): boolean {
  return !paths.includes(`${inFolder(folder)}tokenizer.json`);
}

function isTokenizerText(path: string, folder: string): boolean {
  const start = inFolder(folder);
  return path.startsWith(start) && /^[^/]+\.(json|txt|jinja)$/.test(path.slice(start.length));
}

/** The prefix of paths in a folder; files beside a single-file checkpoint have none. */
function inFolder(folder: string): string {
  return folder === '' ? '' : `${folder}/`;
}

function tensorsOf({ weights }: Component): StoredTensor[] {
  return [...weights.names()].flatMap((name) => weights.get(name) ?? []);
}

function elementsOf({ shape }: StoredTensor): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** Bytes on the device, where the networks compute in f32. */
function bytesOf(tensor: StoredTensor, weights: WeightVariant): number {
  const elements = elementsOf(tensor);
  const bits = bitsOnDevice(tensor, tensor.shape, weights);
  return bits === null ? 4 * elements : (elements * bits) / 8 + (4 * elements) / BLOCK;
}
