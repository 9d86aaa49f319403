/**
 * The five services of a flow transformer: prompts of any length, one picture of a batch after another, and a course that follows from the
 * size of the picture.
 *
 * Reference: diffusers/pipelines/z_image/pipeline_z_image{,_img2img,_inpaint}.py, pipelines/flux2/pipeline_flux2_klein.py
 */
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
  TextRequest,
} from '../../core/model.ts';
import { TorchGenerator } from '../../core/random.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { Loading } from '../../engine/network_shelf.ts';
import { runSampling } from '../../engine/sampling_run.ts';
import { overlay } from '../../formats/overlay.ts';
import { imageToTensor, resizeLanczos } from '../../formats/resample.ts';
import { readState } from '../../samplers/state.ts';
import { samplers } from '../../samplers/registry.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import { planSampling } from '../../schedulers/plan.ts';
import { schedulers } from '../../schedulers/registry.ts';
import { schedules } from '../../schedules/registry.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { fingerprint } from '../../weights/fingerprint.ts';
import type { Circumstances, LoadedModel, ModelLora } from '../family.ts';
import { blendOf } from '../latent_diffusion/blend.ts';
import { estimate, plannedNetworks } from '../latent_diffusion/estimate.ts';
import { DeviceLatents } from '../latent_diffusion/latent_diffusion.ts';
import { LatentDecoder } from '../latent_diffusion/latent_decoder.ts';
import type { Denoiser } from '../latent_diffusion/networks.ts';
import { Held } from './base_networks.ts';
import type { EncodedText, FlowNetworks } from './flow_networks.ts';
import { shownAs } from './shown_pictures.ts';

class Texts implements Conditioning {
  constructor(
    readonly prompt: EncodedText,
    readonly negative: EncodedText | null,
    readonly guidance: number,
  ) {}

  get tokens(): Conditioning['tokens'] {
    return { prompt: this.prompt.tokens, negative: this.negative?.tokens ?? 0, limit: this.prompt.limit };
  }

  get texts(): Conditioning['texts'] {
    return { prompt: this.prompt.text, negative: this.negative?.text ?? null };
  }

  dispose(): void {
    for (const { tensors } of [this.prompt, ...(this.negative ? [this.negative] : [])]) {
      Object.values(tensors).forEach((tensor) => {
        tensor.dispose();
      });
    }
  }
}

export class FlowModel implements LoadedModel {
  readonly #decoder: LatentDecoder;
  #used: Record<string, unknown> = {};

  constructor(
    readonly files: CheckpointFiles,
    readonly engine: Engine,
    readonly networks: FlowNetworks,
    readonly scheduler: SchedulerConfig,
    readonly summary: CheckpointSummary,
  ) {
    this.#decoder = new LatentDecoder(engine, networks);
  }

  set onLoading(listener: ((loading: Loading) => void) | null) {
    this.networks.shelf.onLoading = listener;
  }

  async provenance(): Promise<Record<string, unknown>> {
    const { files, facts } = await this.networks.provenance();
    const { name, ref, pipelineClass } = this.summary;
    const sha256: Record<string, string> = {};
    for (const file of files) {
      sha256[file] = await fingerprint(this.files, file);
    }
    return {
      checkpoint: { name, ref, pipeline_class: pipelineClass, sha256 },
      scheduler_config: this.scheduler.values,
      ...facts,
      ...this.#used,
    };
  }

  async encodeText(request: TextRequest): Promise<Conditioning> {
    const { networks } = this;
    const { guidance_scale: scale } = request;
    const prompt = await networks.encodeText(request.prompt);
    const isGuided = scale > (networks.leastGuidance ?? 1) && !(await networks.embedsGuidance());
    const negative = isGuided ? await networks.encodeText(request.negative_prompt) : null;
    return new Texts(prompt, negative, networks.guidance(scale));
  }

  get onDevice(): readonly string[] {
    return this.networks.shelf.names;
  }

  async prepare(request: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { networks } = this;
    const { factor } = networks.latents;
    const { guidance_scale, batch_size } = request;
    const words = { prompt: '', negative_prompt: '', guidance_scale, batch_size };
    const text = (await this.encodeText(words)) as Texts;
    try {
      if (!signal.aborted) {
        const [height, width] = [request.height / factor, request.width / factor];
        (await networks.denoiser({ height, width, texts: [text.prompt], shown: [] })).dispose();
      }
      if (!signal.aborted) {
        await this.#decoder.colours();
      }
    } finally {
      text.dispose();
    }
  }

  encodeImage(image: PixelImage, { width, height, batch_size, random }: ImageRequest): Promise<Latents> {
    return this.#encode(resizeLanczos(image, width, height), batch_size, random);
  }

  /** A picture of the size that it is seen at; only families whose pictures are no Gaussians are shown any, so nothing is drawn. */
  async encodeShown(image: PixelImage): Promise<Latents> {
    return await this.#encode(shownAs(image, this.summary.multiple ?? 8), 1, new TorchGenerator('0'));
  }

  async #encode(image: PixelImage, batch: number, random: TorchGenerator): Promise<Latents> {
    const { arithmetic } = this.engine;
    const { channels, factor, scale, shift = 0 } = this.networks.latents;
    const pixels = imageToTensor(image);
    const dims = [1, channels, image.height / factor, image.width / factor];
    const held = new Held();
    try {
      const encoded = await this.networks.encodeImage(held.hold(arithmetic.upload(pixels.data, pixels.dims)));
      held.hold(encoded.tensor);
      let single = encoded.tensor;
      if (encoded.kind === 'moments') {
        const noise = held.hold(arithmetic.upload(random.randn(elements(dims)), dims));
        single = held.hold(arithmetic.empty(dims));
        arithmetic.posterior(single, encoded.tensor, noise, 1);
      }
      const one = held.hold(arithmetic.upload(Float32Array.of(1), [1]));
      const latents = arithmetic.empty([batch, ...dims.slice(1)]);
      arithmetic.combine(latents, scale, single, -shift * scale, one, batch);
      return new DeviceLatents(latents, this.engine);
    } finally {
      held.dispose();
    }
  }

  async sample(conditioning: Conditioning, request: SampleRequest): Promise<Latents> {
    const { engine, networks } = this;
    const { arithmetic } = engine;
    const { channels, factor } = networks.latents;
    const text = conditioning as Texts;
    const [batch, height, width] = [request.batch_size, request.height / factor, request.width / factor];
    const plan = planSampling(
      {
        config: this.scheduler,
        sampler: request.sampler,
        schedule: request.schedule,
        steps: request.steps,
        strength: request.start ? request.strength : undefined,
        flow: networks.course({ height, width }),
      },
      { samplers, schedules, schedulers },
    );
    this.#used = {
      sampler: plan.sampler,
      schedule: plan.schedule,
      guidance_mode: text.negative ? 'serial' : 'none',
    };
    const dims = [batch, channels, height, width];
    const count = batch * channels * height * width;
    const state = readState(request.resume, plan, count);
    if (state?.done === plan.steps.length) {
      // Only the picture was missing: the transformer need not be brought to the device for it.
      request.random.state = state.random;
      return new DeviceLatents(arithmetic.upload(state.x, dims), engine);
    }

    const texts = [...(text.negative ? [text.negative] : []), text.prompt];
    const shown = (request.shown ?? []).map((latents) => (latents as DeviceLatents).tensor);
    const held: { dispose(): void }[] = [];
    const hold = <T extends { dispose(): void }>(one: T): T => {
      held.push(one);
      return one;
    };
    const snapshots = arithmetic.snapshots();
    let x: DeviceTensor | undefined;
    try {
      const single = hold(await networks.denoiser({ height, width, texts, shown }));
      const denoiser = hold(new OneByOne(engine, single, dims, texts.length));
      const colours = request.previews ? await this.#decoder.colours() : null;
      x = arithmetic.empty(dims);
      const noise = hold(arithmetic.upload(request.random.randn(count), dims));
      const { alpha, sigma } = plan.addNoise(0);
      const start = request.start as DeviceLatents | undefined;
      arithmetic.combine(x, start ? sigma : plan.initNoise, noise, alpha, start?.tensor ?? null);
      await runSampling({
        engine,
        plan,
        x,
        copies: 1,
        blend: request.mask && start ? hold(blendOf(arithmetic, request.mask, request, start.tensor, noise)) : null,
        snapshots,
        request,
        state,
        colours,
        predict: async (input, timestep) => {
          const predictions = await denoiser.predict(input, timestep);
          return {
            uncond: text.negative ? predictions[0] : null,
            cond: predictions[predictions.length - 1],
            condOffset: 0,
            guidance: text.guidance,
          };
        },
      });
      return new DeviceLatents(x, engine, snapshots);
    } catch (error) {
      snapshots.dispose();
      x?.dispose();
      throw error;
    } finally {
      held.reverse().forEach((one) => {
        one.dispose();
      });
    }
  }

  async decode(latents: Latents, request: DecodeRequest): Promise<PixelImage[]> {
    const images = await this.#decoder.decode((latents as DeviceLatents).tensor, request);
    return request.overlay ? overlay(images, request.overlay.picture, request.overlay.mask) : images;
  }

  useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    return this.networks.useLoras(loras);
  }

  checkLora(lora: ModelLora): Promise<string | null> {
    return this.networks.checkLora(lora);
  }

  estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return estimate(this.networks, this.summary.variants, request, circumstances);
  }

  async toLoad(request: EstimateRequest): Promise<Map<string, number>> {
    const onDevice = new Set(this.networks.shelf.names);
    const planned = (await plannedNetworks(this.networks, request)).filter(({ name }) => !onDevice.has(name));
    const bytes = planned.map((network): [string, number] => {
      const precision = network.precision ?? this.engine.report.precision;
      return [network.name, network.cost(precision, request.weights ?? 'full').weightBytes];
    });
    return new Map(bytes);
  }

  isFrom(files: CheckpointFiles): boolean {
    const paths = this.files.paths();
    return (
      files.paths().length === paths.length &&
      paths.every((path) => files.has(path) && files.version(path) === this.files.version(path))
    );
  }

  release(): Promise<void> {
    return this.networks.clear();
  }
}

/** A denoiser of single pictures for a batch: such networks are large enough to fill a device with one. */
class OneByOne implements Denoiser {
  readonly #input: DeviceTensor;
  readonly #outputs: DeviceTensor[];

  constructor(
    readonly engine: Engine,
    readonly denoiser: Denoiser,
    readonly dims: number[],
    texts: number,
  ) {
    const { arithmetic } = engine;
    this.#input = arithmetic.empty([1, ...dims.slice(1)]);
    this.#outputs = Array.from({ length: texts }, () => arithmetic.empty(dims));
  }

  async predict(sample: DeviceTensor, timestep: number): Promise<DeviceTensor[]> {
    const [batch, ...shape] = this.dims;
    if (batch === 1) {
      return this.denoiser.predict(sample, timestep);
    }
    const { arithmetic } = this.engine;
    const count = elements(shape);
    for (let n = 0; n < batch; n++) {
      arithmetic.copy(sample, n * count, this.#input, 0, count);
      const predictions = await this.denoiser.predict(this.#input, timestep);
      predictions.forEach((prediction, k) => {
        arithmetic.copy(prediction, 0, this.#outputs[k], n * count, count);
      });
    }
    return this.#outputs;
  }

  dispose(): void {
    for (const tensor of [this.#input, ...this.#outputs]) {
      tensor.dispose();
    }
  }
}
