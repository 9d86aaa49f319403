/**
 * Autoencoders (VAEs) in one `.safetensors` file, to be used in place of a checkpoint's own: AutoencoderKL in diffusers' names or those of the
 * original layout, with `first_stage_model.` or without, and AutoencoderTiny (TAESD) in diffusers' names. How one is put together follows from its
 * shapes; what latents are multiplied by, no file tells, so an AutoencoderKL has that from the checkpoint.
 *
 * Reference: diffusers/loaders/single_file_utils.py (convert_ldm_vae_checkpoint)
 */
import { StudioError } from '../core/errors.ts';
import * as autoencoderKl from '../graphs/autoencoder_kl.ts';
import * as autoencoderTiny from '../graphs/autoencoder_tiny.ts';
import type { StoredTensor } from '../graphs/graph.ts';
import { madeForAnother } from './addition_misfit.ts';
import { TensorIndex } from './checkpoint.ts';
import { Shapes, autoencoderConfig } from './inferred_configs.ts';
import { lastUpBlock, vaePath } from './original_layout.ts';
import { requireReadable, storedTensors } from './quantise.ts';
import { readSafetensorsHeader } from './safetensors.ts';

/** The two autoencoders differ in their encoder's output: a Gaussian's moments, or latents. */
export type Autoencoder =
  | { kind: 'gaussian'; config: autoencoderKl.Config; graphs: typeof autoencoderKl }
  | { kind: 'plain'; config: autoencoderTiny.Config; graphs: typeof autoencoderTiny };

export interface VaeFile {
  vae: Autoencoder;
  weights: TensorIndex;
}

/** A tensor of its decoder: of AutoencoderKL in either layout, of AutoencoderTiny. */
const DECODER = /^((?:first_stage_model\.)?)decoder\.conv_in\.weight$/;
const TINY_DECODER = /^decoder\.layers\.0\.weight$/;
/** A checkpoint has an autoencoder, too. */
const CHECKPOINT = /^(?:model\.diffusion_model|cond_stage_model|conditioner|unet|text_encoders?)\./;
/** What training leaves in a file beside the weights. */
const BESIDE = /^(?:loss|model_ema)\./;

/** From the header. @throws StudioError `checkpoint_damaged` */
export async function isVae(blob: Blob, file: string): Promise<boolean> {
  const { tensors } = await readSafetensorsHeader(blob, file);
  const names = [...tensors.keys()];
  return (
    names.some((name) => DECODER.test(name) || TINY_DECODER.test(name)) && !names.some((name) => CHECKPOINT.test(name))
  );
}

/** Whatever {@link isVae} knows can be kept; whether it fits is seen beside a checkpoint. */
export function requireVae(): Promise<void> {
  return Promise.resolve();
}

/**
 * @param file as graphs are to call it
 * @param name for people
 * @param own of the checkpoint, whose place it takes
 * @throws StudioError `checkpoint_damaged`, `checkpoint_unsupported` for one of other latents
 */
export async function readVae(
  blob: Blob,
  file: string,
  name: string,
  { vae: own, of }: { vae: Autoencoder; of: string },
): Promise<VaeFile> {
  const header = await readSafetensorsHeader(blob, file);
  requireReadable(header, name, (one) => /\.(?:weight|bias)$/.test(one) && !BESIDE.test(one));
  const stored = storedTensors(header, file).filter((tensor) => !BESIDE.test(tensor.name));
  const nameOf = names(stored.map((tensor) => tensor.name));
  const tensors = new Map<string, StoredTensor>();
  for (const tensor of stored) {
    const module = nameOf(tensor.name);
    if (module === null) {
      throw new StudioError(
        'checkpoint_unsupported',
        `The VAE "${name}" has a tensor "${tensor.name}" that Darkroom does not know; choose another one.`,
      );
    }
    tensors.set(module, { ...tensor, name: module });
  }
  const vae = autoencoderOf(new Shapes(tensors), own);
  const refuse = (what: string, its: number, others: number) => {
    throw madeForAnother('vae', name, what, its, { its: others, of });
  };
  if (vae.config.latent_channels !== own.config.latent_channels) {
    refuse('latent_channels', vae.config.latent_channels, own.config.latent_channels);
  }
  if (factorOf(vae) !== factorOf(own)) {
    refuse('number of pixels per latent', factorOf(vae), factorOf(own));
  }
  return { vae, weights: new TensorIndex(tensors) };
}

/** How many pixels, along one side, one latent stands for. */
export function factorOf(vae: Autoencoder): number {
  const blocks = vae.kind === 'gaussian' ? vae.config.block_out_channels : vae.config.decoder_block_out_channels;
  return 2 ** (blocks.length - 1);
}

/** Reads names of either layout. @returns the name in diffusers' class; null for what is none */
function names(all: readonly string[]): (name: string) => string | null {
  const isOriginal = all.some((name) => /(?:^|\.)decoder\.up\.\d+\./.test(name));
  if (!isOriginal) {
    return (name) => name;
  }
  const [, prefix] = all.flatMap((name) => DECODER.exec(name) ?? []);
  const lastUp = lastUpBlock(all, prefix);
  return (name) => {
    const [, path, ending] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
    const own = path?.startsWith(prefix) ? vaePath(path.slice(prefix.length), lastUp) : null;
    return own === null ? null : `${own}.${ending}`;
  };
}

/** @param own what shapes do not tell is as of this one */
function autoencoderOf(shapes: Shapes, own: Autoencoder): Autoencoder {
  if (shapes.has('decoder.layers.0.weight')) {
    const [decoder, encoder] = [blocksOf(shapes, 'decoder'), blocksOf(shapes, 'encoder')];
    const config = autoencoderTiny.parseConfig({
      latent_channels: shapes.of('decoder.layers.0.weight')[1],
      decoder_block_out_channels: decoder.map(({ width }) => width),
      num_decoder_blocks: decoder.map(({ count }) => count),
      ...(encoder.length > 0 && {
        encoder_block_out_channels: encoder.map(({ width }) => width),
        num_encoder_blocks: encoder.map(({ count }) => count),
      }),
    });
    return { kind: 'plain', config, graphs: autoencoderTiny };
  }
  const known = own.kind === 'gaussian' ? own.config : autoencoderKl.parseConfig({});
  const { scaling_factor, norm_num_groups } = known;
  const config = autoencoderKl.parseConfig({ ...autoencoderConfig(shapes, { scaling_factor }), norm_num_groups });
  return { kind: 'gaussian', config, graphs: autoencoderKl };
}

/** Blocks of an AutoencoderTiny one after another, between convolutions that change the picture's size. */
function blocksOf(shapes: Shapes, side: 'encoder' | 'decoder'): { width: number; count: number }[] {
  const layers = [...shapes.tensors.keys()].flatMap((name) => {
    const [, number, inside] = new RegExp(`^${side}\\.layers\\.(\\d+)\\.(conv\\.0\\.)?weight$`).exec(name) ?? [];
    return number === undefined
      ? []
      : [{ number: Number(number), isBlock: inside !== undefined, width: shapes.of(name)[0] }];
  });
  const blocks: { width: number; count: number }[] = [];
  let isWithin = false;
  for (const { isBlock, width } of layers.sort((a, b) => a.number - b.number)) {
    if (isBlock && isWithin) {
      blocks[blocks.length - 1].count++;
    } else if (isBlock) {
      blocks.push({ width, count: 1 });
    }
    isWithin = isBlock;
  }
  return blocks;
}
