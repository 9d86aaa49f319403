/**
 * Qwen-Image-Layered: Qwen-Image's networks with pictures of four channels, of which the transformer is shown the one that it takes apart.
 * Reference: diffusers/pipelines/qwenimage/pipeline_qwenimage_layered.py
 */
import type { PixelImage } from '../../core/media.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import { resizeTransparent } from '../../core/pillow_resize.ts';
import type { FlowCourse } from '../../schedulers/scheduler.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { EncodedPicture, LatentSize } from '../latent_diffusion/networks.ts';
import { QwenImageNetworks } from './qwen_image_networks.ts';

export class QwenLayeredNetworks extends QwenImageNetworks {
  readonly needsPicture = true;

  /** The picture is shown at the size of its layers. */
  sizedToShow(image: PixelImage, _together: number, result: { width: number; height: number } = image): PixelImage {
    return resizeTransparent(image, result.width, result.height);
  }

  override encodeImage(pixels: DeviceTensor): Promise<EncodedPicture> {
    return this.pictures.encodeMiddle(pixels);
  }

  override course({
    height,
    width,
    frames = 1,
  }: LatentSize & { frames?: number | undefined }): Omit<FlowCourse, 'steps'> {
    return { ...super.course({ height: height / frames, width }), shift: 'root' };
  }

  override planned(request: NetworkRequest): Promise<PlannedNetwork[]> {
    const { rows: layers, calls, steps, texts, height, width } = request;
    const text = this.textTokens(this.text.tokenizer.limit);
    return Promise.resolve([
      this.text.planned(this.costs, texts, this.text.tokenizer.limit),
      this.plannedTransformer(calls, steps, { height: (layers + 1) * height, width, text, shown: [{ height, width }] }),
      ...this.pictures.planned(this.costs, { ...request, startsFromPicture: true }),
    ]);
  }
}
