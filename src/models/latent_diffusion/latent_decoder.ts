/**
 * Latents become pictures: whole, tile by tile, and as the few colours of a preview.
 *
 * Reference: diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py, `decode_latents`
 */
import { cancelled } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { DecodeRequest } from '../../core/model.ts';
import type { DeviceTensor, PreviewColours } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { fitPreviewColours } from '../../engine/latent_preview.ts';
import { requireFinite, toPixels } from '../../engine/pixels.ts';
import type { CommonNetworks, Decoder } from './networks.ts';
import { cutTile, joinTiles, layTiles, type Tile } from './tiles.ts';

export class LatentDecoder {
  #previewColours: PreviewColours | null | undefined;

  constructor(
    readonly engine: Engine,
    readonly networks: CommonNetworks,
  ) {}

  /**
   * @param latents [batch, channels, height, width] as sampling leaves them, height and width in latents; they stay the caller's
   * @returns one picture for each of the batch, `factor` times as high and wide, in pixels
   * @throws StudioError `cancelled` between two pictures or tiles, `result_invalid` for NaN or infinity
   */
  decode(latents: DeviceTensor, request: DecodeRequest): Promise<PixelImage[]> {
    const { factor } = this.networks.latents;
    const [, , height, width] = latents.dims;
    const side = request.tile_size === undefined ? Infinity : request.tile_size / factor;
    return height > side || width > side ? this.#tiled(latents, side, request) : this.#whole(latents, request);
  }

  /** How the decoder colours latents, measured on it once; null where no picture of a preview can be decoded. */
  async colours(): Promise<PreviewColours | null> {
    if (this.#previewColours === undefined) {
      const size = await this.networks.previewSize();
      this.#previewColours = size === null ? null : await this.#fitColours(size);
    }
    return this.#previewColours;
  }

  async #whole(latents: DeviceTensor, { signal, onPart }: DecodeRequest): Promise<PixelImage[]> {
    const { arithmetic } = this.engine;
    const [batch, channels, height, width] = latents.dims;
    const count = channels * height * width;
    const decoder = await this.networks.decoder({ height, width }, 'picture');
    const images: PixelImage[] = [];
    const one = arithmetic.empty([1, channels, height, width]);
    try {
      // One picture at a time: the decoder's activations are the largest of the whole pipeline.
      for (let n = 0; n < batch; n++) {
        if (signal.aborted) {
          throw cancelled();
        }
        arithmetic.copy(latents, n * count, one, 0, count);
        images.push(...(await this.#pictures(decoder, one)));
        onPart(n + 1, batch);
      }
    } finally {
      one.dispose();
      await decoder.dispose();
    }
    return images;
  }

  /** See `tiles.ts`. The tiles are blended on the CPU: where memory is short, it is the device's. */
  async #tiled(latents: DeviceTensor, side: number, { signal, onPart }: DecodeRequest): Promise<PixelImage[]> {
    const { arithmetic } = this.engine;
    const { factor } = this.networks.latents;
    const [batch, channels, height, width] = latents.dims;
    const all = await arithmetic.read(latents);
    requireFinite(all);
    const tiles = layTiles({ height, width }, side);
    const decoded = Array.from({ length: batch }, () => new Map<Tile, Float32Array>());
    // Shapes are static, so tiles of one size go through one decoder before the next size takes its place.
    const sizes = new Map(tiles.map((tile) => [`${tile.height}×${tile.width}`, tile]));
    let done = 0;
    for (const size of sizes.values()) {
      const decoder = await this.networks.decoder({ height: size.height, width: size.width }, 'picture');
      try {
        for (const tile of tiles.filter((other) => other.height === size.height && other.width === size.width)) {
          for (const [n, parts] of decoded.entries()) {
            if (signal.aborted) {
              throw cancelled();
            }
            const picture = all.subarray((n * all.length) / batch, ((n + 1) * all.length) / batch);
            const input = arithmetic.upload(cutTile(picture, { height, width }, channels, tile), [
              1,
              channels,
              tile.height,
              tile.width,
            ]);
            try {
              parts.set(tile, await arithmetic.read(await decoder.decode(input)));
            } finally {
              input.dispose();
            }
            onPart(++done, batch * tiles.length);
          }
        }
      } finally {
        await decoder.dispose();
      }
    }
    return decoded.flatMap((parts) => {
      const given = tiles.map((tile) => ({ tile, pixels: parts.get(tile) as Float32Array }));
      const picture = joinTiles(given, { height, width }, side, factor);
      return toPixels(picture, [1, 3, height * factor, width * factor]);
    });
  }

  async #pictures(decoder: Decoder, latents: DeviceTensor): Promise<PixelImage[]> {
    return this.engine.arithmetic.toPixels(await decoder.decode(latents), latents);
  }

  async #fitColours(size: number): Promise<PreviewColours> {
    const { arithmetic } = this.engine;
    const decoder = await this.networks.decoder({ height: size, width: size }, 'preview');
    try {
      return await fitPreviewColours(this.networks.latents, size, async (latents, dims) => {
        const tensor = arithmetic.upload(latents, dims);
        try {
          return (await this.#pictures(decoder, tensor))[0];
        } finally {
          tensor.dispose();
        }
      });
    } finally {
      await decoder.dispose();
    }
  }
}
