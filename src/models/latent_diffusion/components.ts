/** The parts of a Stable Diffusion checkpoint that our own graphs are built from, and the files and variants of their weights. */
import { WEIGHT_VARIANTS, type WeightVariant } from '../../core/model.ts';
import type { WeightIndex } from '../../graphs/graph.ts';
import type { Motion } from '../../graphs/unet2d_blocks.ts';
import type * as unet2d from '../../graphs/unet2d_condition.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { Autoencoder } from '../../weights/vae_file.ts';
import type { TextEncoder } from './clip_encoding.ts';

export interface Components {
  /** Their states are concatenated; the last one provides the pooled text. */
  textEncoders: TextEncoder[];
  unetComponent: Component;
  unet: unet2d.Config;
  /** What makes the pictures of a batch the frames of one video; absent = they are pictures. */
  motion?: Motion;
  vaeComponent: Component;
  vae: Autoencoder;
}

/** Whether its autoencoder can also encode; some files only have the decoder. */
export function hasEncoder(weights: WeightIndex): boolean {
  return [...weights.names()].some((name) => name.startsWith('encoder.'));
}

/** @param withVae whether its autoencoder is used */
export function filesOf({ textEncoders, unetComponent, vaeComponent }: Components, withVae = true): string[] {
  const components = [
    ...textEncoders.map(({ component }) => component),
    unetComponent,
    ...(withVae ? [vaeComponent] : []),
  ];
  return [...new Set(components.flatMap(({ files }) => files))];
}

/** The variant of weights that are already quantised in the files; null if they are not. */
export function storedVariant({ ref }: CheckpointFiles, components: Component[]): WeightVariant | null {
  const named = WEIGHT_VARIANTS.find((variant) => ref.endsWith(`#${variant}`));
  if (named) {
    return named;
  }
  const bits = components.flatMap(({ weights }) =>
    [...weights.names()].flatMap((name) => weights.get(name)?.quantised?.bits ?? []),
  );
  return bits.length === 0 ? null : bits.includes(4) ? 'q4' : 'q8';
}
