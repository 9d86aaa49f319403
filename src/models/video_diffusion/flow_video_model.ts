/**
 * The services of a flow transformer that makes videos: its frames lie below each other in one tall picture of latents, and are decoded piece by
 * piece.
 * Reference: diffusers/pipelines/wan/pipeline_wan{,_i2v}.py
 */
import { StudioError } from '../../core/errors.ts';
import type { PixelImage } from '../../core/media.ts';
import type {
  CheckpointSummary,
  Conditioning,
  DecodeRequest,
  Estimate,
  EstimateRequest,
  ImageRequest,
  Latents,
  SampleRequest,
} from '../../core/model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { imageToTensor, resizeLanczos } from '../../formats/resample.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { Circumstances } from '../family.ts';
import { FlowModel, type LatentShape, type PictureShape } from '../flow_transformer/flow_model.ts';
import type { FlowNetworks } from '../flow_transformer/flow_networks.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import type { WanVideos } from './wan_videos.ts';

export interface FlowVideoNetworks extends FlowNetworks {
  readonly videos: Pick<WanVideos, 'framesOf' | 'decode'>;
  /**
   * What the transformer is shown of a video that begins with a picture.
   * @param picture [1, 3, height, width] in [-1, 1]
   * @param frames of the latents
   */
  begun(picture: DeviceTensor, frames: number): Promise<DeviceTensor>;
  /** Finishes latents [1, channels, frames · height, width] whose sampling was shown that. */
  settle(latents: DeviceTensor, frames: number, begun: DeviceTensor): void;
}

export class FlowVideoModel extends FlowModel {
  constructor(
    files: CheckpointFiles,
    engine: Engine,
    override readonly networks: FlowVideoNetworks,
    scheduler: SchedulerConfig,
    summary: CheckpointSummary,
  ) {
    super(files, engine, networks, scheduler, summary);
  }

  override async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const latents = await super.sample(conditioning, request);
    const [begun] = request.shown ?? [];
    if (begun !== undefined) {
      const frames = this.networks.videos.framesOf(request.batch_size);
      this.networks.settle((latents as DeviceLatents).tensor, frames, (begun as DeviceLatents).tensor);
    }
    return latents;
  }

  /** A picture as the beginning of a video, to be shown to sampling; nothing is drawn for it. */
  override async encodeImage(image: PixelImage, { width, height, batch_size }: ImageRequest): Promise<Latents> {
    const { arithmetic } = this.engine;
    const pixels = imageToTensor(resizeLanczos(image, width, height));
    const picture = arithmetic.upload(pixels.data, pixels.dims);
    try {
      return new DeviceLatents(
        await this.networks.begun(picture, this.networks.videos.framesOf(batch_size)),
        this.engine,
      );
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
