/** A network that enlarges the latents of videos between two passes of another checkpoint. */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { CpuTensor } from '../../core/media.ts';
import type { CheckpointSummary, EstimateRequest } from '../../core/model.ts';
import { NOT_FINITE } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as upsampler from '../../graphs/ltx_latent_upsampler.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoadedLatentUpsampler, ModelLora } from '../family.ts';
import { BaseNetworks, Held } from '../flow_transformer/base_networks.ts';
import { OpenedCheckpoint } from '../latent_diffusion/opened_checkpoint.ts';
import type { NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import type { LatentSpace } from '../latent_diffusion/networks.ts';

const NAME = 'latent_upsampler';
/** Pixels per latent along a side, and frames of all latents but the first, of LTX-Video. */
const [SIDE, PIECE] = [32, 8];

interface Extent {
  frames: number;
  height: number;
  width: number;
}

class UpsamplerNetworks extends BaseNetworks {
  readonly config: upsampler.Config;
  readonly #component: Component;

  constructor(engine: Engine, files: CheckpointFiles, component: Component) {
    super(engine, files, 'LTX-Video', [component], 'full');
    this.#component = component;
    this.config = upsampler.parseConfig(component.config);
  }

  get latents(): LatentSpace {
    return { channels: this.config.in_channels, factor: SIDE, scale: 1 };
  }

  planned({ rows, height, width }: Pick<NetworkRequest, 'rows' | 'height' | 'width'>): Promise<PlannedNetwork[]> {
    const { provider } = this.engine;
    return Promise.resolve([
      this.costs.network(
        { name: NAME, phase: 'sample', runs: 1, runsPerStep: 1, precision: 'f32' },
        { provider, batch: 1, weights: 'full', frames: Math.ceil((rows - 1) / PIECE) + 1, height, width },
        (options) => upsampler.build(this.config, this.#component.weights, options),
      ),
    ]);
  }

  network({ frames, height, width }: Extent) {
    const shape = { frames, height, width };
    return this.shelf.get(NAME, shape, (options) =>
      upsampler.build(this.config, this.#component.weights, { ...options, batch: 1, dtype: 'f32', ...shape }),
    );
  }
}

export class LatentUpsamplerModel extends OpenedCheckpoint<UpsamplerNetworks> implements LoadedLatentUpsampler {
  static async open(
    files: CheckpointFiles,
    engine: Engine,
    component: Component,
    pipelineClass: string,
  ): Promise<LatentUpsamplerModel> {
    const networks = new UpsamplerNetworks(engine, files, component);
    const counts = Array.from(component.weights.names(), (name) =>
      (component.weights.get(name)?.shape ?? []).reduce((product, dim) => product * dim, 1),
    );
    const parameters = counts.reduce((sum, count) => sum + count, 0);
    const sizes = await Promise.all(component.files.map(async (path) => (await files.blob(path)).size));
    const texts = files.paths().filter((path) => path === 'model_index.json' || path === `${NAME}/config.json`);
    const summary: CheckpointSummary = {
      ref: files.ref,
      name: files.name.replace(/\.safetensors$/i, ''),
      pipelineClass,
      parameters,
      needs: [...texts, ...component.files],
      variants: ['full'],
      takesLoras: false,
      bytes: sizes.reduce((sum, size) => sum + size, 0),
      memoryBytes: 4 * parameters,
      largestTensorBytes: 4 * Math.max(...counts),
      // If the video's size is unknown.
      defaults: { width: 704, height: 480, sampler: '', schedule: '' },
      prompts: [],
    };
    return new LatentUpsamplerModel(files, engine, networks, { className: '', values: {} }, summary);
  }

  async upsample({ dims, data }: CpuTensor, frames: number, signal: AbortSignal): Promise<CpuTensor> {
    const { arithmetic } = this.engine;
    const [, channels, rows, width] = dims;
    const { in_channels: taken } = this.networks.config;
    if (channels !== taken) {
      throw new StudioError(
        'checkpoint_unsupported',
        `"${this.summary.name}" enlarges latents of ${taken} channels, and the checkpoint's have ${channels}; choose the upsampler that belongs to it.`,
      );
    }
    if (signal.aborted) {
      throw cancelled();
    }
    const held = new Held();
    try {
      const network = await this.networks.network({ frames, height: rows / frames, width });
      const larger = held.hold(arithmetic.empty([1, channels, upsampler.FACTOR * rows, upsampler.FACTOR * width]));
      const latents = held.hold(arithmetic.upload(new Float32Array(data), dims));
      await this.engine.run(network, { latents }, { larger });
      const made = await arithmetic.read(larger);
      if (!made.every(Number.isFinite)) {
        throw new StudioError('result_invalid', NOT_FINITE);
      }
      return { dims: [...larger.dims], data: made };
    } finally {
      held.dispose();
    }
  }

  /** Its size follows from the video, which is not there yet. */
  async prepare(_request: EstimateRequest): Promise<void> {
    // Loading it before it is needed would take the room of what samples.
  }

  /** LoRAs exist only for checkpoints that paint. */
  override useLoras(loras: readonly ModelLora[]): Promise<string[]> {
    return loras.length === 0
      ? Promise.resolve([])
      : Promise.reject(
          new StudioError(
            'checkpoint_unsupported',
            `"${this.summary.name}" enlarges latents and takes no LoRAs; leave them out.`,
          ),
        );
  }

  override async checkLora(lora: ModelLora): Promise<string | null> {
    await this.useLoras([lora]);
    return null;
  }
}
