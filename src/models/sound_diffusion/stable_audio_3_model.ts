/**
 * The services of Stable Audio 3: words, and perhaps a sound that is varied or of which a part is made anew, to sounds as long as they are asked for.
 * Reference: diffusers/pipelines/stable_audio_3
 */
import { StudioError } from '../../core/errors.ts';
import type { Sound } from '../../core/media.ts';
import type { CheckpointSummary, Conditioning, Estimate, EstimateRequest, Latents } from '../../core/model.ts';
import type { SoundDecodeRequest, SoundSampleRequest, SoundTextRequest } from '../../core/sound_model.ts';
import type { Engine } from '../../engine/engine.ts';
import type { SchedulerConfig } from '../../schedulers/config.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { Circumstances, LoadedSoundModel } from '../family.ts';
import { channelsOf } from './piecewise_sounds.ts';
import { planPingPong, type Settings } from './ping_pong.ts';
import { SoundCheckpoint } from './sound_checkpoint.ts';
import { sampleSounds } from './sound_sampling.ts';
import { SoundTexts } from './sound_texts.ts';
import type { StableAudio3Networks } from './stable_audio_3_networks.ts';

export class StableAudio3Model extends SoundCheckpoint<StableAudio3Networks> implements LoadedSoundModel {
  constructor(
    files: CheckpointFiles,
    engine: Engine,
    networks: StableAudio3Networks,
    scheduler: SchedulerConfig,
    readonly settings: Settings,
    summary: CheckpointSummary,
  ) {
    super(files, engine, networks, scheduler, summary);
  }

  async encodeText(request: SoundTextRequest): Promise<SoundTexts> {
    const { prompt, negative_prompt: negative = null, guidance_scale: scale, until } = request;
    const { networks } = this;
    const words = await networks.conditions(prompt, until);
    const away = scale > 1 ? await networks.conditions(negative ?? '', until) : null;
    return new SoundTexts(words, away, negative !== null, networks.text.tokenizer.limit);
  }

  async sample(conditioning: Conditioning, request: SoundSampleRequest): Promise<Latents> {
    const { engine, networks } = this;
    const { start, anew, random, signal } = request;
    const length = Math.ceil(networks.placeOf(request.until));
    const level = start && !anew ? request.strength : 1;
    const plan = planPingPong(this.settings, request.steps, level);
    const texts = conditioning as SoundTexts;
    this.used = { sampler: plan.sampler, schedule: plan.schedule, guidance_mode: texts.away ? 'serial' : 'none' };
    this.beginHashing();
    const dims = [request.batch_size, networks.config.io_channels, 1, length] as const;
    let given: Promise<Float32Array<ArrayBuffer>> | undefined;
    const encoded = (sound: Sound) => (given ??= this.#encoded(sound, length, signal));
    return sampleSounds({
      engine,
      plan,
      request,
      dims,
      texts,
      begin: async () => {
        const under = start && level < 1 ? await encoded(start) : null;
        const noise = random.ofStart(dims);
        return engine.arithmetic.upload(under ? mixed(under, noise, level) : noise, dims);
      },
      denoiser: async (conditions) =>
        networks.denoiser(conditions, length, start && anew ? this.#kept(await encoded(start), length, anew) : null),
    });
  }

  async decode(latents: Latents, { from, until, signal, onPart }: SoundDecodeRequest): Promise<Sound[]> {
    const { rate } = this.form;
    const span = [Math.trunc(from * rate), Math.trunc(until * rate)] as const;
    const made = await this.networks.sounds.decodeAll(latents, span, { signal, onPart });
    return made.map((planes) => ({
      rate,
      channels: planes.map((plane) => plane.map((value) => Math.min(Math.max(value, -1), 1))),
    }));
  }

  /** A strength leaves all steps to run. */
  override estimate(request: EstimateRequest, circumstances: Circumstances): Promise<Estimate> {
    return super.estimate({ ...request, strength: undefined }, circumstances);
  }

  async prepare({ guidance_scale, width }: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { networks } = this;
    const text = await this.encodeText({
      prompt: '',
      guidance_scale,
      from: 0,
      until: width / networks.latentsPerSecond,
    });
    try {
      if (!signal.aborted) {
        (await networks.denoiser([text.prompt], width, null)).dispose();
      }
      if (!signal.aborted) {
        await networks.sounds.decoder(width);
      }
    } finally {
      text.dispose();
    }
  }

  /** A sound as latents [channels, length]: cut, or filled up with zeros. */
  async #encoded(sound: Sound, length: number, signal: AbortSignal): Promise<Float32Array<ArrayBuffer>> {
    const { sounds } = this.networks;
    const own = await sounds.latents(channelsOf(sound, this.form.channels), length, signal);
    const all = new Float32Array(sounds.channels * length);
    for (let row = 0; row < sounds.channels; row++) {
      all.set(own.values.subarray(row * own.length, (row + 1) * own.length), row * length);
    }
    return all;
  }

  /** What the transformer is told of each latent, [length, 1 + channels]: whether it stays, and if so what it is. */
  #kept(
    given: Float32Array<ArrayBuffer>,
    length: number,
    anew: { from: number; until: number },
  ): Float32Array<ArrayBuffer> {
    const { networks } = this;
    const { sounds } = networks;
    const [from, until] = [anew.from, anew.until].map((second) => Math.trunc(networks.placeOf(second)));
    if (from >= Math.min(until, length)) {
      throw new StudioError(
        'invalid_operation',
        `"${this.summary.name}" makes pieces of ${(1 / networks.latentsPerSecond).toPrecision(2)} seconds anew, and between repaint_start and repaint_end lies none; choose a longer part.`,
      );
    }
    const width = 1 + sounds.channels;
    const kept = new Float32Array(length * width);
    for (let at = 0; at < length; at++) {
      if (at < from || at >= until) {
        kept[at * width] = 1;
        for (let channel = 0; channel < sounds.channels; channel++) {
          kept[at * width + 1 + channel] = given[channel * length + at];
        }
      }
    }
    return kept;
  }
}

/** As much noise as the level says, over each of the sounds. */
function mixed(
  given: Float32Array<ArrayBuffer>,
  noise: Float32Array<ArrayBuffer>,
  level: number,
): Float32Array<ArrayBuffer> {
  return noise.map((value, i) => (1 - level) * given[i % given.length] + level * value);
}
