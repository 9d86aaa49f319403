/**
 * Encoding a large picture tile by tile, so that the encoder's activations are those of one tile; see `tiles.ts`.
 *
 * Reference: diffusers/models/autoencoders/autoencoder_kl.py, `_tiled_encode`; overlap factor 0.25.
 */
import type { CpuTensor } from '../../core/media.ts';
import type { Arithmetic, DeviceTensor } from '../../engine/arithmetic.ts';
import type { EncodedPicture } from './networks.ts';
import { cutTile, joinTiles, layTiles, type Tile } from './tiles.ts';

/**
 * @param pixels [1, 3, height, width] from -1 to 1
 * @param side of the tiles in pixels, a multiple of 4 · `factor`; undefined = the picture as a whole
 * @param factor pixels per latent
 * @param encode what the network makes of pixels on the device
 */
export async function encodedInTiles(
  arithmetic: Arithmetic,
  pixels: CpuTensor,
  side: number | undefined,
  factor: number,
  encode: (pixels: DeviceTensor) => Promise<EncodedPicture>,
): Promise<EncodedPicture> {
  const [, colours, height, width] = pixels.dims;
  const encoded = async (data: Float32Array<ArrayBuffer>, dims: readonly number[]) => {
    const input = arithmetic.upload(data, dims);
    try {
      return await encode(input);
    } finally {
      input.dispose();
    }
  };
  if (side === undefined || (height <= side && width <= side)) {
    return encoded(pixels.data, pixels.dims);
  }
  const size = { height, width };
  const tiles = layTiles(size, side);
  const made = new Map<Tile, Float32Array>();
  let about: Pick<EncodedPicture, 'kind'> & { channels: number } = { kind: 'latents', channels: 0 };
  // Shapes are static, so all tiles of one size are encoded before the next size.
  const alike = [...tiles].sort((a, b) => b.height - a.height || b.width - a.width);
  for (const tile of alike) {
    const { kind, tensor } = await encoded(cutTile(pixels.data, size, colours, tile), [
      1,
      colours,
      tile.height,
      tile.width,
    ]);
    about = { kind, channels: tensor.dims[1] };
    made.set(tile, await arithmetic.read(tensor));
    tensor.dispose();
  }
  const { kind, channels } = about;
  const given = tiles.map((tile) => ({ tile, pixels: made.get(tile) as Float32Array }));
  const joined = joinTiles(given, size, side, 1 / factor, channels);
  return { kind, tensor: arithmetic.upload(joined, [1, channels, height / factor, width / factor]) };
}
