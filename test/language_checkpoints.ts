/** The tiny checkpoints of `test/language`, whose weights are made here by the formula that their weights.json states. */
import { readFileSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { ChatMessage } from '../src/core/text_service.ts';
import type { Contents } from './checkpoint_folder.ts';
import { hashed } from './hashed_weights.ts';

const ROOT = join(import.meta.dirname, 'language');

export const LANGUAGE_MODELS = ['tiny-llama', 'tiny-qwen3'] as const;
export const VOICE = 'tiny-vits';

interface Weights {
  path: string;
  bytes: number;
  tensors: { number: number; shape: number[]; scale: number; add: number; transposed?: boolean }[];
}

/** What transformers' greedy search makes of a chat. */
export interface LanguageGoldens {
  max_new_tokens: number;
  cases: { messages: ChatMessage[]; prompt: string; prompt_ids: number[]; ids: number[]; text: string }[];
}

export interface SpeechGoldens {
  rate: number;
  cases: { text: string; ids: number[] }[];
}

/** The files of a checkpoint as it would be downloaded. */
export function languageContents(name: string): Contents {
  const root = join(ROOT, name);
  const contents: Contents = new Map();
  for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && !/^(weights|goldens)\.json$|\.safetensors$/.test(entry.name)) {
      const path = join(entry.parentPath, entry.name);
      contents.set(relative(root, path), new Uint8Array(readFileSync(path)));
    }
  }
  const { path, tensors } = read<Weights>(name, 'weights.json');
  const parts = tensors.map(({ number, shape, scale, add, transposed }) => {
    const values = hashed(
      number,
      shape.reduce((product, dim) => product * dim, 1),
      scale,
      add,
    );
    return transposed ? transpose(values, shape) : values;
  });
  const length = parts.reduce((sum, { byteLength }) => sum + byteLength, 0);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(new Uint8Array(part.buffer), at);
    at += part.byteLength;
  }
  contents.set(path, bytes);
  return contents;
}

/**
 * Turns `tiny-llama` into a model with a single token, the whole of `reply`, which it repeats as long as allowed.
 */
export function saying(contents: Contents, reply: string): void {
  const change = (path: string, to: (json: Json) => Json) => {
    const json = JSON.parse(new TextDecoder().decode(contents.get(path))) as Json;
    contents.set(path, new TextEncoder().encode(JSON.stringify(to(json))));
  };
  let only = 0;
  let count = 0;
  change('tokenizer.json', (json) => {
    const model = json.model as { vocab: Record<string, number>; merges: [string, string][] };
    // The last learnt token is part of no other.
    const last = (model.merges.pop() ?? []).join('');
    const { [last]: token, ...vocab } = model.vocab;
    only = token;
    count = Object.keys(model.vocab).length;
    return { ...json, model: { ...model, vocab: { ...vocab, [reply]: token } } };
  });
  change('generation_config.json', (json) => ({
    ...json,
    suppress_tokens: Array.from({ length: count }, (_, token) => token).filter((token) => token !== only),
  }));
}

type Json = Record<string, unknown>;

export function languageGoldens(name: (typeof LANGUAGE_MODELS)[number]): LanguageGoldens {
  return read(name, 'goldens.json');
}

export function speechGoldens(): SpeechGoldens {
  return read(VOICE, 'goldens.json');
}

/** Waveforms of the cases of {@link speechGoldens}. */
export const WAVEFORMS = join(ROOT, VOICE, 'waveforms.safetensors');

function read<T>(name: string, file: string): T {
  return JSON.parse(readFileSync(join(ROOT, name, file), 'utf8')) as T;
}

function transpose(values: Float32Array<ArrayBuffer>, [rows, columns]: number[]): Float32Array<ArrayBuffer> {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      turned[column * rows + row] = values[row * columns + column];
    }
  }
  return turned;
}
