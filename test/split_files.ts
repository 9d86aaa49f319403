/** The parts of a single-file checkpoint in separate files, as ComfyUI users have them. */
import { readFileSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { join } from '../src/formats/bytes.ts';
import { parseSafetensorsHeader, safetensorsHeaderLength, writeSafetensorsHeader } from '../src/weights/safetensors.ts';
import type { Contents } from './checkpoint_folder.ts';
import { ggufFile } from './gguf_file.ts';
import { scaledFloat8, type FileTensor, type Spelling } from './scaled_float8.ts';
import { originalLayoutFile } from './weightless_checkpoints.ts';

const HERE = import.meta.dirname;

const TRANSFORMER = 'diffusion_models/transformer.safetensors';

/** A part's name prefix in the whole file, and the file it comes in. */
const FILES: Record<string, string> = {
  'model.diffusion_model.': TRANSFORMER,
  'low_noise.': 'diffusion_models/wan2.2_t2v_low_noise_14B_fp16.safetensors',
  'clip_vision.': 'clip_vision/clip_vision_h.safetensors',
  'text_encoders.clip_l.transformer.': 'text_encoders/clip_l.safetensors',
  'text_encoders.clip_g.transformer.': 'text_encoders/clip_g.safetensors',
  'text_encoders.t5xxl.transformer.': 'text_encoders/t5xxl_fp16.safetensors',
  'text_encoders.qwen3_4b.transformer.': 'text_encoders/qwen_3_4b.safetensors',
  'text_encoders.mistral3_24b.transformer.': 'text_encoders/mistral_3_small_flux2_bf16.safetensors',
  'text_encoders.qwen3vl_4b.transformer.': 'text_encoders/qwen3vl_4b_bf16.safetensors',
  'text_encoders.qwen25_7b.transformer.': 'text_encoders/qwen_2.5_vl_7b.safetensors',
  'text_encoders.umt5xxl.transformer.': 'text_encoders/umt5_xxl_fp16.safetensors',
  'first_stage_model.': 'vae/ae.safetensors',
  'vae.': 'vae/ae.safetensors',
};

export interface Split {
  /** The part's files whose matrices are in 8 bits, and how these are spelled. */
  scaled?: { files: RegExp; spelling: Spelling };
  /** The file that keeps transformer and autoencoder together, under their whole names. */
  ltx?: string;
  /** Tensors that are left out, by their names in their file. */
  lacks?: RegExp;
  /** Files that come under another name. */
  named?: Readonly<Record<string, string>>;
}

/** @param name of a file of `test/original_layouts` */
export function splitFiles(name: string, { scaled, ltx, lacks, named = {} }: Split = {}): Contents {
  const whole = originalLayoutFile(name);
  const length = safetensorsHeaderLength(whole.subarray(0, 8), whole.length, name);
  const header = parseSafetensorsHeader(whole.subarray(8, 8 + length), whole.length, name);
  const parts = new Map<string, [name: string, shape: number[], data: Float32Array<ArrayBuffer>][]>();
  for (const { name: each, shape, offset, length: bytes } of header.tensors.values()) {
    const prefix = Object.keys(FILES).find((start) => each.startsWith(start)) ?? '';
    const isTogether = ltx !== undefined && !prefix.startsWith('text_encoders.');
    const path = isTogether ? ltx : FILES[prefix];
    const tensors = parts.get(path) ?? [];
    const own = isTogether ? each : each.slice(prefix.length);
    if (lacks?.test(own)) {
      continue;
    }
    tensors.push([own, shape, new Float32Array(whole.slice(offset, offset + bytes).buffer)]);
    parts.set(path, tensors);
  }
  return new Map(
    [...parts].map(([path, tensors]) => {
      const own = scaled?.files.test(path) ? scaledFloat8(tensors, scaled.spelling) : new Map<string, FileTensor>();
      for (const [each, shape, data] of own.size > 0 ? [] : tensors) {
        own.set(each, { dtype: 'F32', shape, bytes: new Uint8Array(data.buffer) });
      }
      if (/umt5/.test(path)) {
        const bytes = new Uint8Array(VOCABULARIES.t5);
        own.set('spiece_model', { dtype: 'U8', shape: [bytes.length], bytes });
      }
      return [named[path] ?? path, fileOf(own)];
    }),
  );
}

/** A safetensors file of tensors of any type. */
export function fileOf(tensors: ReadonlyMap<string, FileTensor>): Uint8Array<ArrayBuffer> {
  return join([writeSafetensorsHeader(tensors), ...[...tensors.values()].map(({ bytes }) => bytes)]);
}

/** Of the tiny checkpoints. */
export const VOCABULARIES = {
  t5: readFileSync(joinPath(HERE, 'weightless', 'tiny-flux1-schnell', 'tokenizer_2', 'spiece.model')),
  qwen3: readFileSync(joinPath(HERE, 'weightless', 'tiny-z-image-turbo', 'tokenizer', 'tokenizer.json')),
  mistral: readFileSync(joinPath(HERE, 'weightless', 'tiny-flux2-dev', 'tokenizer', 'tokenizer.json')),
  qwenVl: readFileSync(joinPath(HERE, 'weightless', 'tiny-qwen-image', 'tokenizer', 'tokenizer.json')),
} as const;

/** FLUX.1 in split files. */
export function splitFlux1(how?: Split): Contents {
  return new Map([...splitFiles('flux1', how), ['text_encoders/spiece.model', new Uint8Array(VOCABULARIES.t5)]]);
}

/** The same, its transformer a GGUF of several types; see `reference/split_files.py`. */
export function splitFlux1Gguf(): Contents {
  const contents = splitFlux1();
  contents.delete(TRANSFORMER);
  contents.set('flux1-dev-Q4_0.gguf', new Uint8Array(readFileSync(joinPath(HERE, 'split_files', 'flux1.gguf'))));
  return contents;
}

/** Z-Image in split files. */
export function splitZImage(how?: Split): Contents {
  return new Map([...splitFiles('z_image', how), ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwen3)]]);
}

/** FLUX.2 klein in split files. */
export function splitFlux2(how?: Split): Contents {
  return new Map([...splitFiles('flux2', how), ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwen3)]]);
}

/** FLUX.2 dev in split files. */
export function splitFlux2Dev(how?: Split): Contents {
  return new Map([
    ...splitFiles('flux2_dev', how),
    ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.mistral)],
  ]);
}

/** FLUX.3 klein in split files. */
export function splitFlux3(how?: Split): Contents {
  return new Map([...splitFiles('flux3', how), ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwen3)]]);
}

/** The same before it was distilled: without what tells it where a step leads. */
export function splitFlux3Base(): Contents {
  return splitFlux3({ lacks: /^ref_time_in\./ });
}

/** The same, its transformer a GGUF of several types, its text encoder one that has llama.cpp's names and no eyes. */
export function splitFlux3Gguf(): Contents {
  return asGguf(splitFlux3(), ['flux-3-klein-Q4_0.gguf', 'flux3.gguf'], {
    path: 'text_encoders/qwen3vl_4b_bf16.safetensors',
    gguf: 'text_encoders/Qwen3-VL-4B-Instruct.gguf',
    architecture: 'qwen3vl',
  });
}

/** Qwen-Image in split files. */
export function splitQwenImage(how?: Split): Contents {
  return new Map([
    ...splitFiles('qwen_image', how),
    ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwenVl)],
  ]);
}

/** Qwen-Image-Edit-2511 in split files, as its name says. */
export function splitQwenImageEdit(): Contents {
  return new Map([
    ...splitFiles('qwen_image_edit', {
      named: { [TRANSFORMER]: 'diffusion_models/qwen_image_edit_2511_bf16.safetensors' },
    }),
    ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwenVl)],
  ]);
}

/** Qwen-Image-Layered in split files. */
export function splitQwenLayered(): Contents {
  return new Map([
    ...splitFiles('qwen_image_layered'),
    ['text_encoders/tokenizer.json', new Uint8Array(VOCABULARIES.qwenVl)],
  ]);
}

/** Qwen-Image, its transformer a GGUF of several types, its text encoder one that has llama.cpp's names and no eyes. */
export function splitQwenImageGguf(): Contents {
  return asGguf(splitQwenImage(), ['qwen-image-Q4_0.gguf', 'qwen_image.gguf'], {
    path: 'text_encoders/qwen_2.5_vl_7b.safetensors',
    gguf: 'text_encoders/Qwen2.5-VL-7B.gguf',
    architecture: 'qwen2vl',
  });
}

/** FLUX.2 dev with a Mistral as llama.cpp's converter writes it. */
export function splitFlux2DevGguf(): Contents {
  const contents = splitFlux2Dev();
  const path = 'text_encoders/mistral_3_small_flux2_bf16.safetensors';
  const file = contents.get(path) as Uint8Array;
  contents.delete(path);
  contents.set('text_encoders/Mistral-Small-3.2-24B-Instruct-2506.gguf', llamaFile(file, 'llama'));
  return contents;
}

/** Elements of a head of the tiny Mistral, as of the published one. */
const HEAD = 128;

/** The converter's `LlamaModel.permute`: the halves of each head alternate. */
function permuted(bytes: Uint8Array<ArrayBuffer>, rows: number): Uint8Array<ArrayBuffer> {
  const row = bytes.length / rows;
  return join(
    Array.from({ length: rows }, (_, at) => {
      const [head, inside] = [Math.floor(at / HEAD), at % HEAD];
      const from = head * HEAD + (inside % 2) * (HEAD / 2) + Math.floor(inside / 2);
      return bytes.slice(from * row, (from + 1) * row);
    }),
  );
}

const LLAMA: [RegExp, string][] = [
  [/^model\.(?:language_model\.)?layers\.(\d+)\.self_attn\.([qkv])_proj\./, 'blk.$1.attn_$2.'],
  [/^model\.(?:language_model\.)?layers\.(\d+)\.self_attn\.([qk])_norm\./, 'blk.$1.attn_$2_norm.'],
  [/^model\.(?:language_model\.)?layers\.(\d+)\.self_attn\.o_proj\./, 'blk.$1.attn_output.'],
  [/^model\.(?:language_model\.)?layers\.(\d+)\.input_layernorm\./, 'blk.$1.attn_norm.'],
  [/^model\.(?:language_model\.)?layers\.(\d+)\.post_attention_layernorm\./, 'blk.$1.ffn_norm.'],
  [/^model\.(?:language_model\.)?layers\.(\d+)\.mlp\.(gate|up|down)_proj\./, 'blk.$1.ffn_$2.'],
  [/^model\.(?:language_model\.)?embed_tokens\./, 'token_embd.'],
  [/^model\.(?:language_model\.)?norm\./, 'output_norm.'],
];

/** The language model as llama.cpp's converter writes it, in f32. */
function llamaFile(file: Uint8Array, architecture: 'llama' | 'qwen2vl' | 'qwen3vl'): Uint8Array<ArrayBuffer> {
  const length = safetensorsHeaderLength(file.subarray(0, 8), file.length, 'encoder');
  const { tensors } = parseSafetensorsHeader(file.subarray(8, 8 + length), file.length, 'encoder');
  const written = [...tensors.values()].flatMap(({ name, shape, offset, length: bytes }) => {
    const rule = LLAMA.find(([pattern]) => pattern.test(name));
    const own = file.slice(offset, offset + bytes);
    const isTurned = architecture === 'llama' && /\.self_attn\.[qk]_proj\./.test(name);
    return rule
      ? [{ name: name.replace(...rule), type: 0, shape, bytes: isTurned ? permuted(own, shape[0]) : own }]
      : [];
  });
  return ggufFile({ metadata: { 'general.architecture': architecture }, tensors: written });
}

/** Wan in split files; its text encoder's file has the vocabulary in it. */
export const splitWan = (how?: Split): Contents => splitFiles('wan', how);

/** LTX-Video in the file that has transformer and autoencoder, and T5 with its vocabulary beside it. */
export function splitLtx(name: 'ltx_file' | 'ltx_file_095'): Contents {
  const parts = splitFiles(name, { ltx: 'ltx-video-2b.safetensors' });
  return new Map([...parts, ['text_encoders/spiece.model', new Uint8Array(VOCABULARIES.t5)]]);
}

/** Wan with two transformers, told apart by their names. */
export function splitWanExperts(): Contents {
  return splitFiles('wan_experts', {
    named: { [TRANSFORMER]: 'diffusion_models/wan2.2_t2v_high_noise_14B_fp16.safetensors' },
  });
}

const scaled = (files: RegExp) => ({ scaled: { files, spelling: 'scale_weight' as const } });

/** @param transformer its name, and the file of `test/split_files` that it is */
function asGguf(
  contents: Contents,
  [name, transformer]: readonly [string, string],
  reader: { path: string; gguf: string; architecture: Parameters<typeof llamaFile>[1] },
): Contents {
  contents.delete(TRANSFORMER);
  contents.set(name, new Uint8Array(readFileSync(joinPath(HERE, 'split_files', transformer))));
  const file = contents.get(reader.path) as Uint8Array;
  contents.delete(reader.path);
  contents.set(reader.gguf, llamaFile(file, reader.architecture));
  return contents;
}

/** A Stable Diffusion 1 of one file, and motion modules beside it. */
export function splitAnimateDiff(): Contents {
  return new Map([
    ['sd1.safetensors', new Uint8Array(readFileSync(joinPath(HERE, 'single_files', 'sd1.safetensors')))],
    ['mm_sd_v15_v2.safetensors', originalLayoutFile('motion')],
  ]);
}

/** The cases of `goldens`, with the files that they are made from. */
export const SPLIT_CASES: { what: string; goldens: string; name: string; contents: () => Contents }[] = [
  { what: 'FLUX.1', goldens: 'original_layouts', name: 'flux1', contents: splitFlux1 },
  {
    what: 'Stable Diffusion 3.5 without T5',
    goldens: 'original_layouts',
    name: 'sd35',
    contents: () => splitFiles('sd35'),
  },
  { what: 'Z-Image', goldens: 'split_files', name: 'z-image', contents: splitZImage },
  { what: 'FLUX.1, a GGUF of eight types', goldens: 'split_files', name: 'flux1-gguf', contents: splitFlux1Gguf },
  { what: 'Qwen-Image', goldens: 'split_files', name: 'qwen-image', contents: splitQwenImage },
  { what: 'Qwen-Image, two GGUF files', goldens: 'split_files', name: 'qwen-image-gguf', contents: splitQwenImageGguf },
  { what: 'Qwen-Image-Edit-2511', goldens: 'split_files', name: 'qwen-edit', contents: splitQwenImageEdit },
  { what: 'Qwen-Image-Layered', goldens: 'split_files', name: 'qwen-layered', contents: splitQwenLayered },
  { what: 'FLUX.2 klein', goldens: 'split_files', name: 'flux2-klein', contents: splitFlux2 },
  {
    what: 'FLUX.2 klein that was not distilled',
    goldens: 'split_files',
    name: 'flux2-klein-base',
    contents: () => splitFlux2({ named: { [TRANSFORMER]: 'diffusion_models/flux-2-klein-base-4b.safetensors' } }),
  },
  { what: 'FLUX.3 klein', goldens: 'split_files', name: 'flux3', contents: splitFlux3 },
  { what: 'FLUX.3 klein, two GGUF files', goldens: 'split_files', name: 'flux3-gguf', contents: splitFlux3Gguf },
  {
    what: 'FLUX.3 klein that was not distilled',
    goldens: 'split_files',
    name: 'flux3-base',
    contents: splitFlux3Base,
  },
  { what: 'FLUX.2 dev', goldens: 'split_files', name: 'flux2-dev', contents: splitFlux2Dev },
  {
    what: 'FLUX.2 dev, its text encoder a GGUF',
    goldens: 'split_files',
    name: 'flux2-dev',
    contents: splitFlux2DevGguf,
  },
  { what: 'Wan with two transformers', goldens: 'split_files', name: 'wan-experts', contents: splitWanExperts },
  {
    what: 'Wan 2.1 from a first and a last picture',
    goldens: 'split_files',
    name: 'wan-flf2v',
    contents: () => splitFiles('wan_flf2v'),
  },
  { what: 'Wan 2.2 5B', goldens: 'split_files', name: 'wan-ti2v', contents: () => splitFiles('wan_ti2v') },
  { what: 'Wan', goldens: 'split_files', name: 'wan', contents: splitWan },
  { what: 'AnimateDiff', goldens: 'split_files', name: 'animatediff-file', contents: splitAnimateDiff },
  {
    what: 'LTX-Video 0.9.0 in one file',
    goldens: 'split_files',
    name: 'ltx-file',
    contents: () => splitLtx('ltx_file'),
  },
  {
    what: 'LTX-Video 0.9.5 in one file',
    goldens: 'split_files',
    name: 'ltx-file-095',
    contents: () => splitLtx('ltx_file_095'),
  },
  {
    what: 'FLUX.1 in scaled 8 bits',
    goldens: 'split_files',
    name: 'flux1-scaled',
    contents: () => splitFlux1(scaled(/transformer|t5/)),
  },
  {
    what: 'Wan in scaled 8 bits',
    goldens: 'split_files',
    name: 'wan-scaled',
    contents: () => splitWan(scaled(/transformer|umt5/)),
  },
  {
    what: 'Qwen-Image in scaled 8 bits, in the newer spelling',
    goldens: 'split_files',
    name: 'qwen-image-scaled',
    contents: () => splitQwenImage({ scaled: { files: /transformer|qwen/, spelling: 'weight_scale' } }),
  },
];
