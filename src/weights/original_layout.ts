/**
 * The layout of Stable Diffusion's original code, with a whole checkpoint in one file: maps its tensors to diffusers' and transformers'
 * modules. Nothing is copied; if the original has several layers in one tensor, each is a range of its rows.
 *
 * Reference: diffusers/loaders/single_file_utils.py (convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint,
 * convert_ldm_clip_checkpoint, convert_open_clip_checkpoint)
 */

export type OriginalComponent = 'unet' | 'vae' | 'text_encoder' | 'text_encoder_2';

/** What a tensor is for. */
export interface Meaning {
  component: OriginalComponent;
  name: string;
  /** Which third of the tensor's rows; absent = all of them. */
  third?: 0 | 1 | 2;
}

const UNET = 'model.diffusion_model.';
const VAE = 'first_stage_model.';
const CLIP = 'cond_stage_model.transformer.';
const OPEN_CLIP = 'cond_stage_model.model.';
/** Prefix in Stable Diffusion XL, which has two text encoders. */
const XL_CLIP = 'conditioner.embedders.0.transformer.';
const XL_OPEN_CLIP = 'conditioner.embedders.1.model.';
/** Prefix in its refiner, which only has the second. */
const REFINER_OPEN_CLIP = 'conditioner.embedders.0.model.';

/** Stable Diffusion 2 stops before OpenCLIP's last layer of 24. */
const OPEN_CLIP_LAYERS = 23;

const RESNET: Record<string, string> = {
  'in_layers.0': 'norm1',
  'in_layers.2': 'conv1',
  'out_layers.0': 'norm2',
  'out_layers.3': 'conv2',
  'emb_layers.1': 'time_emb_proj',
  skip_connection: 'conv_shortcut',
};

const UNET_LAYERS: Record<string, string> = {
  'time_embed.0': 'time_embedding.linear_1',
  'time_embed.2': 'time_embedding.linear_2',
  'label_emb.0.0': 'add_embedding.linear_1',
  'label_emb.0.2': 'add_embedding.linear_2',
  'input_blocks.0.0': 'conv_in',
  'out.0': 'conv_norm_out',
  'out.2': 'conv_out',
};

const VAE_ATTENTION: Record<string, string> = {
  norm: 'group_norm',
  q: 'to_q',
  k: 'to_k',
  v: 'to_v',
  proj_out: 'to_out.0',
};

const RESBLOCK: Record<string, string> = {
  ln_1: 'layer_norm1',
  ln_2: 'layer_norm2',
  'mlp.c_fc': 'mlp.fc1',
  'mlp.c_proj': 'mlp.fc2',
  'attn.out_proj': 'self_attn.out_proj',
};

/** Whether these are the tensors of such a file, or at least of its denoising network. */
export function isOriginalLayout(has: (name: string) => boolean): boolean {
  return has(`${UNET}input_blocks.0.0.weight`) && has(`${UNET}time_embed.0.weight`);
}

/** Whether its text encoder is OpenCLIP's, as in Stable Diffusion 2, and not OpenAI's. */
export function hasOpenClip(has: (name: string) => boolean): boolean {
  return has(`${OPEN_CLIP}token_embedding.weight`);
}

/** Whether these are the tensors of a Stable Diffusion XL, or of its refiner. */
export function xlKind(names: ReadonlySet<string>): 'base' | 'refiner' | null {
  const has = (start: string) => [...names].some((name) => name.startsWith(start));
  if (!has('conditioner.') && !has(`${UNET}label_emb.`)) {
    return null;
  }
  return has(REFINER_OPEN_CLIP) ? 'refiner' : 'base';
}

/**
 * Reads names of this layout.
 * @param names all names in the file, which determine the numbers of layers and blocks
 * @returns for one of them: nothing where it is no weight of a network (copies for training, other bookkeeping), three for one that
 *   holds the layers of an attention together
 */
export function originalNames(names: Iterable<string>): (name: string) => Meaning[] {
  const all = [...names];
  const layers = layersPerBlock(all, UNET);
  const lastUp = lastUpBlock(all, VAE);
  return (name) => {
    const [path, ending] = /^(.*)\.(weight|bias)$/.exec(name)?.slice(1) ?? [name, ''];
    if (path.startsWith(UNET)) {
      return one('unet', unetPath(path.slice(UNET.length), layers), ending);
    }
    if (path.startsWith(VAE)) {
      return one('vae', vaePath(path.slice(VAE.length), lastUp), ending);
    }
    if (path.startsWith(CLIP)) {
      return one('text_encoder', path.slice(CLIP.length), ending);
    }
    if (path.startsWith(XL_CLIP)) {
      return one('text_encoder', path.slice(XL_CLIP.length), ending);
    }
    if (path.startsWith(XL_OPEN_CLIP)) {
      const inner = path.slice(XL_OPEN_CLIP.length);
      return inner === 'text_projection'
        ? [{ component: 'text_encoder_2', name: inner }]
        : openClip('text_encoder_2', inner, ending, Infinity);
    }
    return path.startsWith(OPEN_CLIP)
      ? openClip('text_encoder', path.slice(OPEN_CLIP.length), ending, OPEN_CLIP_LAYERS)
      : [];
  };
}

/**
 * How many entries of `input_blocks` make a block: its layers and the convolution that halves the picture. The first of these says so.
 * @param prefix of the network's names
 */
function layersPerBlock(names: readonly string[], prefix: string): number {
  const own = names.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));
  const halvings = own.flatMap((name) => /^input_blocks\.(\d+)\.0\.op\.weight$/.exec(name)?.[1] ?? []);
  const inputs = own.flatMap((name) => /^input_blocks\.(\d+)\./.exec(name)?.[1] ?? []);
  return halvings.length > 0 ? Math.min(...halvings.map(Number)) : Math.max(1, ...inputs.map(Number)) + 1;
}

/**
 * Reads names of a ControlNet in this layout.
 * @param names all of the file
 * @param prefix of the network's names
 * @returns the name in diffusers' ControlNetModel; null for what is none of this layout
 */
export function originalControlNames(names: readonly string[], prefix: string): (name: string) => string | null {
  const layers = layersPerBlock(names, prefix);
  const hints = names.flatMap((name) => HINT.exec(name.slice(prefix.length))?.[1] ?? []).map(Number);
  const last = Math.max(...hints);
  const pathOf = (path: string): string | null => {
    const [, skip] = /^zero_convs\.(\d+)\.0$/.exec(path) ?? [];
    const [, hint] = HINT.exec(`${path}.`) ?? [];
    if (skip !== undefined) {
      return `controlnet_down_blocks.${skip}`;
    }
    if (hint !== undefined) {
      // Between two convolutions is their activation.
      const place = Number(hint);
      const part = place === 0 ? 'conv_in' : place === last ? 'conv_out' : `blocks.${place / 2 - 1}`;
      return `controlnet_cond_embedding.${part}`;
    }
    return path === 'middle_block_out.0' ? 'controlnet_mid_block' : unetPath(path, layers);
  };
  return (name) => {
    const [, path, ending] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
    const own = path?.startsWith(prefix) ? pathOf(path.slice(prefix.length)) : null;
    return own === null ? null : `${own}.${ending}`;
  };
}

const HINT = /^input_hint_block\.(\d+)\./;

function one(component: OriginalComponent, path: string | null, ending: string): Meaning[] {
  return path === null || ending === '' ? [] : [{ component, name: `${path}.${ending}` }];
}

/** @param perBlock entries of `input_blocks` that make a block: its layers and the halving */
function unetPath(path: string, perBlock: number): string | null {
  const known = UNET_LAYERS[path];
  if (known !== undefined) {
    return known;
  }
  const [, side, number, part, rest] = /^(input|output)_blocks\.(\d+)\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (side !== undefined) {
    const index = side === 'input' ? Number(number) - 1 : Number(number);
    const [block, layer] = [Math.floor(index / perBlock), index % perBlock];
    const base = `${side === 'input' ? 'down' : 'up'}_blocks.${block}`;
    if (rest === 'op') {
      return `${base}.downsamplers.0.conv`;
    }
    if (rest === 'conv') {
      return `${base}.upsamplers.0.conv`;
    }
    if (part === '0') {
      return RESNET[rest] === undefined ? null : `${base}.resnets.${layer}.${RESNET[rest]}`;
    }
    return `${base}.attentions.${layer}.${rest}`;
  }
  const [, middle, inner] = /^middle_block\.([012])\.(.+)$/.exec(path) ?? [];
  if (middle === undefined) {
    return null;
  }
  if (middle === '1') {
    return `mid_block.attentions.0.${inner}`;
  }
  return RESNET[inner] === undefined ? null : `mid_block.resnets.${middle === '0' ? 0 : 1}.${RESNET[inner]}`;
}

/** The number of the decoder's last block among the names that begin with `prefix`. */
export function lastUpBlock(names: readonly string[], prefix: string): number {
  const start = `${prefix}decoder.up.`;
  const own = names.filter((name) => name.startsWith(start)).map((name) => parseInt(name.slice(start.length)));
  return Math.max(0, ...own);
}

/** The path in diffusers' AutoencoderKL of a layer of the original one; see {@link lastUpBlock}. */
export function vaePath(path: string, lastUp: number): string | null {
  if (/^(quant_conv|post_quant_conv|(en|de)coder\.conv_(in|out))$/.test(path)) {
    return path;
  }
  const [, coder, rest] = /^(encoder|decoder)\.(.+)$/.exec(path) ?? [];
  if (coder === undefined) {
    return null;
  }
  if (rest === 'norm_out') {
    return `${coder}.conv_norm_out`;
  }
  const [, middle, inner] = /^mid\.(block_1|block_2|attn_1)\.(.+)$/.exec(rest) ?? [];
  if (middle === 'attn_1') {
    return VAE_ATTENTION[inner] === undefined ? null : `${coder}.mid_block.attentions.0.${VAE_ATTENTION[inner]}`;
  }
  if (middle !== undefined) {
    return `${coder}.mid_block.resnets.${middle === 'block_1' ? 0 : 1}.${shortcut(inner)}`;
  }
  const [, way, number, within] = /^(down|up)\.(\d+)\.(.+)$/.exec(rest) ?? [];
  if (way === undefined) {
    return null;
  }
  // The original numbers the decoder's blocks backwards from the picture.
  const base = `${coder}.${way}_blocks.${way === 'down' ? Number(number) : lastUp - Number(number)}`;
  const [, layer, part] = /^block\.(\d+)\.(.+)$/.exec(within) ?? [];
  if (layer !== undefined) {
    return `${base}.resnets.${layer}.${shortcut(part)}`;
  }
  return /^(up|down)sample\.conv$/.test(within) ? `${base}.${way}samplers.0.conv` : null;
}

const UNDERSCORED = new Map(
  [RESNET, UNET_LAYERS, RESBLOCK]
    .flatMap((layers) => Object.keys(layers))
    .map((key) => [key.replaceAll('.', '_'), key]),
);

/**
 * The path in diffusers' UNet of a layer in this layout, as LoRAs name it: without its network, with underscores for dots.
 * @param perBlock as for {@link originalNames}
 * @returns with underscores where the layout's own name goes on; null for what is no such name
 */
export function originalUnetLayer(name: string, perBlock: number): string | null {
  const [, start, rest] = /^((?:(?:input|output)_blocks_\d+|middle_block)_\d+)_(.+)$/.exec(name) ?? [];
  if (start === undefined) {
    return UNET_LAYERS[UNDERSCORED.get(name) ?? ''] ?? null;
  }
  return unetPath(`${start.replace(/_(?=\d)/g, '.')}.${UNDERSCORED.get(rest) ?? rest}`, perBlock);
}

/** The paths in transformers' text model, without `text_model.`, of a layer of OpenCLIP's; else as {@link originalUnetLayer}. */
export function originalTextLayers(name: string): { path: string; third?: 0 | 1 | 2 }[] {
  const [, layer, rest] = /^(?:model_)?(transformer_resblocks_\d+)_(.+)$/.exec(name) ?? [];
  const [path, ending] =
    layer === undefined
      ? [name.replace(/^model_/, ''), 'weight']
      : rest === 'attn_in_proj'
        ? [`${layer.replaceAll('_', '.')}.attn.in_proj_weight`, '']
        : [`${layer.replaceAll('_', '.')}.${UNDERSCORED.get(rest) ?? rest}`, 'weight'];
  return openClip('text_encoder', path, ending, Infinity).map(({ name: own, third }) => ({
    path: own.replace(/^text_model\./, '').replace(/\.weight$/, ''),
    ...(third !== undefined && { third }),
  }));
}

function shortcut(part: string): string {
  return part === 'nin_shortcut' ? 'conv_shortcut' : part;
}

/** @param layers that are read; those after them are not used */
function openClip(component: OriginalComponent, path: string, ending: string, layers: number): Meaning[] {
  const named = (name: string): Meaning[] => [{ component, name: `text_model.${name}` }];
  if (path === 'token_embedding' && ending === 'weight') {
    return named('embeddings.token_embedding.weight');
  }
  if (path === 'positional_embedding') {
    return named('embeddings.position_embedding.weight');
  }
  if (path === 'ln_final' && ending !== '') {
    return named(`final_layer_norm.${ending}`);
  }
  const [, number, rest] = /^transformer\.resblocks\.(\d+)\.(.+)$/.exec(path) ?? [];
  if (number === undefined || Number(number) >= layers) {
    return [];
  }
  const layer = `encoder.layers.${Number(number)}`;
  const [, together] = /^attn\.in_proj_(weight|bias)$/.exec(rest) ?? [];
  if (together !== undefined) {
    return ([0, 1, 2] as const).map((third) => ({
      component,
      name: `text_model.${layer}.self_attn.${'qkv'[third]}_proj.${together}`,
      third,
    }));
  }
  return RESBLOCK[rest] === undefined || ending === '' ? [] : named(`${layer}.${RESBLOCK[rest]}.${ending}`);
}
