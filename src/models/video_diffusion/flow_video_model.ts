/**
 * The services of a flow transformer that makes videos: its frames lie below each other in one tall picture of latents, and are decoded piece by
 * piece.
 * Reference: diffusers/pipelines/wan/pipeline_wan{,_i2v}.py, pipelines/ltx/pipeline_ltx{,_image2video,_condition}.py
 */
import { StudioError } from '../../core/errors.ts';
import type { CpuTensor, PixelImage } from '../../core/media.ts';
import type {
  Conditioning,
  DecodeRequest,
  Estimate,
  EstimateRequest,
  LatentScales,
  Latents,
  SampleRequest,
  VideoEnds,
} from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import { imageToTensor } from '../../formats/resample.ts';
import type { Circumstances } from '../family.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import { FlowModel, type LatentShape, type PictureShape } from '../flow_transformer/flow_model.ts';
import type { FlowNetworks } from '../flow_transformer/flow_networks.ts';
import { DrawnStart } from '../../core/drawn_start.ts';
import { resizeLanczos } from '../../core/pillow_resize.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import type { VideoDecoding } from './video_decoding.ts';

/** A picture, as it is and as the frame that it becomes. */
export interface GivenFrame {
  image: PixelImage;
  /** [1, 3, height, width] in [-1, 1] */
  pixels: DeviceTensor;
}

export interface GivenEnds {
  first: GivenFrame | undefined;
  last: GivenFrame | undefined;
}

/** Owned by the receiver. */
export interface ShownEnds {
  /** The first is what {@link FlowVideoNetworks.settle} takes, where the video begins with a picture. */
  shown: DeviceTensor[];
  /** Where the last frame is shown by itself. */
  last?: DeviceTensor | undefined;
}

export interface FlowVideoNetworks extends FlowNetworks {
  readonly videos: {
    /** Of the latents of a video. */
    framesOf(frames: number): number;
    /** @param latents [1, channels, frames · height, width] */
    decode(latents: DeviceTensor, frames: number, decoding: VideoDecoding): Promise<void>;
  };
  /**
   * What the transformer is shown of a video that begins or ends with a picture.
   * @param frames of the latents
   * @param random draws samples of the posterior, where any are drawn
   */
  ends(given: GivenEnds, frames: number, random: NoiseSource): Promise<ShownEnds>;
  /** Whether the noise of sampling is drawn before a given picture is encoded; absent = it is drawn afterwards. */
  readonly startsFirst?: boolean;
  /** Finishes latents [1, channels, frames · height, width] whose sampling was shown that. */
  settle(latents: DeviceTensor, frames: number, begun: DeviceTensor): void;
  /** Absent if no other network can enlarge its latents. */
  latentScales?(): Promise<LatentScales>;
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

  async encodeEnds({ first, last, width, height, batch_size, random }: VideoEnds) {
    const { arithmetic } = this.engine;
    const { networks } = this;
    if (networks.startsFirst) {
      const shape = this.shapeOf({ width, height, batch_size });
      const { channels } = networks.latents;
      this.#drawn.set(random, random.ofStart([shape.batch, channels, shape.height, shape.width]));
    }
    const held = new Held();
    const framed = (image: PixelImage): GivenFrame => {
      const { data, dims } = imageToTensor(resizeLanczos(image, width, height));
      return { image, pixels: held.hold(arithmetic.upload(data, dims)) };
    };
    try {
      const given = { first: first && framed(first), last: last && framed(last) };
      const ends = await networks.ends(given, networks.videos.framesOf(batch_size), random);
      const latents = (tensor: DeviceTensor) => new DeviceLatents(tensor, this.engine);
      return { shown: ends.shown.map(latents), last: ends.last && latents(ends.last) };
    } finally {
      held.dispose();
    }
  }

  latentsFrom({ dims, data }: CpuTensor): Latents {
    return new DeviceLatents(this.engine.arithmetic.upload(data, dims), this.engine);
  }

  latentScales(): Promise<LatentScales> {
    if (!this.networks.latentScales) {
      throw new StudioError(
        'invalid_operation',
        `The latents of "${this.summary.name}" can be enlarged by no other network; leave latent_upsampler out.`,
      );
    }
    return this.networks.latentScales();
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
