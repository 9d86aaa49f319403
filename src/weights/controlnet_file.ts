/**
 * ControlNets in one `.safetensors` file: with the names of diffusers' ControlNetModel, as its folders have them, or of the original layout,
 * `control_model.…` or without that prefix. A Control-LoRA has of most layers only how they differ from those of its checkpoint's UNet, as products of
 * two matrices. How it is put together follows from the shapes of its tensors and, where these do not tell, from the
 * UNet that it is used with.
 *
 * Reference: diffusers/loaders/single_file_utils.py (convert_controlnet_checkpoint), diffusers/utils/state_dict_utils.py
 * (convert_sai_sd_control_lora_state_dict_to_peft)
 */
import { StudioError } from '../core/errors.ts';
import * as controlnet from '../graphs/controlnet.ts';
import type { StoredTensor, WeightIndex } from '../graphs/graph.ts';
import type { Config as UNetConfig } from '../graphs/unet2d_condition.ts';
import { madeForAnother, type Said } from './addition_misfit.ts';
import { TensorIndex } from './checkpoint.ts';
import { Shapes, unetEncoderConfig } from './inferred_configs.ts';
import { originalControlNames } from './original_layout.ts';
import { requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader } from './safetensors.ts';

export interface ControlNetFile {
  config: controlnet.Config;
  weights: TensorIndex;
}

/** The first layer that sees the control picture, in either layout. */
const HINT = /^(?:controlnet_cond_embedding\.conv_in|(?:control_model\.)?input_hint_block\.0)\.weight$/;
const ORIGINAL = /^((?:control_model\.)?)input_hint_block\.0\.weight$/;

/** What is in some files of the original layout beside the ControlNet: the checkpoint that it was trained with. */
const BESIDE = /^(?:model\.diffusion_model|first_stage_model|cond_stage_model|model_ema)\./;

/** Relatives that cannot be run, by a name that only they have. */
const RELATIVES: [pattern: RegExp, what: string][] = [
  [/^(?:controlnet_blocks|controlnet_x_embedder|controlnet_mode_embedder)\b/, 'a ControlNet of a flow transformer'],
  [/^(?:adapter\.)?body\.0\.(?:resnets\.0\.)?block1\.weight$/, 'a T2I-Adapter'],
];

/** Whether a file is a ControlNet or one of its relatives, from its header. @throws StudioError `checkpoint_damaged` */
export async function isControlNet(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const names = [...tensors.keys()];
  return names.some((name) => HINT.test(name)) || relativeOf(names) !== undefined;
}

function relativeOf(names: readonly string[]): string | undefined {
  return RELATIVES.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1];
}

/**
 * Reads the header of a file that is to be kept as a ControlNet.
 * @param file its name, for the message
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported`
 */
export async function requireControlNet(blob: Blob, file: string): Promise<void> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const names = [...tensors.keys()];
  const relative = relativeOf(names);
  if (relative !== undefined) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} is ${relative}, which Darkroom cannot run; choose a plain ControlNet.`,
    );
  }
  if (names.includes('difference')) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} holds only how a ControlNet differs from its checkpoint, which Darkroom cannot run; choose a whole ControlNet.`,
    );
  }
  if (!names.some((name) => HINT.test(name))) {
    throw new StudioError(
      'checkpoint_unsupported',
      `${file} is not a ControlNet; choose one for Stable Diffusion 1, 2 or XL.`,
    );
  }
}

/**
 * @param file as graphs are to call it
 * @param name for people
 * @param unet of the checkpoint that it is used with
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for one of another kind of model
 */
export async function readControlNet(
  blob: Blob,
  file: string,
  name: string,
  unet: { config: UNetConfig; weights: WeightIndex; of: string },
): Promise<ControlNetFile> {
  await requireControlNet(blob, name);
  const header = await readSafetensorsHeader(blob, file);
  const names = [...header.tensors.keys()];
  const [, prefix] = names.flatMap((one) => ORIGINAL.exec(one) ?? []);
  const whole = names.map((one) => one.replace(CHANGE, '$1.weight'));
  const nameOf = prefix === undefined ? (one: string) => one : originalControlNames(whole, prefix);
  requireReadable(
    header,
    name,
    (one) => /\.(weight|bias|up|down)$|^task_embedding$|\.in_proj_/.test(one) && !BESIDE.test(one),
  );
  const tensors = new Map<string, StoredTensor>();
  const changes = new Map<string, Partial<Record<string, StoredTensor>>>();
  for (const tensor of storedTensors(header, file).filter((one) => !BESIDE.test(one.name))) {
    if (tensor.name === CONTROL_LORA) {
      continue;
    }
    const change = CHANGE.exec(tensor.name)?.groups;
    const own = nameOf(change ? `${change.layer}.weight` : tensor.name);
    if (own === null || !KNOWN.test(own)) {
      throw new StudioError(
        'checkpoint_unsupported',
        `The ControlNet "${name}" has a tensor "${tensor.name}" that Darkroom does not know, so it would not be run as it was trained; choose another one.`,
      );
    }
    if (change) {
      changes.set(own, { ...changes.get(own), [change.part]: tensor });
      continue;
    }
    const [, attention, rest] = IN_PROJ.exec(own) ?? [];
    if (attention) {
      ['q', 'k', 'v'].forEach((part, third) => {
        tensors.set(`${attention}.${part}.${rest}`, thirdOf(tensor, `${attention}.${part}.${rest}`, third));
      });
    } else {
      tensors.set(own, { ...tensor, name: own });
    }
  }
  if (changes.size > 0) {
    // What it does not speak of is the UNet's.
    for (const own of [...unet.weights.names()].filter((one) => KNOWN.test(one) && !tensors.has(one))) {
      tensors.set(own, unet.weights.get(own) as StoredTensor);
    }
  }
  for (const [own, { up, down }] of changes) {
    tensors.set(own, changed(unet.weights.get(own), up, down, { name, layer: own, of: unet.of }));
  }
  return { config: configOf(new Shapes(tensors), name, unet), weights: new TensorIndex(tensors) };
}

/** Names the file as a Control-LoRA. */
const CONTROL_LORA = 'lora_controlnet';
const CHANGE = /^(?<layer>.+)\.(?<part>up|down)$/;

/** @throws StudioError `checkpoint_damaged` for half a change, `checkpoint_unsupported` for one of another size */
function changed(
  weight: StoredTensor | undefined,
  up: StoredTensor | undefined,
  down: StoredTensor | undefined,
  { name, layer, of }: { name: string; layer: string; of: string },
): StoredTensor {
  if (!up || !down) {
    throw new StudioError(
      'checkpoint_damaged',
      `The ControlNet "${name}" has only part of its change of "${layer}"; get it again.`,
    );
  }
  const [rows, rank] = [up.shape[0], down.shape[0]];
  const columns = sizeOf(down) / rank;
  if (!weight || weight.shape[0] !== rows || sizeOf(weight) !== rows * columns || sizeOf(up) !== rows * rank) {
    throw madeForAnother('controlnet', name, layer, [rows, columns], { its: weight?.shape, of });
  }
  return { ...weight, deltas: [{ up, down, scale: 1 }] };
}

function sizeOf({ shape }: StoredTensor): number {
  return shape.reduce((all, one) => all * one, 1);
}

/** torch's attention has its queries, keys and values in one tensor. */
const IN_PROJ = /^(transformer_layes\.\d+\.attn)\.in_proj_(weight|bias)$/;

function thirdOf(tensor: StoredTensor, name: string, third: number): StoredTensor {
  const { shape, offset, length } = tensor;
  return {
    ...tensor,
    name,
    shape: [shape[0] / 3, ...shape.slice(1)],
    offset: offset + (third * length) / 3,
    length: length / 3,
  };
}

/** Modules of diffusers' ControlNetModel, and what its ControlNetUnionModel has beside them. */
const KNOWN =
  /^task_embedding$|^transformer_layes\.\d+\.attn\.in_proj_(?:weight|bias)$|^(?:transformer_layes\.\d+\.(?:attn\.out_proj|ln_[12]|mlp\.c_(?:fc|proj))|spatial_ch_projs|control_add_embedding\.linear_[12])\.(?:weight|bias)$|^(?:conv_in|time_embedding\.linear_[12]|add_embedding\.linear_[12]|(?:down_blocks\.\d+|mid_block)\.(?:resnets|attentions|downsamplers)\.\d+\..+|controlnet_(?:down_blocks\.\d+|mid_block|cond_embedding\.(?:conv_in|conv_out|blocks\.\d+)))\.(?:weight|bias)$/;

function configOf(shapes: Shapes, name: string, { config: unet, of }: { config: UNetConfig; of: string }) {
  const encoder = unetEncoderConfig(shapes);
  const refuse = (what: string, own: Said, its: Said) => {
    throw madeForAnother('controlnet', name, what, own, { its, of });
  };
  const widthOf = (value: UNetConfig['cross_attention_dim']) => (Array.isArray(value) ? value[0] : value);
  const widths = unet.block_out_channels;
  if (encoder.block_out_channels.join() !== widths.join()) {
    refuse('block_out_channels', encoder.block_out_channels, widths);
  }
  if (encoder.cross_attention_dim !== undefined && encoder.cross_attention_dim !== widthOf(unet.cross_attention_dim)) {
    refuse('cross_attention_dim', encoder.cross_attention_dim, widthOf(unet.cross_attention_dim));
  }
  const [, added] = shapes.of('add_embedding.linear_1.weight');
  if (added !== (unet.projection_class_embeddings_input_dim ?? undefined)) {
    refuse('projection_class_embeddings_input_dim', added ?? 0, unet.projection_class_embeddings_input_dim);
  }
  const layers = widths.map((_, i) => shapes.count(new RegExp(`^down_blocks\\.${i}\\.resnets\\.(\\d+)\\.`)));
  const own = widths.map((_, i) =>
    Array.isArray(unet.layers_per_block) ? unet.layers_per_block[i] : unet.layers_per_block,
  );
  if (layers.join() !== own.join()) {
    refuse('layers_per_block', layers, own);
  }
  const [, channels] = shapes.of('conv_in.weight');
  if (channels !== unet.out_channels) {
    refuse('in_channels', channels, unet.out_channels);
  }
  const [kinds] = shapes.of('task_embedding');
  if (kinds !== undefined && unet.addition_embed_type !== 'text_time') {
    refuse('task_embedding', shapes.of('task_embedding'), null);
  }
  const blocks = shapes.count(/^controlnet_cond_embedding\.blocks\.(\d+)\./);
  const union = { kinds, layers: shapes.count(/^transformer_layes\.(\d+)\./) };
  const config = controlnet.parseConfig({
    ...unet,
    ...encoder,
    layers_per_block: layers,
    cross_attention_dim: encoder.cross_attention_dim ?? widthOf(unet.cross_attention_dim),
    in_channels: channels,
    // Of the UNet's own inputs it takes the sample and the time alone.
    time_cond_proj_dim: null,
    center_input_sample: false,
    conv_in_kernel: shapes.of('conv_in.weight')[3],
    reverse_transformer_layers_per_block: null,
    conditioning_channels: shapes.of('controlnet_cond_embedding.conv_in.weight')[1],
    conditioning_embedding_out_channels: [
      shapes.of('controlnet_cond_embedding.conv_in.weight')[0],
      ...Array.from(
        { length: blocks / 2 },
        (_, i) => shapes.of(`controlnet_cond_embedding.blocks.${2 * i + 1}.weight`)[0],
      ),
    ],
  });
  return kinds === undefined ? config : { ...config, union };
}
