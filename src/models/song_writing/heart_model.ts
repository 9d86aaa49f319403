/**
 * The services of HeartMuLa: lyrics and tags to a song in the model's own signs, and these to sound.
 * Reference: heartlib/pipelines/music_generation.py
 */
import * as v from 'valibot';
import { StudioError } from '../../core/errors.ts';
import type { CheckpointSummary, EstimateRequest, Precision } from '../../core/model.ts';
import { TorchGenerator } from '../../core/random.ts';
import type { SongDecodeRequest, SongPlaying, SongWriteRequest, WrittenSong } from '../../core/song_model.ts';
import type { SoundForm } from '../../core/sound_model.ts';
import type { Engine } from '../../engine/engine.ts';
import { KEPT_EVERY } from '../../engine/sampling_keeper.ts';
import { FRAMES_PER_SECOND } from '../../graphs/heart_codec.ts';
import { readState } from '../../samplers/state.ts';
import type { PlainTokenizer } from '../../text/plain_tokenizer.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import type { LoadedSongModel } from '../family.ts';
import { OpenedCheckpoint } from '../latent_diffusion/opened_checkpoint.ts';
import { drawCode, guided } from './code_sampling.ts';
import type { HeartNetworks } from './heart_networks.ts';
import { HeartPlaying } from './heart_playing.ts';

/** What stands in gen_config.json. */
export const signsSchema = v.object({
  text_bos_id: v.optional(v.number(), 128000),
  text_eos_id: v.optional(v.number(), 128001),
  /** Codes from here on end a song. */
  audio_eos_id: v.optional(v.number(), 8193),
  empty_id: v.optional(v.number(), 0),
});

export type Signs = v.InferOutput<typeof signsSchema>;

const [OPEN, CLOSE] = ['<tag>', '</tag>'];
/** Beside the first frame, which comes in any case: what the reference counts in. */
const FRAME_MILLISECONDS = 80;

/** In what is kept of a song, behind its last frame. */
const END = -1;
const NONE = new Float32Array(0);
const NO_SCHEDULER = { className: '', values: {} };

export class HeartModel extends OpenedCheckpoint<HeartNetworks> implements LoadedSongModel {
  readonly framesPerSecond = FRAMES_PER_SECOND;

  constructor(
    files: CheckpointFiles,
    engine: Engine,
    networks: HeartNetworks,
    readonly tokenizer: PlainTokenizer,
    readonly signs: Signs,
    summary: CheckpointSummary,
  ) {
    super(files, engine, networks, NO_SCHEDULER, summary);
  }

  get form(): SoundForm {
    return this.networks.form;
  }

  protected override get precision(): Precision {
    return 'f32';
  }

  async write(request: SongWriteRequest): Promise<WrittenSong> {
    const { writer } = this.networks;
    const { audio_num_codebooks: codes, audio_vocab_size: words } = writer.config;
    const { guidance_scale: scale, signal } = request;
    const most = 1 + Math.floor(Math.round(request.seconds * 1000) / FRAME_MILLISECONDS);
    const [tags, lyrics] = [this.#tokens(wrapped(request.tags)), this.#tokens(request.lyrics)];
    this.#requireRoom(tags.length + 1 + lyrics.length, most, request.seconds);
    this.used = { sampler: 'top_k', schedule: 'frames', guidance_mode: scale > 1 ? 'batched' : 'none' };
    this.beginHashing();
    await this.#begin(request, writer.names);
    const plan = { sampler: 'top_k', schedule: 'frames', steps: Array<null>(most).fill(null), historyLength: 0 };
    const random = new TorchGenerator(request.seed);
    const state = readState(request.resume, plan, most * codes);
    if (state && 'words' in state.random) {
      random.state = state.random;
    }
    // A song that was broken off is read again, which is all that is lost.
    const done = state?.done ?? 0;
    const values = new Int32Array(most * codes);
    values.set(Int32Array.from(state?.x ?? []));
    if (done === most) {
      return songOf(values, codes);
    }
    const { positions, batch } = await writer.words(tags, lyrics, scale > 1);
    const writing = await writer.begin(batch, positions.length + most, signal);
    try {
      for (const [n, position] of positions.entries()) {
        await writing.read(position);
        request.onRead(n + 1, positions.length);
      }
      let kept = -Infinity;
      const keep = (written: number) => {
        const now = performance.now();
        if (now - kept >= KEPT_EVERY || written === most) {
          kept = now;
          const { sampler, schedule } = plan;
          const x = Float32Array.from(values);
          request.keep({ sampler, schedule, steps: most, done: written, x, history: NONE, random: random.state });
        }
      };
      for (let frame = 0; frame < most; frame++) {
        const own = values.subarray(frame * codes, (frame + 1) * codes);
        if (frame >= done) {
          own[0] = drawCode(guided(await writing.firstLogits(), words, scale), request, random);
          for (let code = 1; code < codes; code++) {
            const logits = await writing.nextLogits(code, own[code - 1]);
            own[code] = drawCode(guided(logits, words, scale), request, random);
          }
          if (own.some((code) => code >= this.signs.audio_eos_id)) {
            this.#requireBegun(frame);
            values.fill(END, frame * codes);
            keep(most);
            return songOf(values, codes);
          }
          keep(frame + 1);
        }
        await request.onFrame(frame + 1, most, { codes, values: values.subarray(0, (frame + 1) * codes) });
        if (frame + 1 < most) {
          await writing.read(await writing.frame(own));
        }
      }
      return songOf(values, codes);
    } finally {
      writing.dispose();
    }
  }

  play(request: SongDecodeRequest): SongPlaying {
    const { sounds } = this.networks;
    const playing = new HeartPlaying(sounds, request);
    return {
      advance: async (song) => {
        // Where networks take turns, those that write would leave the device and come back for each part.
        if (!request.phased) {
          await playing.advance(song);
        }
      },
      finish: async (song) => {
        await this.#begin(request, sounds.names);
        return { rate: sounds.rate, channels: await playing.finish(song) };
      },
    };
  }

  /** The backbone is what takes long to load. */
  async prepare({ guidance_scale, width }: EstimateRequest, signal: AbortSignal): Promise<void> {
    const { writer } = this.networks;
    const words = await writer.words(this.#tokens(wrapped('')), this.#tokens(''), guidance_scale > 1);
    if (!signal.aborted) {
      const writing = await writer.begin(words.batch, words.positions.length + width, signal);
      writing.dispose();
    }
  }

  /** Between the model's signs for beginning and end. */
  #tokens(text: string): Int32Array {
    const { text_bos_id: begin, text_eos_id: end } = this.signs;
    const ids = Array.from(this.tokenizer.whole(text.toLowerCase()));
    return Int32Array.from([...(ids[0] === begin ? [] : [begin]), ...ids, ...(ids.at(-1) === end ? [] : [end])]);
  }

  /** Where networks take turns, those of the other phase leave the device. */
  async #begin({ phased }: { phased?: boolean | undefined }, own: readonly string[]): Promise<void> {
    const { shelf } = this.networks;
    for (const name of phased ? shelf.names.filter((one) => !own.includes(one)) : []) {
      await shelf.drop(name);
    }
  }

  /** @throws StudioError `invalid_operation` */
  #requireRoom(words: number, frames: number, seconds: number): void {
    const { positions } = this.networks;
    // The last frame is written and not read.
    if (words + frames - 1 > positions) {
      const left = Math.max(0, Math.floor((positions - words) / FRAMES_PER_SECOND));
      throw new StudioError(
        'invalid_operation',
        left > 0
          ? `"${this.summary.name}" has room for ${left} seconds beside these lyrics and tags, and this would be ${seconds}; choose fewer seconds, or shorter lyrics.`
          : `These lyrics and tags are ${words} tokens long, and "${this.summary.name}" remembers ${positions} in all; write shorter lyrics.`,
      );
    }
  }

  /** @throws StudioError `result_invalid` */
  #requireBegun(frame: number): void {
    if (frame === 0) {
      throw new StudioError(
        'result_invalid',
        'The model ended the song before it began; choose another seed, or other words.',
      );
    }
  }
}

function songOf(values: Int32Array<ArrayBuffer>, codes: number): WrittenSong {
  const end = values.indexOf(END);
  return { codes, values: end < 0 ? values : values.slice(0, end) };
}

/** Tags as the model was taught to read them. */
function wrapped(tags: string): string {
  const lower = tags.toLowerCase();
  return `${lower.startsWith(OPEN) ? '' : OPEN}${lower}${lower.endsWith(CLOSE) ? '' : CLOSE}`;
}
