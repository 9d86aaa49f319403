/**
 * The services of a flow transformer that takes a picture apart into layers: one prediction for all of them, which lie below each other in one tall
 * picture of latents, led by the picture as a whole.
 * Reference: diffusers/pipelines/qwenimage/pipeline_qwenimage_layered.py
 */
import { LayerNoise } from '../../core/layer_noise.ts';
import type { PixelImage } from '../../core/media.ts';
import type {
  Conditioning,
  DecodeRequest,
  Estimate,
  EstimateRequest,
  Latents,
  SampleRequest,
} from '../../core/model.ts';
import { elements } from '../../engine/arithmetic.ts';
import type { Circumstances } from '../family.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import { takeFrame } from '../latent_diffusion/latent_frames.ts';
import { FlowModel, type LatentShape, type PictureShape } from './flow_model.ts';

/** `batch_size` counts the layers. */
export class LayeredModel extends FlowModel {
  /** @returns latents [1 + layers, channels, height, width]: the picture as a whole, then its layers */
  override async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const { arithmetic } = this.engine;
    const all = request.batch_size + 1;
    const sampled = await super.sample(conditioning, { ...request, random: new LayerNoise(request.random, all) });
    const { tensor } = sampled as DeviceLatents;
    const [, channels, rows, width] = tensor.dims;
    const shape = [channels, rows / all, width];
    const one = arithmetic.empty([1, ...shape]);
    const apart = arithmetic.empty([all, ...shape]);
    const count = elements(shape);
    for (let n = 0; n < all; n++) {
      takeFrame(arithmetic, tensor, all, n, one);
      arithmetic.copy(one, 0, apart, n * count, count);
    }
    one.dispose();
    sampled.dispose();
    return new DeviceLatents(apart, this.engine);
  }

  /** @returns the layers, from the one behind all others */
  override async decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]> {
    const { tensor } = latents as DeviceLatents;
    const [all, channels, height, width] = tensor.dims;
    const count = channels * height * width;
    const layers = this.engine.arithmetic.empty([all - 1, channels, height, width]);
    const own = new DeviceLatents(layers, this.engine);
    try {
      this.engine.arithmetic.copy(tensor, count, layers, 0, (all - 1) * count);
      return await super.decode(own, request);
    } finally {
      own.dispose();
    }
  }

  /** All steps are run. */
  override estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return super.estimate({ ...request, strength: 1 }, circumstances);
  }

  protected override shapeOf({ batch_size: layers, ...size }: PictureShape): LatentShape {
    const { height, width } = super.shapeOf({ ...size, batch_size: 1 });
    const frames = layers + 1;
    return { batch: 1, height: frames * height, width, frames };
  }
}
