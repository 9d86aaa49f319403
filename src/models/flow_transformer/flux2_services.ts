/** What FLUX.2 and FLUX.3 have in common: layers of a language model that reads, FLUX.2's autoencoder, and one network for all guidance. */
import type { TokenCount } from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Decoder, EncodedPicture, LatentSize, LatentSpace } from '../latent_diffusion/networks.ts';
import { BaseNetworks } from './base_networks.ts';
import type { EncodedText } from './flow_networks.ts';
import type { Flux2Pictures } from './flux2_pictures.ts';
import type { LayerText } from './layer_text.ts';

export abstract class Flux2Services extends BaseNetworks {
  abstract readonly text: LayerText;
  abstract readonly pictures: Flux2Pictures;

  get latents(): LatentSpace {
    return this.pictures.latents;
  }

  countTokens(prompt: string): TokenCount[] {
    return [this.text.count(prompt)];
  }

  encodeText(prompt: string): Promise<EncodedText> {
    return this.text.encode(prompt);
  }

  encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeImage(pixels);
  }

  decoder(size: LatentSize, purpose: 'picture' | 'preview'): Promise<Decoder> {
    return this.pictures.decoder(size, purpose);
  }

  guidance(scale: number): number {
    return scale;
  }

  /** Fitting colours for its 128 channels would take a large picture, and the preview's kernel supports 16. */
  previewSize(): Promise<null> {
    return Promise.resolve(null);
  }
}

export interface ShownSizes {
  /** Of each picture that the network is shown, in latents. */
  extents: { height: number; width: number }[];
  /** What of the network's shape follows from them. */
  shape: Record<string, number>;
}

/** @param shown latents [1, channels, height, width] of each */
export function sizesOfShown(shown: readonly DeviceTensor[]): ShownSizes {
  const extents = shown.map(({ dims }) => ({ height: dims[2], width: dims[3] }));
  const sides = extents.flatMap(({ height, width }, k): [string, number][] => [
    [`h${k}`, height],
    [`w${k}`, width],
  ]);
  return { extents, shape: Object.fromEntries(sides) };
}
