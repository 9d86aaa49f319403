/** Encodes pictures as latents. */
import { assert } from '../../core/errors.ts';
import type { CpuTensor } from '../../core/media.ts';
import type { ImageRequest, SampleRequest } from '../../core/model.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { imageToTensor, maskToTensor } from '../../formats/resample.ts';
import type { Networks } from './networks.ts';
import { encodedInTiles } from './tiled_encoding.ts';

export class ImageEncoding {
  readonly #engine: Engine;
  readonly #networks: Networks;

  constructor(engine: Engine, networks: Networks) {
    this.#engine = engine;
    this.#networks = networks;
  }

  /**
   * Encodes a picture [1, 3, H, W] in [-1, 1] as latents, scaled for sampling and repeated `batch` times.
   * @param tile see `ImageRequest.tile_size`
   */
  async encode(
    pixels: CpuTensor,
    batch: number,
    random: ImageRequest['random'],
    tile: number | undefined,
  ): Promise<DeviceTensor> {
    const { arithmetic } = this.#engine;
    const networks = this.#networks;
    const { channels, factor, scale } = networks.latents;
    const [, , height, width] = pixels.dims;
    const dims = [1, channels, height / factor, width / factor];
    const held: DeviceTensor[] = [];
    try {
      const encode = (input: DeviceTensor) => networks.encodeImage(input);
      const encoded = await encodedInTiles(arithmetic, pixels, tile, factor, encode);
      held.push(encoded.tensor);
      const latents = arithmetic.empty([batch, ...dims.slice(1)]);
      if (encoded.kind === 'moments') {
        const count = elements(dims);
        const single = arithmetic.empty(dims);
        held.push(single);
        // Pictures of a batch start from the same sample, each frame of a video from one of its own.
        const samples = networks.conditions.motion ? batch : 1;
        const drawn = random.ofPosterior(samples * count) ?? new Float32Array(samples * count);
        for (let n = 0; n < samples; n++) {
          const noise = arithmetic.upload(drawn.slice(n * count, (n + 1) * count), dims);
          held.push(noise);
          arithmetic.posterior(single, encoded.tensor, noise, scale);
          arithmetic.copy(single, 0, latents, n * count, count);
        }
        if (samples === 1) {
          arithmetic.combine(latents, 1, single, 0, null, batch);
        }
      } else {
        arithmetic.combine(latents, scale, encoded.tensor, 0, null, batch);
      }
      return latents;
    } finally {
      held.forEach((tensor) => {
        tensor.dispose();
      });
    }
  }

  /** The inputs of an inpainting network: the mask, and the latents of the picture outside it, for each of the rows. */
  async masked(
    { mask, picture, width, height, random, tile_size }: SampleRequest,
    rows: number,
  ): Promise<DeviceTensor> {
    const { arithmetic } = this.#engine;
    assert(mask !== undefined && picture !== undefined, 'the picture and its mask are given');
    const { channels, factor } = this.#networks.latents;
    const [latentHeight, latentWidth] = [height / factor, width / factor];
    const seen = imageToTensor(resizeLanczos(picture, width, height));
    const covered = maskToTensor(mask, width, height, width, height).data;
    // Where the mask covers it, the network sees middle grey.
    seen.data.forEach((value, i) => (seen.data[i] = covered[i % covered.length] < 0.5 ? value : 0));
    const stays = await this.encode(seen, 1, random, tile_size);
    const change = maskToTensor(mask, width, height, latentWidth, latentHeight).data;
    const uploaded = arithmetic.upload(change, [change.length]);
    try {
      const masked = arithmetic.empty([rows, 1 + channels, latentHeight, latentWidth]);
      const row = (1 + channels) * change.length;
      for (let n = 0; n < rows; n++) {
        arithmetic.copy(uploaded, 0, masked, n * row, change.length);
        arithmetic.copy(stays, 0, masked, n * row + change.length, channels * change.length);
      }
      return masked;
    } finally {
      uploaded.dispose();
      stays.dispose();
    }
  }
}
