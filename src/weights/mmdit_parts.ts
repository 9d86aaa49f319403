/**
 * A flow transformer's networks in files of their own, as ComfyUI users have them in `diffusion_models`, `text_encoders` and `vae`: what each
 * file is follows from its tensors' names, and together they are named as in a file that has all of them (see mmdit_layout.ts).
 */
import { indexOf } from '../core/checkpoint_indexes.ts';
import { StudioError } from '../core/errors.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import type { CheckpointFiles } from './checkpoint_files.ts';
import { PREFIXES, isWholeName, mmditKind, type MmditKind } from './mmdit_layout.ts';
import { requireUnpacked } from './packed_formats.ts';
import { LTX_VAE } from './ltx_layout.ts';
import { WAN_VAE } from './wan_layout.ts';
import { isWeightFile, readWeightFile, type WeightFile } from './weight_file.ts';

/** A file, and what its tensors would be called in a file that has all parts. */
export interface PartFile {
  file: WeightFile;
  nameOf: (name: string) => string;
}

/** What a file holds by itself. */
interface Part {
  /** For people. */
  name: string;
  prefix: string;
  /** Tensors, of which it has one. */
  has: readonly string[];
}

const CLIP = 'text_model.encoder.layers.0.mlp.fc1.weight';

/** What tells UMT5 from T5 comes before what both have. */
const PARTS: readonly Part[] = [
  {
    name: 'UMT5',
    prefix: PREFIXES.umt5,
    has: ['encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight'],
  },
  { name: 'T5', prefix: PREFIXES.t5, has: ['encoder.block.0.layer.0.SelfAttention.q.weight'] },
  { name: 'Qwen3-VL', prefix: PREFIXES.qwen3Vl, has: ['model.language_model.layers.0.self_attn.q_norm.weight'] },
  { name: 'Qwen3', prefix: PREFIXES.qwen3, has: ['model.layers.0.self_attn.q_norm.weight'] },
  {
    name: 'Qwen2.5-VL',
    prefix: PREFIXES.qwenVl,
    has: ['model.layers.0.self_attn.k_proj.bias', 'model.language_model.layers.0.self_attn.k_proj.bias'],
  },
  { name: 'CLIP vision', prefix: PREFIXES.clipVision, has: ['vision_model.encoder.layers.0.mlp.fc1.weight'] },
  // It has neither of what tells the two before it.
  { name: 'Mistral', prefix: PREFIXES.mistral, has: ['model.layers.0.self_attn.q_proj.weight'] },
  { name: 'VAE', prefix: PREFIXES.vae, has: ['decoder.conv_in.weight', WAN_VAE, LTX_VAE] },
];

/** From this width on a CLIP that lies there alone is the larger one, OpenCLIP. */
const OPEN_CLIP_WIDTH = 1024;

/** The weight files of what was opened; none where it is a diffusers folder. */
export function weightFilesOf(files: CheckpointFiles): string[] {
  return indexOf((path) => files.has(path)) ? [] : files.paths().filter(isWeightFile);
}

/** @throws StudioError as {@link readWeightFile} */
export async function readParts(files: CheckpointFiles): Promise<PartFile[]> {
  const read = await Promise.all(weightFilesOf(files).map((path) => readWeightFile(files, path)));
  const renamed = read.map(withTransformersNames);
  const clips = renamed.filter(({ names }) => names.has(CLIP)).sort((a, b) => clipWidth(a) - clipWidth(b));
  return renamed.map((file) => ({ file, nameOf: namesIn(file, clips) }));
}

/** Which family the files are of, or at least their transformer. */
export function kindOf(parts: readonly PartFile[]): MmditKind | null {
  const names = new Set(parts.flatMap(({ file, nameOf }) => [...file.names].map(nameOf)));
  return mmditKind((name) => names.has(name));
}

/**
 * The same part twice would leave it to chance which one is used.
 * @throws StudioError `checkpoint_unsupported`
 */
export function requireSingle(files: CheckpointFiles, parts: readonly PartFile[]): void {
  const seen = new Map<string, string>();
  for (const { file, nameOf } of parts) {
    for (const own of file.names) {
      const name = nameOf(own);
      const other = seen.get(name);
      if (other !== undefined && other !== file.path && isWholeName(name)) {
        throw new StudioError(
          'checkpoint_unsupported',
          `${other} and ${file.path} in "${files.name}" hold the same part of a model; choose only the files that belong together.`,
        );
      }
      seen.set(name, file.path);
    }
  }
}

/** What to say of files that are no whole model of any kind; null where there is nothing to say of them. */
export async function whatPartsAre(files: CheckpointFiles): Promise<StudioError | null> {
  const paths = weightFilesOf(files);
  // With configurations it is a folder in the diffusers layout of which something is missing.
  const isFolder = files.paths().some((path) => /(^|\/)config\.json$/.test(path));
  if (isFolder || paths.length === 0 || (paths.length === 1 && !/\.gguf$/i.test(paths[0]))) {
    return null;
  }
  const parts = await readParts(files);
  for (const { file } of parts) {
    requireUnpacked(file.names, file.path);
  }
  const said = parts.map(({ file }) => whatIs(file));
  return new StudioError(
    'checkpoint_unsupported',
    `Darkroom finds no model in "${files.name}" that it can run: ${said.slice(0, 6).join(', ')}. It runs transformers of FLUX.1, FLUX.2, FLUX.3, LTX-Video, Qwen-Image, Stable Diffusion 3, Wan and Z-Image together with their text encoders and autoencoder, and diffusers folders.`,
  );
}

/** Its path, with what it is as far as that is known. */
function whatIs({ path, names, architecture }: WeightFile): string {
  const part = names.has(CLIP)
    ? 'CLIP'
    : (PARTS.find(({ has }) => has.some((name) => names.has(name)))?.name ?? architecture);
  return part === null ? path : `${path} (${part})`;
}

/** @param clips all of the opened files, the narrowest first */
function namesIn(file: WeightFile, clips: readonly WeightFile[]): PartFile['nameOf'] {
  if ([...file.names].some(isWholeName)) {
    return (name) => name;
  }
  const has = (name: string) => file.names.has(name);
  const kind = mmditKind(has);
  if (kind) {
    const prefix = kind === 'wan' && noiseOf(file.path) === 'low' ? PREFIXES.second : PREFIXES.transformer;
    return (name) => prefix + name;
  }
  const place = clips.indexOf(file);
  if (place >= 0) {
    const isLarger = clips.length > 1 ? place > 0 : clipWidth(file) >= OPEN_CLIP_WIDTH;
    return (name) => (isLarger ? PREFIXES.clipG : PREFIXES.clipL) + name;
  }
  const part = PARTS.find((each) => each.has.some(has));
  return (name) => (part?.prefix ?? '') + name;
}

/** For how much noise a transformer of Wan 2.2 A14B is, as its name says; null for every other one. */
export function noiseOf(path: string): 'high' | 'low' | null {
  const said = /(high|low)[-_]?noise/i.exec(path)?.[1].toLowerCase();
  return said === 'high' || said === 'low' ? said : null;
}

function clipWidth({ tensors }: WeightFile): number {
  return tensors.find(({ name }) => name === CLIP)?.shape[1] ?? 0;
}

const T5_LAYERS: Record<string, string> = {
  attn_q: 'layer.0.SelfAttention.q',
  attn_k: 'layer.0.SelfAttention.k',
  attn_v: 'layer.0.SelfAttention.v',
  attn_o: 'layer.0.SelfAttention.o',
  attn_rel_b: 'layer.0.SelfAttention.relative_attention_bias',
  attn_norm: 'layer.0.layer_norm',
  ffn_gate: 'layer.1.DenseReluDense.wi_0',
  ffn_up: 'layer.1.DenseReluDense.wi_1',
  ffn_down: 'layer.1.DenseReluDense.wo',
  ffn_norm: 'layer.1.layer_norm',
};

const LLAMA_LAYERS: Record<string, string> = {
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  attn_norm: 'input_layernorm',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/**
 * llama.cpp has names of its own for the layers of language models, in which their GGUF files come.
 * Reference: llama.cpp/gguf-py/gguf/constants.py (TENSOR_NAMES), convert_hf_to_gguf.py (LlamaModel.permute)
 */
function withTransformersNames(file: WeightFile): WeightFile {
  const isT5 = file.names.has('enc.blk.0.attn_q.weight');
  if (!isT5 && !file.names.has('blk.0.attn_q.weight')) {
    return file;
  }
  const isQwen = file.names.has('blk.0.attn_q_norm.weight') || file.names.has('blk.0.attn_q.bias');
  const root = file.architecture === 'qwen3vl' ? 'model.language_model' : 'model';
  const nameOf = isT5 ? t5Name : (name: string) => llamaName(name, root);
  // The rows that are turned lie as its own kernels want them, those of Qwen as in transformers.
  const pairs = (name: string) => (!isT5 && !isQwen && /\.attn_[qk]\.weight$/.test(name) ? { pairs: PAIRS } : {});
  const own = new Map([...file.names].map((name) => [nameOf(name), name]));
  return {
    ...file,
    names: new Set(own.keys()),
    tensors: file.tensors.map((tensor): StoredTensor => ({
      ...tensor,
      ...pairs(tensor.name),
      name: nameOf(tensor.name),
    })),
    requireReadable: (isWeight) => {
      file.requireReadable((name) => isWeight(nameOf(name)));
    },
  };
}

function t5Name(name: string): string {
  const [, block, layer] = /^enc\.blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  if (block !== undefined && T5_LAYERS[layer] !== undefined) {
    return `encoder.block.${block}.${T5_LAYERS[layer]}.weight`;
  }
  const ends: Record<string, string> = {
    'token_embd.weight': 'shared.weight',
    'enc.output_norm.weight': 'encoder.final_layer_norm.weight',
  };
  return ends[name] ?? name;
}

const PAIRS = 'neighbours' as const;

/** Of Mistral, of Qwen3 and the words of Qwen3-VL, which has norms of heads, and of Qwen2.5-VL without its eyes, whose layers have biases. */
function llamaName(name: string, root: string): string {
  const [, block, layer, ending] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name) ?? [];
  if (block !== undefined && LLAMA_LAYERS[layer] !== undefined) {
    return `${root}.layers.${block}.${LLAMA_LAYERS[layer]}.${ending}`;
  }
  const ends: Record<string, string> = {
    'token_embd.weight': `${root}.embed_tokens.weight`,
    'output_norm.weight': `${root}.norm.weight`,
    'output.weight': 'lm_head.weight',
  };
  return ends[name] ?? name;
}
