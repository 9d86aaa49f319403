/**
 * Decodes latents into pictures: whole, tile by tile, and as coarse previews.
 *
 * Reference: diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py, `decode_latents`
 */
import { cancelled } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type { DecodeRequest } from '../../core/model.ts';
import { elements, type DeviceTensor, type PreviewColours } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { fitPreviewColours } from '../../engine/latent_preview.ts';
import { requireFinite, toPixels } from '../../engine/pixels.ts';
import { picturePlanes, type CommonNetworks, type Decoder } from './networks.ts';
import { cutTile, joinTiles, layTiles, type Tile } from './tiles.ts';

export class LatentDecoder {
  #previewColours: PreviewColours | null | undefined;

  constructor(
    readonly engine: Engine,
    readonly networks: CommonNetworks,
  ) {}

  /**
   * @param latents [batch, channels, height, width] as sampling leaves them, height and width in latents; owned by the caller
   * @returns one picture per batch entry, `factor` times as high and wide, in pixels; none where the request takes them
   * @throws StudioError `cancelled` between two pictures or tiles, `result_invalid` for NaN or infinity
   */
  decode(latents: DeviceTensor, request: DecodeRequest): Promise<PixelImage[]> {
    const { factor } = this.networks.latents;
    const [, , height, width] = latents.dims;
    const side = request.tile_size === undefined ? Infinity : request.tile_size / factor;
    if (height <= side && width <= side) {
      return this.#whole(latents, request);
    }
    return request.take ? this.#tiledInTurn(latents, side, request, request.take) : this.#tiled(latents, side, request);
  }

  /** Measures the colours anew: another autoencoder has taken the place of the one that had them. */
  forgetColours(): void {
    this.#previewColours = undefined;
  }

  /** The first picture of a batch as the quick autoencoder decodes it, which is gone again afterwards; null if there is none. */
  async first(latents: DeviceTensor): Promise<PixelImage | null> {
    const [, channels, height, width] = latents.dims;
    const decoder = await this.networks.firstDecoder?.({ height, width });
    if (!decoder) {
      return null;
    }
    const { arithmetic } = this.engine;
    const one = arithmetic.empty([1, channels, height, width]);
    try {
      arithmetic.copy(latents, 0, one, 0, channels * height * width);
      return (await this.#pictures(decoder, one))[0];
    } finally {
      one.dispose();
      await decoder.dispose();
    }
  }

  /** The colours the decoder gives latents, measured once; null if no preview can be decoded. */
  async colours(): Promise<PreviewColours | null> {
    if (this.#previewColours === undefined) {
      const size = await this.networks.previewSize();
      this.#previewColours = size === null ? null : await this.#fitColours(size);
    }
    return this.#previewColours;
  }

  async #whole(latents: DeviceTensor, { signal, onPart, take }: DecodeRequest): Promise<PixelImage[]> {
    const { arithmetic } = this.engine;
    const [batch, channels, height, width] = latents.dims;
    const count = channels * height * width;
    const decoder = await this.networks.decoder({ height, width }, 'picture');
    const images: PixelImage[] = [];
    const one = arithmetic.empty([1, channels, height, width]);
    try {
      // One picture at a time, since the decoder's activations are the largest of the whole pipeline.
      for (let n = 0; n < batch; n++) {
        if (signal.aborted) {
          throw cancelled();
        }
        arithmetic.copy(latents, n * count, one, 0, count);
        const decoded = await this.#pictures(decoder, one);
        if (take) {
          await take(decoded[0]);
        } else {
          images.push(...decoded);
        }
        onPart(n + 1, batch);
      }
    } finally {
      one.dispose();
      await decoder.dispose();
    }
    return images;
  }

  /** One picture after another: their tiles are as large as the pictures themselves. */
  async #tiledInTurn(
    latents: DeviceTensor,
    side: number,
    request: DecodeRequest,
    take: NonNullable<DecodeRequest['take']>,
  ): Promise<PixelImage[]> {
    const { arithmetic } = this.engine;
    const [batch, ...dims] = latents.dims;
    const count = elements(dims);
    const one = arithmetic.empty([1, ...dims]);
    try {
      for (let n = 0; n < batch; n++) {
        arithmetic.copy(latents, n * count, one, 0, count);
        const onPart: DecodeRequest['onPart'] = (done, parts) => {
          request.onPart(n * parts + done, batch * parts);
        };
        await take((await this.#tiled(one, side, { ...request, onPart }))[0]);
      }
    } finally {
      one.dispose();
    }
    return [];
  }

  /** See `tiles.ts`. Tiles are blended on the CPU, because it is the device's memory that is short. */
  async #tiled(latents: DeviceTensor, side: number, { signal, onPart }: DecodeRequest): Promise<PixelImage[]> {
    const { arithmetic } = this.engine;
    const { factor } = this.networks.latents;
    const planes = picturePlanes(this.networks.latents);
    const [batch, channels, height, width] = latents.dims;
    const all = await arithmetic.read(latents);
    requireFinite(all);
    const tiles = layTiles({ height, width }, side);
    const decoded = Array.from({ length: batch }, () => new Map<Tile, Float32Array>());
    // Shapes are static, so all tiles of one size are decoded before the next size.
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
      const picture = joinTiles(given, { height, width }, side, factor, planes);
      return toPixels(picture, [1, planes, height * factor, width * factor]);
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
