/**
 * The services of ACE-Step 1.5: words and lyrics, and perhaps a sound to make something of, to songs.
 * Reference: diffusers/pipelines/ace_step/pipeline_ace_step.py
 */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { Sound } from '../../core/media.ts';
import type { EstimateRequest, Latents } from '../../core/model.ts';
import {
  MUSIC_TASKS,
  type MusicConditioning,
  type MusicSampleRequest,
  type MusicTask,
  type MusicTextRequest,
  type SoundLatents,
} from '../../core/music_model.ts';
import type { NoiseSource } from '../../core/noise.ts';
import { NOT_FINITE_SOUND } from '../../engine/arithmetic.ts';
import { KEPT_EVERY } from '../../engine/sampling_keeper.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import { readState } from '../../samplers/state.ts';
import type { LoadedMusicModel } from '../family.ts';
import { DeviceLatents } from '../latent_diffusion/device_latents.ts';
import { MOST_LYRICS, MOST_WORDS, TIMBRE_SECONDS, type AceStepNetworks, type Told } from './ace_step_networks.ts';
import { lyricsText, promptText } from './ace_step_prompt.ts';
import { channelsOf } from './piecewise_sounds.ts';
import { ProjectedGuidance } from './projected_guidance.ts';
import { SoundCheckpoint } from './sound_checkpoint.ts';

/** Songs are brought to this peak, −1 dB of full scale. */
const PEAK = 10 ** (-1 / 20);
const LEAST_PEAK = 1e-6;

class Texts implements MusicConditioning {
  constructor(
    readonly words: Told,
    /** What guidance leads away from; null = there is none. */
    readonly nothing: Told | null,
    /** What a cover is led to by the share that does not follow the sound; null = all of it does. */
    readonly alone: Told | null,
    readonly tokens: MusicConditioning['tokens'],
    readonly texts: MusicConditioning['texts'],
    readonly lyrics: MusicConditioning['lyrics'],
  ) {}

  dispose(): void {
    for (const told of [this.words, this.nothing, this.alone]) {
      told?.states.dispose();
    }
  }
}

export class AceStepModel extends SoundCheckpoint<AceStepNetworks> implements LoadedMusicModel {
  get tasks(): readonly MusicTask[] {
    return MUSIC_TASKS.filter((task) => task !== 'cover' || this.networks.covers);
  }

  async encodeSound(
    sound: Sound,
    { random, signal }: { random: NoiseSource; signal: AbortSignal },
  ): Promise<SoundLatents> {
    const { sounds } = this.networks;
    const planes = channelsOf(sound, this.form.channels);
    if (planes[0].length < sounds.hop) {
      throw new StudioError(
        'invalid_operation',
        `The given sound has only ${planes[0].length} samples at ${this.form.rate} per second, and "${this.summary.name}" needs at least ${sounds.hop}; choose a longer one.`,
      );
    }
    const moments = await sounds.encode(planes, { signal, onPart: () => undefined });
    const count = moments.length / 2;
    const noise = random.ofPosterior(count) ?? new Float32Array(count);
    const drawn = noise.map((value, i) => moments[i] + oobleck.deviation(moments[count + i]) * value);
    const length = count / sounds.channels;
    return { length, values: transposed(drawn, sounds.channels, length) };
  }

  encodeTimbre(sound: Sound, request: { random: NoiseSource; signal: AbortSignal }): Promise<SoundLatents> {
    const { rate } = sound;
    const [whole, third] = [TIMBRE_SECONDS * rate, (TIMBRE_SECONDS / 3) * rate];
    const channels = sound.channels.map((plane) => {
      const times = plane.length < whole ? Math.ceil(whole / plane.length) : 1;
      const total = times * plane.length;
      const starts = [0, Math.floor(total / 3), Math.max(total - third, 0)];
      const parts = new Float32Array(3 * third);
      starts.forEach((start, n) => {
        for (let i = 0; i < third; i++) {
          parts[n * third + i] = plane[(start + i) % plane.length];
        }
      });
      return parts;
    });
    return this.encodeSound({ rate, channels }, request);
  }

  async encodeText(request: MusicTextRequest): Promise<MusicConditioning> {
    const { networks } = this;
    const { task, cover_strength: share, guidance_scale: scale } = request;
    const length = Math.min(networks.silenceLength, Math.ceil(TIMBRE_SECONDS * networks.latentsPerSecond));
    const timbre = request.timbre ?? { length, values: await networks.silence(length) };
    const lyrics = networks.tokenizer.encode(lyricsText(request.lyrics, request.vocal_language), MOST_LYRICS);
    const text = (of: MusicTask) => promptText(request.prompt, of, request);
    const { told: words, tokens } = await networks.told(text(task), lyrics.ids, timbre);
    const nothing = scale > networks.leastGuidance ? await networks.nothing(words) : null;
    const alone =
      task === 'cover' && share < 1 ? (await networks.told(text('text2music'), lyrics.ids, timbre)).told : null;
    return new Texts(
      words,
      nothing,
      alone,
      { prompt: tokens, negative: 0, limit: MOST_WORDS },
      { prompt: text(task), negative: null },
      { tokens: lyrics.tokens, limit: MOST_LYRICS },
    );
  }

  async sample(conditioning: MusicConditioning, request: MusicSampleRequest): Promise<Latents> {
    const { engine, networks } = this;
    const { random, signal, batch_size: batch, cover_strength: share } = request;
    const { words, nothing, alone } = conditioning as Texts;
    const { audio_acoustic_hidden_dim: channels } = networks.config;
    const length = request.source?.length ?? Math.ceil(request.seconds * networks.latentsPerSecond);
    const levels = noiseLevels(request.steps, request.shift);
    const plan = { sampler: 'euler', schedule: 'shifted', steps: levels, historyLength: nothing ? 1 : 0 };
    this.used = {
      sampler: plan.sampler,
      schedule: plan.schedule,
      guidance_mode: nothing ? 'projected' : 'none',
    };
    this.beginHashing();
    const dims = [batch, channels, 1, length] as const;
    const count = channels * length;
    const state = readState(request.resume, plan, batch * count);
    const guidance = nothing && new ProjectedGuidance(request.guidance_scale, state?.done ? state.history : null);
    const context = await this.#context(request, length);
    // As the reference, which draws latents one after another in time.
    const noise = state ? null : random.ofStart([batch, length, channels, 1]);
    const x =
      state?.x.slice() ??
      songs(noise as Float32Array<ArrayBuffer>, batch, (song) => transposed(song, length, channels));
    if (state) {
      random.state = state.random;
    }
    const done = state?.done ?? 0;
    if (done === levels.length) {
      // Only the sound was missing: the transformer need not be brought to the device for it.
      return new DeviceLatents(engine.arithmetic.upload(x, dims), engine);
    }
    const denoiser = await networks.denoiser(
      [words, ...(nothing ? [nothing] : []), ...(alone ? [alone] : [])],
      context,
      length,
    );
    try {
      request.onStart(levels.length, done);
      let kept = -Infinity;
      for (let step = done; step < levels.length; step++) {
        if (signal.aborted) {
          throw cancelled();
        }
        const predictions: Float32Array<ArrayBuffer>[][] = [];
        for (let n = 0; n < batch; n++) {
          predictions.push(await denoiser.predict(x.slice(n * count, (n + 1) * count), levels[step]));
        }
        const all = (at: number) => joined(predictions.map((each) => each[at]));
        const led = guidance ? guidance.mix(all(0), all(1), length) : all(0);
        const plain = alone ? all(guidance ? 2 : 1) : null;
        const far = Math.fround((levels[step + 1] ?? 0) - levels[step]);
        led.forEach((value, i) => {
          const velocity = plain ? Math.fround(share * value) + Math.fround((1 - share) * plain[i]) : value;
          x[i] += Math.fround(far * Math.fround(velocity));
        });
        if (!x.every(Number.isFinite)) {
          throw new StudioError('result_invalid', NOT_FINITE_SOUND);
        }
        const now = performance.now();
        if (now - kept >= KEPT_EVERY || step + 1 === levels.length) {
          kept = now;
          const { sampler, schedule } = plan;
          const history = guidance?.average?.slice() ?? new Float32Array(0);
          request.keep({
            sampler,
            schedule,
            steps: levels.length,
            done: step + 1,
            x: x.slice(),
            history,
            random: random.state,
          });
        }
        await request.onStep({ step: step + 1, steps: levels.length, preview: null });
      }
      return new DeviceLatents(engine.arithmetic.upload(x, dims), engine);
    } finally {
      denoiser.dispose();
    }
  }

  async decode(
    latents: Latents,
    { signal, onPart }: { signal: AbortSignal; onPart: (done: number, parts: number) => void },
  ): Promise<Sound[]> {
    const { sounds } = this.networks;
    const [, , , length] = latents.dims;
    const made = await sounds.decodeAll(latents, [0, length * sounds.hop], { signal, onPart });
    return made.map((planes) => ({ rate: this.form.rate, channels: planes.map(atPeak(planes)) }));
  }

  async prepare({ guidance_scale, width }: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { networks } = this;
    const seconds = width / networks.latentsPerSecond;
    const about = {
      lyrics: '',
      vocal_language: 'en',
      task: 'text2music',
      cover_strength: 1,
      timbre: undefined,
    } as const;
    const text = (await this.encodeText({ ...about, prompt: '', seconds, guidance_scale })) as Texts;
    try {
      if (!signal.aborted) {
        const { in_channels, audio_acoustic_hidden_dim: own } = networks.config;
        const context = new Float32Array((in_channels - own) * width);
        (await networks.denoiser([text.words], context, width)).dispose();
      }
      if (!signal.aborted) {
        await networks.sounds.decoder(width);
      }
    } finally {
      text.dispose();
    }
  }

  /** What the transformer is told of each latent, [2 · channels, length]: the sound to start from, and 1 where it is made anew. */
  async #context(
    { task, source, repaint_start: start, repaint_end: end }: MusicSampleRequest,
    length: number,
  ): Promise<Float32Array<ArrayBuffer>> {
    const { networks } = this;
    const { audio_acoustic_hidden_dim: channels } = networks.config;
    const silence = await networks.silence(length);
    const given = source && task === 'cover' ? await networks.throughCodes(source) : source;
    const values = given?.values.slice() ?? silence;
    const anew = new Float32Array(length).fill(1);
    if (task === 'repaint') {
      const at = (seconds: number) => Math.trunc(seconds * networks.latentsPerSecond);
      const first = Math.min(at(start ?? 0), length - 1);
      const last = Math.max(first + 1, Math.min(end === undefined ? length : at(end), length));
      anew.fill(0, 0, first).fill(0, last);
      values.set(silence.subarray(first * channels, last * channels), first * channels);
    }
    const context = new Float32Array(2 * channels * length);
    context.set(transposed(values, length, channels));
    for (let channel = channels; channel < 2 * channels; channel++) {
      context.set(anew, channel * length);
    }
    return context;
  }
}

/** From 1, noise, to the last above 0, evenly spaced and then moved towards the noise; in single precision, as the reference's. */
export function noiseLevels(steps: number, shift: number): number[] {
  const f = Math.fround;
  const apart = f(-1 / steps);
  return Array.from({ length: steps }, (_, i) => {
    // torch.linspace counts from the nearer end.
    const level = i < (steps + 1) / 2 ? f(1 + apart * i) : f(-f(apart * (steps - i)));
    return shift === 1 ? level : f(f(shift * level) / f(1 + f(f(shift - 1) * level)));
  });
}

/** [rows, columns] as [columns, rows]. */
function transposed(values: Float32Array<ArrayBuffer>, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      turned[column * rows + row] = values[row * columns + column];
    }
  }
  return turned;
}

function songs(
  values: Float32Array<ArrayBuffer>,
  count: number,
  change: (song: Float32Array<ArrayBuffer>) => Float32Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  const size = values.length / count;
  return joined(Array.from({ length: count }, (_, n) => change(values.subarray(n * size, (n + 1) * size))));
}

function joined(parts: readonly Float32Array<ArrayBuffer>[]): Float32Array<ArrayBuffer> {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Brings a plane of a sound to the loudness at which the sound's peak is {@link PEAK}. */
function atPeak(planes: readonly Float32Array<ArrayBuffer>[]) {
  const peak = planes.reduce(
    (most, plane) => plane.reduce((greatest, value) => Math.max(greatest, Math.abs(value)), most),
    LEAST_PEAK,
  );
  return (plane: Float32Array<ArrayBuffer>) => plane.map((value) => value * (PEAK / peak));
}
