/**
 * The services of a flow transformer that makes videos: its frames lie below each other in one tall picture of latents, and are decoded piece by
 * piece.
 * Reference: diffusers/pipelines/wan/pipeline_wan{,_i2v}.py, pipelines/ltx/pipeline_ltx{,_image2video,_condition}.py
 */
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type {
  Conditioning,
  DecodeRequest,
  Estimate,
  EstimateRequest,
  ImageRequest,
  Latents,
  SampleRequest,
} from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import { imageToTensor, resizeLanczos } from '../../formats/resample.ts';
import type { Circumstances } from '../family.ts';
import { FlowModel, type LatentShape, type PictureShape } from '../flow_transformer/flow_model.ts';
import type { FlowNetworks } from '../flow_transformer/flow_networks.ts';
import { DrawnStart } from '../../core/drawn_start.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import type { VideoDecoding } from './video_decoding.ts';

export interface FlowVideoNetworks extends FlowNetworks {
  readonly videos: {
    /** Of the latents of a video. */
    framesOf(frames: number): number;
    /** @param latents [1, channels, frames · height, width] */
    decode(latents: DeviceTensor, frames: number, decoding: VideoDecoding): Promise<void>;
  };
  /**
   * What the transformer is shown of a video that begins with a picture.
   * @param picture [1, 3, height, width] in [-1, 1]
   * @param frames of the latents
   * @param random draws a sample of the posterior, where one is drawn
   */
  begun(picture: DeviceTensor, frames: number, random: NoiseSource): Promise<DeviceTensor>;
  /** The same of a video that ends with one; absent where none can. */
  ended?(picture: DeviceTensor, random: NoiseSource): Promise<DeviceTensor>;
  /** Whether the noise of sampling is drawn before a given picture is encoded; absent = it is drawn afterwards. */
  readonly startsFirst?: boolean;
  /** Finishes latents [1, channels, frames · height, width] whose sampling was shown that. */
  settle(latents: DeviceTensor, frames: number, begun: DeviceTensor): void;
}

export class FlowVideoModel extends FlowModel<FlowVideoNetworks> {
  /** What sampling starts from, where it was drawn ahead. */
  readonly #drawn = new WeakMap<NoiseSource, Float32Array<ArrayBuffer>>();

  override async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const drawn = this.#drawn.get(request.random);
    const random = drawn ? new DrawnStart(request.random, drawn) : request.random;
    const latents = await super.sample(conditioning, { ...request, random });
    const [begun] = request.shown ?? [];
    if (begun !== undefined) {
      const frames = this.networks.videos.framesOf(request.batch_size);
      this.networks.settle((latents as DeviceLatents).tensor, frames, (begun as DeviceLatents).tensor);
    }
    return latents;
  }

  /** A picture as the beginning or the end of a video, to be shown to sampling. */
  override async encodeImage(
    image: PixelImage,
    { width, height, batch_size, random, isLast = false }: ImageRequest,
  ): Promise<Latents> {
    const { arithmetic } = this.engine;
    const { networks } = this;
    if (networks.startsFirst && !this.#drawn.has(random)) {
      const shape = this.shapeOf({ width, height, batch_size });
      const { channels } = networks.latents;
      this.#drawn.set(random, random.ofStart([shape.batch, channels, shape.height, shape.width]));
    }
    const pixels = imageToTensor(resizeLanczos(image, width, height));
    const picture = arithmetic.upload(pixels.data, pixels.dims);
    try {
      const frames = networks.videos.framesOf(batch_size);
      const encoded = isLast ? await networks.ended?.(picture, random) : await networks.begun(picture, frames, random);
      if (encoded === undefined) {
        throw new Error('No video of this family ends with a given picture.');
      }
      return new DeviceLatents(encoded, this.engine);
    } finally {
      picture.dispose();
    }
  }

  /** All steps are run, whether the video begins with a picture or not. */
  override estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return super.estimate({ ...request, strength: 1 }, circumstances);
  }

  override async prepare(request: EstimateRequest, signal: AbortSignal): Promise<void> {
    // A transformer that is given the first frame is another graph.
    if (!request.startsFromPicture) {
      await super.prepare(request, signal);
    }
  }

  override async decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]> {
    await this.begin(request);
    const { tensor } = latents as DeviceLatents;
    const images: PixelImage[] = [];
    const take = request.take ?? ((frame: PixelImage) => Promise.resolve(void images.push(frame)));
    const frames = request.frames ?? 1;
    let done = 0;
    await this.networks.videos.decode(tensor, this.networks.videos.framesOf(frames), {
      signal: request.signal,
      noise: request.noise,
      take: async (frame) => {
        await take(frame);
        request.onPart(++done, frames);
      },
    });
    return images;
  }

  protected override shapeOf({ batch_size, height, width }: PictureShape): LatentShape {
    const { latents, videos } = this.networks;
    const frames = videos.framesOf(batch_size);
    if (!Number.isInteger(frames)) {
      throw new StudioError('invalid_operation', `"${this.summary.name}" makes no videos of ${batch_size} frames.`);
    }
    return { batch: 1, height: (frames * height) / latents.factor, width: width / latents.factor, frames };
  }
}
