/** The parts of a single-file checkpoint in separate files, as ComfyUI users have them. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensors } from '../src/weights/safetensors.ts';
import type { Contents } from './checkpoint_folder.ts';
import { originalLayoutFile } from './weightless_checkpoints.ts';

const HERE = import.meta.dirname;

/** A part's name prefix in the whole file, and the file it comes in. */
const FILES: Record<string, string> = {
  'model.diffusion_model.': 'diffusion_models/transformer.safetensors',
  'text_encoders.clip_l.transformer.': 'text_encoders/clip_l.safetensors',
  'text_encoders.clip_g.transformer.': 'text_encoders/clip_g.safetensors',
  'text_encoders.t5xxl.transformer.': 'text_encoders/t5xxl_fp16.safetensors',
  'text_encoders.qwen3_4b.transformer.': 'text_encoders/qwen_3_4b.safetensors',
  'first_stage_model.': 'vae/ae.safetensors',
  'vae.': 'vae/ae.safetensors',
};

/** @param name of a file of `test/original_layouts` */
export function splitFiles(name: string): Contents {
  const whole = originalLayoutFile(name);
  const length = safetensorsHeaderLength(whole.subarray(0, 8), whole.length, name);
  const header = parseSafetensorsHeader(whole.subarray(8, 8 + length), whole.length, name);
  const parts = new Map<string, [string, { dims: number[]; data: Float32Array<ArrayBuffer> }][]>();
  for (const { name: each, shape, offset, length: bytes } of header.tensors.values()) {
    const prefix = Object.keys(FILES).find((start) => each.startsWith(start)) ?? '';
    const tensors = parts.get(FILES[prefix]) ?? [];
    const data = new Float32Array(whole.slice(offset, offset + bytes).buffer);
    tensors.push([each.slice(prefix.length), { dims: shape, data }]);
    parts.set(FILES[prefix], tensors);
  }
  return new Map([...parts].map(([path, tensors]) => [path, writeSafetensors(tensors)]));
}

/** T5's and Qwen3's, of the tiny checkpoints. */
export const VOCABULARIES = {
  t5: readFileSync(join(HERE, 'weightless', 'tiny-flux1-schnell', 'tokenizer_2', 'spiece.model')),
  qwen3: readFileSync(join(HERE, 'weightless', 'tiny-z-image-turbo', 'tokenizer', 'tokenizer.json')),
} as const;

/** FLUX.1 in split files, its transformer a GGUF of several types; see `reference/split_files.py`. */
export function splitFlux1Gguf(): Contents {
  const contents = splitFiles('flux1');
  contents.delete('diffusion_models/transformer.safetensors');
  contents.set('flux1-dev-Q4_0.gguf', new Uint8Array(readFileSync(join(HERE, 'split_files', 'flux1.gguf'))));
  contents.set('text_encoders/spiece.model', new Uint8Array(VOCABULARIES.t5));
  return contents;
}

/** Z-Image in split files. */
export function splitZImage(): Contents {
  const contents = splitFiles('z_image');
  contents.set('text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwen3));
  return contents;
}
