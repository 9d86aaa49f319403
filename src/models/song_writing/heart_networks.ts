/** HeartMuLa's networks over a checkpoint's files: those that write a song, and those of the codec that plays it. All compute in f32. */
import type { WeightVariant } from '../../core/model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import type { Engine } from '../../engine/engine.ts';
import { FRAMES_PER_SECOND } from '../../graphs/heart_codec.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { BaseNetworks } from '../flow_transformer/base_networks.ts';
import type { EstimatedNetworks, NetworkRequest, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { HeartSounds } from './heart_sounds.ts';
import { HeartWriter } from './heart_writer.ts';

export class HeartNetworks extends BaseNetworks implements EstimatedNetworks {
  readonly writer: HeartWriter;
  readonly sounds: HeartSounds;

  constructor(engine: Engine, files: CheckpointFiles, mula: Component, codec: Component, weights: WeightVariant) {
    super(engine, files, 'HeartMuLa', [mula, codec], weights);
    this.writer = new HeartWriter(engine, this.shelf, files, mula, weights);
    this.sounds = new HeartSounds(engine, this.shelf, files, codec, weights);
  }

  /** The longest song is as long as the model remembers, words and all. */
  get form(): SoundForm {
    return { rate: this.sounds.rate, channels: 2, seconds: this.positions / FRAMES_PER_SECOND };
  }

  /** Positions that it was taught. */
  get positions(): number {
    return this.writer.config.backbone_flavor.max_seq_len;
  }

  /** As the estimate counts: frames along time take the place of a picture's latents. */
  get latents(): EstimatedNetworks['latents'] {
    return { channels: this.writer.config.audio_num_codebooks, factor: 1, scale: 1 };
  }

  get leastGuidance(): number {
    return 1;
  }

  /** With and without words are two rows of every run. */
  override batchesGuidance(): Promise<boolean> {
    return Promise.resolve(true);
  }

  planned({ width: frames, rows, steps }: NetworkRequest): Promise<PlannedNetwork[]> {
    return Promise.resolve([
      ...this.writer.planned(this.costs, rows, frames),
      ...this.sounds.planned(this.costs, frames, steps),
    ]);
  }
}
