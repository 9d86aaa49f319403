/**
 * The layout of the original code of flow transformers, in which ComfyUI keeps whole checkpoints in one file: which tensor of it is which of
 * diffusers' and transformers' modules. Nothing is copied; where the original keeps several layers in one tensor, each is a range of its rows.
 * Qwen-Image's transformer is called there as in diffusers; FLUX.2, FLUX.3, Wan and LTX-Video
 * are in flux2_layout.ts, flux3_layout.ts, wan_layout.ts and ltx_layout.ts.
 *
 * Reference: diffusers/loaders/single_file_utils.py (convert_sd3_transformer_checkpoint_to_diffusers,
 * convert_flux_transformer_checkpoint_to_diffusers, convert_z_image_transformer_checkpoint_to_diffusers)
 */
import { flux2Parts, flux2Paths, flux2VaePath } from './flux2_layout.ts';
import { flux3Parts, flux3Paths } from './flux3_layout.ts';
import { HEAD_MODULATION, shiftFirst, together, whole, type LayerPart, type Rows } from './layer_parts.ts';
import { LTX_VAE, ltxParts, ltxPaths, ltxTable, ltxVaeNames } from './ltx_layout.ts';
import { lastUpBlock, vaePath } from './original_layout.ts';
import { isBesideWeights } from './scaled_weights.ts';
import { WAN_VAE, wanParts, wanPaths, wanTable, wanVaePaths } from './wan_layout.ts';

export type MmditKind = 'sd3' | 'flux1' | 'flux2' | 'flux3' | 'z_image' | 'qwen_image' | 'wan' | 'ltx';
export type MmditComponent =
  'transformer' | 'transformer_2' | 'vae' | 'text_encoder' | 'text_encoder_2' | 'text_encoder_3' | 'image_encoder';

/** What a tensor of the file, or a part of its rows, is for. */
export interface MmditMeaning {
  component: MmditComponent;
  name: string;
  rows?: Rows;
}

/** How the names of a part's tensors begin. */
export const PREFIXES = {
  transformer: 'model.diffusion_model.',
  /** Of Wan 2.2's second, which is for little noise and always in a file of its own. */
  second: 'model.diffusion_model_2.',
  vae: 'vae.',
  clipL: 'text_encoders.clip_l.transformer.',
  clipG: 'text_encoders.clip_g.transformer.',
  t5: 'text_encoders.t5xxl.transformer.',
  /** By which Wan 2.1 sees pictures. */
  clipVision: 'clip_vision.',
  umt5: 'text_encoders.umt5xxl.transformer.',
  qwen3: 'text_encoders.qwen3_4b.transformer.',
  qwen3Large: 'text_encoders.qwen3_8b.transformer.',
  qwen3Vl: 'text_encoders.qwen3vl_4b.transformer.',
  qwenVl: 'text_encoders.qwen25_7b.transformer.',
  mistral: 'text_encoders.mistral3_24b.transformer.',
} as const;

const TRANSFORMER = PREFIXES.transformer;
const VAES = ['first_stage_model.', PREFIXES.vae];

/** Whether a tensor is called as in a file that has several parts. */
export function isWholeName(name: string): boolean {
  return [...Object.values(PREFIXES), ...VAES].some((prefix) => name.startsWith(prefix));
}

/** Which family these tensors are of, or at least their transformer's; null for anything else. */
export function mmditKind(has: (name: string) => boolean): MmditKind | null {
  const own = (prefix: string): MmditKind | null =>
    (Object.keys(KINDS) as MmditKind[]).find((kind) => KINDS[kind].has.every((name) => has(prefix + name))) ?? null;
  return own('') ?? own(TRANSFORMER) ?? own(PREFIXES.second);
}

/** Reads names of this layout, as `originalNames` does; `names` are all of the file. */
export function mmditNames(kind: MmditKind, names: Iterable<string>): (name: string) => MmditMeaning[] {
  const all = [...names];
  const root = all.some((name) => name.startsWith(TRANSFORMER)) ? TRANSFORMER : '';
  const vaeName = vaeNames(all);
  const blocks = all.flatMap((name) => /(?:^|\.)joint_blocks\.(\d+)\./.exec(name)?.[1] ?? []);
  const last = Math.max(0, ...blocks.map(Number));
  return (name) => {
    const starts = (prefix: string) => (name.startsWith(prefix) ? name.slice(prefix.length) : null);
    for (const [part, component] of Object.entries(KINDS[kind].encoders)) {
      const own = starts(PREFIXES[part as keyof typeof PREFIXES]);
      if (own !== null) {
        return isBesideWeights(own) || isSpiece(name) ? [] : [{ component, name: own }];
      }
    }
    if (name.startsWith(TEXTS)) {
      return [];
    }
    const vae = VAES.map(starts).find((rest) => rest !== null);
    if (vae !== undefined) {
      const own = vaeName(vae);
      return own === null ? [] : [{ component: 'vae', name: own }];
    }
    const second = starts(PREFIXES.second);
    const component = second === null ? 'transformer' : 'transformer_2';
    const inner = second ?? starts(root) ?? '';
    const table = KINDS[kind].table?.(inner);
    if (table !== undefined) {
      return [{ component, name: table }];
    }
    const [, path, ending] = /^(.*)\.(weight|bias|scale)$/.exec(inner) ?? [];
    if (path === undefined) {
      return [];
    }
    return KINDS[kind].parts(path, last).map(({ path: own, rows }) => ({
      component,
      name: `${own}.${ending === 'scale' ? 'weight' : ending}`,
      ...(rows && { rows }),
    }));
  };
}

/** Reads the autoencoder's names without their prefix. @returns null for what is no tensor of it */
function vaeNames(names: readonly string[]): (name: string) => string | null {
  const own = names.flatMap((name) =>
    VAES.flatMap((prefix) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : [])),
  );
  // diffusers' own file, picked by itself.
  if (own.some((name) => name.startsWith('decoder.mid_block.'))) {
    return (name) => (/\.(?:weight|bias|gamma|running_mean|running_var)$/.test(name) ? name : null);
  }
  if (own.includes(LTX_VAE)) {
    return ltxVaeNames(own);
  }
  const isStandardised = own.includes('bn.running_mean');
  const lastUp = lastUpBlock(own, '');
  const pathOf = own.includes(WAN_VAE)
    ? wanVaePaths(own)
    : (path: string) => (isStandardised ? flux2VaePath : vaePath)(path, lastUp);
  return (name) => {
    if (/^bn\.running_(?:mean|var)$/.test(name)) {
      return name;
    }
    const [, path, ending] = /^(.*)\.(weight|bias|gamma)$/.exec(name) ?? [];
    const module = path === undefined ? null : pathOf(path);
    return module === null ? null : `${module}.${ending}`;
  };
}

/** Whether it is SentencePiece's file, which ComfyUI keeps among UMT5's tensors. */
export function isSpiece(name: string): boolean {
  return /^text_encoders\.umt5xxl\.(?:transformer\.)?spiece_model$/.test(name);
}

const TEXTS = 'text_encoders.';

interface Layout {
  /** Tensors of its transformer, by which it is told from the others. */
  has: readonly string[];
  /** Which of its encoders of words and pictures lies under which name. */
  encoders: Partial<Record<keyof typeof PREFIXES, MmditComponent>>;
  /** @param last number of the last block */
  parts: (path: string, last: number) => LayerPart[];
  /** A tensor that is no weight or bias of a layer, by its name in diffusers' modules. */
  table?: (name: string) => string | undefined;
}

const KINDS: Record<MmditKind, Layout> = {
  sd3: {
    has: ['final_layer.linear.weight', 'joint_blocks.0.x_block.attn.qkv.weight'],
    encoders: { clipL: 'text_encoder', clipG: 'text_encoder_2', t5: 'text_encoder_3' },
    parts: sd3Parts,
    table: (name) => (name === 'pos_embed' ? 'pos_embed.pos_embed' : undefined),
  },
  z_image: {
    // Lumina 2 has the same layers and fills nothing up.
    has: ['final_layer.linear.weight', 'noise_refiner.0.attention.qkv.weight', 'x_pad_token'],
    encoders: { qwen3: 'text_encoder' },
    parts: zImageParts,
    table: (name) => (/^(?:x|cap)_pad_token$/.test(name) ? name : undefined),
  },
  flux1: {
    // Others have double blocks, too, but are told nothing of the text as a whole.
    has: ['final_layer.linear.weight', 'double_blocks.0.img_attn.qkv.weight', 'vector_in.in_layer.weight'],
    encoders: { clipL: 'text_encoder', t5: 'text_encoder_2' },
    parts: fluxParts,
  },
  flux2: {
    has: ['double_blocks.0.img_attn.qkv.weight', 'single_stream_modulation.lin.weight'],
    encoders: { qwen3: 'text_encoder', qwen3Large: 'text_encoder', mistral: 'text_encoder' },
    parts: flux2Parts,
  },
  flux3: {
    has: ['early_stream_modulations.image.lin.weight', 'content_mode_blocks.image.0.q_proj.weight'],
    encoders: { qwen3Vl: 'text_encoder' },
    parts: flux3Parts,
  },
  qwen_image: {
    has: ['txt_norm.weight', 'transformer_blocks.0.attn.add_q_proj.weight', 'transformer_blocks.0.img_mod.1.weight'],
    encoders: { qwenVl: 'text_encoder' },
    parts: whole,
  },
  wan: {
    has: ['head.modulation', 'blocks.0.self_attn.q.weight'],
    encoders: { umt5: 'text_encoder', clipVision: 'image_encoder' },
    parts: wanParts,
    table: wanTable,
  },
  ltx: {
    has: ['patchify_proj.weight', 'adaln_single.linear.weight', 'caption_projection.linear_1.weight'],
    encoders: { t5: 'text_encoder' },
    parts: ltxParts,
    table: ltxTable,
  },
};

/**
 * The original code's layers, by their paths in it with what they are in diffusers' modules.
 * @param blocks how many there are at most of each kind
 */
export function originalLayers(kind: MmditKind, blocks: number): Map<string, LayerPart[]> {
  const last = blocks - 1;
  const each = (paths: (block: number) => string[]) =>
    Array.from({ length: blocks }, (_, block) => paths(block)).flat();
  const paths: Record<MmditKind, () => string[]> = {
    sd3: () => [
      ...Object.keys(SD3_LAYERS),
      ...each((n) =>
        ['x', 'context'].flatMap((stream) =>
          ['attn.qkv', 'attn2.qkv', ...Object.keys(SD3_BLOCK)].map(
            (rest) => `joint_blocks.${n}.${stream}_block.${rest}`,
          ),
        ),
      ),
    ],
    flux1: () => [
      ...Object.keys(FLUX_LAYERS),
      ...each((n) => [
        ...['img', 'txt'].flatMap((stream) =>
          ['attn.qkv', ...Object.keys(FLUX_DOUBLE)].map((rest) => `double_blocks.${n}.${stream}_${rest}`),
        ),
        ...['linear1', ...Object.keys(FLUX_SINGLE)].map((rest) => `single_blocks.${n}.${rest}`),
      ]),
    ],
    z_image: () => [
      'x_embedder',
      'final_layer.linear',
      ...each((n) =>
        ['layers', 'noise_refiner', 'context_refiner'].flatMap((stack) =>
          ['attention.qkv', 'attention.out'].map((rest) => `${stack}.${n}.${rest}`),
        ),
      ),
    ],
    flux2: () => flux2Paths(blocks),
    flux3: () => flux3Paths(blocks),
    wan: () => wanPaths(blocks),
    qwen_image: () => [],
    ltx: () => ltxPaths(blocks),
  };
  return new Map(
    [...paths[kind](), HEAD_MODULATION]
      .map((path): [string, LayerPart[]] => [path, KINDS[kind].parts(path, last)])
      .filter(([, parts]) => parts.length > 0),
  );
}

const SD3_LAYERS: Record<string, string> = {
  'x_embedder.proj': 'pos_embed.proj',
  't_embedder.mlp.0': 'time_text_embed.timestep_embedder.linear_1',
  't_embedder.mlp.2': 'time_text_embed.timestep_embedder.linear_2',
  'y_embedder.mlp.0': 'time_text_embed.text_embedder.linear_1',
  'y_embedder.mlp.2': 'time_text_embed.text_embedder.linear_2',
  context_embedder: 'context_embedder',
  'final_layer.linear': 'proj_out',
};

/** By the stream that they are of: those of `x_block`, and those of `context_block`. */
const SD3_BLOCK: Record<string, [picture: string, words: string]> = {
  'adaLN_modulation.1': ['norm1.linear', 'norm1_context.linear'],
  'attn.ln_q': ['attn.norm_q', 'attn.norm_added_q'],
  'attn.ln_k': ['attn.norm_k', 'attn.norm_added_k'],
  'attn.proj': ['attn.to_out.0', 'attn.to_add_out'],
  'mlp.fc1': ['ff.net.0.proj', 'ff_context.net.0.proj'],
  'mlp.fc2': ['ff.net.2', 'ff_context.net.2'],
  'attn2.ln_q': ['attn2.norm_q', ''],
  'attn2.ln_k': ['attn2.norm_k', ''],
  'attn2.proj': ['attn2.to_out.0', ''],
};

const FLUX_LAYERS: Record<string, string> = {
  'time_in.in_layer': 'time_text_embed.timestep_embedder.linear_1',
  'time_in.out_layer': 'time_text_embed.timestep_embedder.linear_2',
  'vector_in.in_layer': 'time_text_embed.text_embedder.linear_1',
  'vector_in.out_layer': 'time_text_embed.text_embedder.linear_2',
  'guidance_in.in_layer': 'time_text_embed.guidance_embedder.linear_1',
  'guidance_in.out_layer': 'time_text_embed.guidance_embedder.linear_2',
  txt_in: 'context_embedder',
  img_in: 'x_embedder',
  'final_layer.linear': 'proj_out',
};

/** By the stream that they are of: `img_…`, and `txt_…`. */
const FLUX_DOUBLE: Record<string, [picture: string, words: string]> = {
  'mod.lin': ['norm1.linear', 'norm1_context.linear'],
  'attn.norm.query_norm': ['attn.norm_q', 'attn.norm_added_q'],
  'attn.norm.key_norm': ['attn.norm_k', 'attn.norm_added_k'],
  'attn.proj': ['attn.to_out.0', 'attn.to_add_out'],
  'mlp.0': ['ff.net.0.proj', 'ff_context.net.0.proj'],
  'mlp.2': ['ff.net.2', 'ff_context.net.2'],
};

const FLUX_SINGLE: Record<string, string> = {
  'modulation.lin': 'norm.linear',
  'norm.query_norm': 'attn.norm_q',
  'norm.key_norm': 'attn.norm_k',
  linear2: 'proj_out',
};

/** A feed-forward layer's width beside those of queries, keys and values. */
const WIDE = 4;

/** @param last number of the last block, whose words are only scaled and shifted */
function sd3Parts(path: string, last: number): LayerPart[] {
  if (path === HEAD_MODULATION) {
    return shiftFirst('norm_out.linear');
  }
  const [, block, stream, rest] = /^joint_blocks\.(\d+)\.(x|context)_block\.(.+)$/.exec(path) ?? [];
  if (block === undefined) {
    return whole(SD3_LAYERS[path]);
  }
  const base = `transformer_blocks.${block}`;
  const words = stream === 'context';
  if (rest === 'attn.qkv' || rest === 'attn2.qkv') {
    return together(`${base}.${rest.slice(0, -'.qkv'.length)}`, words);
  }
  if (words && Number(block) === last && rest === 'adaLN_modulation.1') {
    return shiftFirst(`${base}.norm1_context.linear`);
  }
  const own = SD3_BLOCK[rest]?.[words ? 1 : 0];
  return own ? whole(`${base}.${own}`) : [];
}

function fluxParts(path: string): LayerPart[] {
  if (path === HEAD_MODULATION) {
    return shiftFirst('norm_out.linear');
  }
  const [, double, stream, rest] = /^double_blocks\.(\d+)\.(img|txt)_(.+)$/.exec(path) ?? [];
  if (double !== undefined) {
    const base = `transformer_blocks.${double}`;
    const words = stream === 'txt';
    if (rest === 'attn.qkv') {
      return together(`${base}.attn`, words);
    }
    const own = FLUX_DOUBLE[rest]?.[words ? 1 : 0];
    return own ? whole(`${base}.${own}`) : [];
  }
  const [, single, inner] = /^single_blocks\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (single === undefined) {
    return whole(FLUX_LAYERS[path]);
  }
  const base = `single_transformer_blocks.${single}`;
  if (inner === 'linear1') {
    const of = 3 + WIDE;
    const narrow = ['q', 'k', 'v'].map((part, i) => ({
      path: `${base}.attn.to_${part}`,
      rows: { from: i, to: i + 1, of },
    }));
    return [...narrow, { path: `${base}.proj_mlp`, rows: { from: 3, to: of, of } }];
  }
  return FLUX_SINGLE[inner] === undefined ? [] : whole(`${base}.${FLUX_SINGLE[inner]}`);
}

/** Those of attention in Z-Image's blocks; everything else of a block is called as in diffusers. */
const Z_IMAGE_ATTENTION: Record<string, string> = {
  'attention.out': 'attention.to_out.0',
  'attention.q_norm': 'attention.norm_q',
  'attention.k_norm': 'attention.norm_k',
};

/** diffusers keeps these by the size of their patches. */
const Z_IMAGE_PATCHED = /^(x_embedder|final_layer)(?=\.|$)/;

function zImageParts(path: string): LayerPart[] {
  const [, block, rest] = /^((?:layers|noise_refiner|context_refiner)\.\d+)\.(.+)$/.exec(path) ?? [];
  if (block === undefined) {
    // An older layer that nothing uses.
    return path === 'norm_final' ? [] : whole(path.replace(Z_IMAGE_PATCHED, 'all_$1.2-1'));
  }
  return rest === 'attention.qkv'
    ? together(`${block}.attention`, false)
    : whole(`${block}.${Z_IMAGE_ATTENTION[rest] ?? rest}`);
}
