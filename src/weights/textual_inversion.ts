/**
 * Textual inversion embeddings: vectors that a text encoder reads in place of the tokens of a name.
 *
 * Read are `.safetensors` with the names that are around: AUTOMATIC1111's `emb_params`, `clip_l` and `clip_g` of Stable Diffusion XL, and diffusers'
 * one tensor under the name of its token. All of their vectors follow each other where the name stands.
 *
 * Reference: modules/textual_inversion/textual_inversion.py of stable-diffusion-webui, comfy/sd1_clip.py (load_embed), diffusers/loaders/textual_inversion.py
 */
import { StudioError } from '../core/errors.ts';
import { asFloats, isReadable } from './quantise.ts';
import { readSafetensorsHeader, type TensorEntry } from './safetensors.ts';

/** For each text encoder of a checkpoint its vectors, as many. */
export type Embedding = readonly (readonly Float32Array<ArrayBuffer>[])[];

/** Names of tensors that say which encoder they are for, first Stable Diffusion XL's two. */
const NAMED = [/^clip_l$/, /^clip_g$/];

const MOST_VECTORS = 256;
/** Numbers of a vector; markers of checkpoints are smaller. */
const NARROWEST = 32;

/** Whether a file holds nothing but vectors; from its header. @throws StudioError `checkpoint_damaged` */
export async function isEmbedding(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  return looksLikeEmbedding([...tensors.values()]);
}

export function looksLikeEmbedding(tensors: readonly Pick<TensorEntry, 'name' | 'shape'>[]): boolean {
  const isVectors = ({ shape }: Pick<TensorEntry, 'shape'>) =>
    (shape.at(-1) ?? 0) >= NARROWEST && (shape.length === 1 || (shape.length === 2 && shape[0] <= MOST_VECTORS));
  const isNamed = tensors.some(({ name }) => name === 'emb_params' || NAMED.some((pattern) => pattern.test(name)));
  const isToken = tensors.length === 1 && !tensors[0].name.includes('.');
  return tensors.length > 0 && tensors.length <= 2 && tensors.every(isVectors) && (isNamed || isToken);
}

/**
 * @param file its name, for the message
 * @param widths of the checkpoint's text encoders, in order
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for one of another kind of model
 */
export async function readEmbedding(blob: Blob, file: string, widths: readonly number[]): Promise<Embedding> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const all = [...tensors.values()];
  const chosen = widths.map((width, encoder) =>
    widths.length === 1
      ? all.find(({ shape }) => shape.at(-1) === width)
      : all.find(({ name, shape }) => NAMED[encoder]?.test(name) && shape.at(-1) === width),
  );
  const given = all.map(({ shape }) => shape.at(-1)).join(' and ');
  const counts = new Set(chosen.map((tensor) => tensor && countOf(tensor)));
  if (chosen.some((tensor) => tensor === undefined) || counts.size !== 1 || all.length > widths.length) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The embedding ${file} has vectors of ${given} numbers, and this checkpoint reads ${widths.join(' and ')}; choose one that was made for this kind of model.`,
    );
  }
  return Promise.all(chosen.map((tensor) => vectorsOf(tensor as TensorEntry, blob, file)));
}

async function vectorsOf(tensor: TensorEntry, blob: Blob, file: string): Promise<Float32Array<ArrayBuffer>[]> {
  const { dtype, offset, length, shape } = tensor;
  if (!isReadable(dtype)) {
    throw new StudioError(
      'checkpoint_unsupported',
      `The embedding ${file} is stored as ${dtype}, which Darkroom cannot read; get it in F16, BF16 or F32.`,
    );
  }
  const values = asFloats(new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer()), dtype);
  const width = shape[shape.length - 1];
  return Array.from({ length: countOf(tensor) }, (_, i) =>
    Float32Array.from(values.subarray(i * width, (i + 1) * width)),
  );
}

function countOf({ shape }: Pick<TensorEntry, 'shape'>): number {
  return shape.length === 1 ? 1 : shape[0];
}
