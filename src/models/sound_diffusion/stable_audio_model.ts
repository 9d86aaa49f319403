/**
 * The services of Stable Audio: words, and perhaps a sound to start from, to sounds of any length that its latents hold.
 * Reference: diffusers/pipelines/stable_audio/pipeline_stable_audio.py
 */
import type { Sound } from '../../core/media.ts';
import type { CheckpointSummary, Conditioning, EstimateRequest, Latents } from '../../core/model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import type { SoundDecodeRequest, SoundSampleRequest, SoundTextRequest } from '../../core/sound_model.ts';
import { elements, type DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import { runSampling } from '../../engine/sampling_run.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import { readState } from '../../samplers/state.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoadedSoundModel } from '../family.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import { OneByOne } from '../flow_transformer/one_by_one.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import { planCosine, type Settings } from './cosine_dpm_solver.ts';
import { channelsOf } from './oobleck_sounds.ts';
import { SoundCheckpoint } from './sound_checkpoint.ts';
import type { SoundConditions, StableAudioNetworks } from './stable_audio_networks.ts';

class Texts implements Conditioning {
  constructor(
    readonly prompt: SoundConditions,
    /** What guidance leads away from; null = there is none. */
    readonly away: SoundConditions | null,
    /** Whether that was words. */
    readonly hasNegative: boolean,
    readonly limit: number,
  ) {}

  get tokens(): Conditioning['tokens'] {
    return { prompt: this.prompt.tokens, negative: this.away?.tokens ?? 0, limit: this.limit };
  }

  get texts(): Conditioning['texts'] {
    return { prompt: this.prompt.text, negative: this.hasNegative ? (this.away?.text ?? null) : null };
  }

  dispose(): void {
    for (const { states, whole } of [this.prompt, ...(this.away ? [this.away] : [])]) {
      states.dispose();
      whole.dispose();
    }
  }
}

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
    return new Texts(words, away, negative !== null, networks.t5.tokenizer.limit);
  }

  async sample(conditioning: Conditioning, request: SoundSampleRequest): Promise<Latents> {
    const { engine, networks } = this;
    const { arithmetic } = engine;
    const { in_channels: channels, sample_size: length } = networks.config;
    const { prompt, away } = conditioning as Texts;
    const { start, random } = request;
    const plan = planCosine(this.settings, request.steps, start && request.strength);
    this.used = { sampler: plan.sampler, schedule: plan.schedule, guidance_mode: away ? 'serial' : 'none' };
    this.beginHashing();
    const dims = [request.batch_size, channels, 1, length] as const;
    const state = readState(request.resume, plan, elements(dims));
    if (state?.done === plan.steps.length) {
      // Only the sound was missing: the transformer need not be brought to the device for it.
      random.state = state.random;
      return new DeviceLatents(arithmetic.upload(state.x, dims), engine);
    }
    const held = new Held();
    const snapshots = arithmetic.snapshots();
    let x: DeviceTensor | undefined;
    try {
      const noise = held.hold(arithmetic.upload(random.ofStart(dims), dims));
      // As the reference, which draws the noise first.
      const given = start && held.hold(await this.#encoded(start, random, request.signal));
      x = arithmetic.empty(dims);
      arithmetic.combine(x, plan.initNoise, noise, 1, given ?? null);
      const conditions = [...(away ? [away] : []), prompt];
      const single = await networks.denoiser(conditions);
      const denoiser = new OneByOne(engine, single, dims, conditions.length);
      try {
        await runSampling({
          engine,
          plan,
          x,
          copies: 1,
          blend: null,
          snapshots,
          request,
          state,
          colours: null,
          predict: async (input, timestep) => {
            const predictions = await denoiser.predict(input, timestep);
            const [uncond, cond] = away ? predictions : [null, predictions[0]];
            return { uncond, cond, condOffset: 0, guidance: request.guidance_scale };
          },
        });
      } finally {
        denoiser.dispose();
        single.dispose();
      }
      return new DeviceLatents(x, engine, snapshots);
    } catch (error) {
      snapshots.dispose();
      x?.dispose();
      throw error;
    } finally {
      held.dispose();
    }
  }

  async decode(latents: Latents, { from, until, signal, onPart }: SoundDecodeRequest): Promise<Sound[]> {
    const { rate } = this.form;
    const { sounds } = this.networks;
    const [batch, channels, , length] = latents.dims;
    const all = await latents.read();
    const count = channels * length;
    const made: Sound[] = [];
    for (let n = 0; n < batch; n++) {
      const own = all.subarray(n * count, (n + 1) * count);
      const planes = await sounds.decode(own, Math.trunc(from * rate), Math.trunc(until * rate), {
        signal,
        onPart: (done, parts) => {
          onPart(n * parts + done, batch * parts);
        },
      });
      made.push({ rate, channels: planes });
    }
    return made;
  }

  async prepare({ guidance_scale }: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { networks } = this;
    const text = (await this.encodeText({ prompt: '', guidance_scale, from: 0, until: 1 })) as Texts;
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
