/**
 * The services of Stable Audio: words, and perhaps a sound to start from, to sounds of any length that its latents hold.
 * Reference: diffusers/pipelines/stable_audio/pipeline_stable_audio.py
 */
import type { Sound } from '../../core/media.ts';
import type { CheckpointSummary, Conditioning, EstimateRequest, Latents } from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import type { SoundDecodeRequest, SoundSampleRequest, SoundTextRequest } from '../../core/sound_model.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoadedSoundModel } from '../family.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import { planCosine, type Settings } from './cosine_dpm_solver.ts';
import { channelsOf } from './piecewise_sounds.ts';
import { SoundCheckpoint } from './sound_checkpoint.ts';
import { sampleSounds } from './sound_sampling.ts';
import { SoundTexts } from './sound_texts.ts';
import type { StableAudioNetworks } from './stable_audio_networks.ts';

export class StableAudioModel extends SoundCheckpoint<StableAudioNetworks> implements LoadedSoundModel {
  constructor(
    files: CheckpointFiles,
    engine: Engine,
    networks: StableAudioNetworks,
    scheduler: SchedulerConfig,
    readonly settings: Settings,
    summary: CheckpointSummary,
  ) {
    super(files, engine, networks, scheduler, summary);
  }

  async encodeText(request: SoundTextRequest): Promise<Conditioning> {
    const { prompt, negative_prompt: negative = null, guidance_scale: scale, from, until } = request;
    const { networks } = this;
    const words = await networks.conditions(prompt, from, until);
    const away = scale > 1 ? await networks.conditions(negative, from, until) : null;
    return new SoundTexts(words, away, negative !== null, networks.t5.tokenizer.limit);
  }

  async sample(conditioning: Conditioning, request: SoundSampleRequest): Promise<Latents> {
    const { engine, networks } = this;
    const { arithmetic } = engine;
    const { in_channels: channels, sample_size: length } = networks.config;
    const { away } = conditioning as SoundTexts;
    const { start, random } = request;
    const plan = planCosine(this.settings, request.steps, start && request.strength);
    this.used = { sampler: plan.sampler, schedule: plan.schedule, guidance_mode: away ? 'serial' : 'none' };
    this.beginHashing();
    const dims = [request.batch_size, channels, 1, length] as const;
    return sampleSounds({
      engine,
      plan,
      request,
      dims,
      texts: conditioning as SoundTexts,
      begin: async () => {
        const held = new Held();
        try {
          const noise = held.hold(arithmetic.upload(random.ofStart(dims), dims));
          // As the reference, which draws the noise first.
          const given = start && held.hold(await this.#encoded(start, random, request.signal));
          const x = arithmetic.empty(dims);
          arithmetic.combine(x, plan.initNoise, noise, 1, given ?? null);
          return x;
        } finally {
          held.dispose();
        }
      },
      denoiser: (conditions) => networks.denoiser(conditions),
    });
  }

  async decode(latents: Latents, { from, until, signal, onPart }: SoundDecodeRequest): Promise<Sound[]> {
    const { rate } = this.form;
    const span = [Math.trunc(from * rate), Math.trunc(until * rate)] as const;
    const made = await this.networks.sounds.decodeAll(latents, span, { signal, onPart });
    return made.map((channels) => ({ rate, channels }));
  }

  async prepare({ guidance_scale }: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { networks } = this;
    const text = (await this.encodeText({ prompt: '', guidance_scale, from: 0, until: 1 })) as SoundTexts;
    try {
      if (!signal.aborted) {
        (await networks.denoiser([text.prompt])).dispose();
      }
      if (!signal.aborted) {
        await networks.sounds.decoder(networks.config.sample_size);
      }
    } finally {
      text.dispose();
    }
  }

  /** A sound as latents [1, channels, 1, length]: cut, or filled up with silence, to the model's length. */
  async #encoded(sound: Sound, random: NoiseSource, signal: AbortSignal): Promise<DeviceTensor> {
    const { sounds, config } = this.networks;
    const { in_channels: channels, sample_size: length } = config;
    const samples = length * sounds.hop;
    const planes = channelsOf(sound, this.form.channels).map((plane) => {
      const whole = new Float32Array(samples);
      whole.set(plane.subarray(0, samples));
      return whole;
    });
    const moments = await sounds.encode(planes, { signal, onPart: () => undefined });
    const count = channels * length;
    const noise = random.ofPosterior(count) ?? new Float32Array(count);
    const latents = noise.map((value, i) => moments[i] + oobleck.deviation(moments[count + i]) * value);
    return this.engine.arithmetic.upload(latents, [1, channels, 1, length]);
  }
}
