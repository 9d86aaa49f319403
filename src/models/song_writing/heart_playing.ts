/** A song that becomes sound, part by part, also while it is written: where two parts overlap one fades into the other. */
import { StudioError } from '../../core/errors.ts';
import { TorchGenerator } from '../../core/random.ts';
import type { Sound } from '../../core/media.ts';
import type { SongDecodeRequest, WrittenSong } from '../../core/song_model.ts';
import { CHANNELS } from '../../graphs/heart_codec.ts';
import { requireSound } from '../sound_diffusion/piecewise_sounds.ts';
import type { HeartSounds, Planes } from './heart_sounds.ts';
import { codesOf, framesOf, partLengths, partsOf, samplesOf, settledParts, type PartLengths } from './song_parts.ts';

export type PlayingRequest = Pick<SongDecodeRequest, 'seed' | 'steps' | 'signal' | 'onPart' | 'onSound'>;

export class HeartPlaying {
  /** Of the parts so far, [744, 256]. */
  readonly latents: Float32Array<ArrayBuffer>[] = [];
  readonly #random: TorchGenerator;
  readonly #lengths: PartLengths;
  #planes: Planes = Array.from({ length: CHANNELS }, () => new Float32Array(0));
  /** Steps of the flow and pieces of the decoder, which count alike. */
  #done = 0;
  #parts = 1;
  /** Samples that nothing changes any more, and how many of them were told. */
  #finished = 0;
  #told = 0;

  constructor(
    readonly sounds: HeartSounds,
    readonly request: PlayingRequest,
  ) {
    this.#random = new TorchGenerator(request.seed);
    this.#lengths = partLengths(sounds.rate);
  }

  /**
   * Makes the parts that nothing written later changes.
   * @param song as far as it is written
   */
  async advance(song: WrittenSong): Promise<void> {
    const settled = settledParts(framesOf(song));
    this.#parts = Math.max(this.#parts, settled);
    while (this.latents.length < settled) {
      await this.#make(song, null);
    }
  }

  /** @returns a plane for each channel of the whole song */
  async finish(song: WrittenSong): Promise<Planes> {
    const frames = framesOf(song);
    const total = samplesOf(frames, this.sounds.rate);
    this.#parts = partsOf(frames);
    while (this.latents.length < this.#parts) {
      await this.#make(song, total);
    }
    this.#finished = total;
    this.#grow(total);
    this.#tellSound();
    requireSound(this.#planes);
    return this.#planes;
  }

  /** @param total samples of the song; null while it is written */
  async #make(song: WrittenSong, total: number | null): Promise<void> {
    const { sounds, request } = this;
    const { part, hop, overlap } = this.#lengths;
    this.#requireCodes(song);
    const index = this.latents.length;
    const from = index * hop;
    const codes = codesOf(song, index);
    const made = await sounds.flow(codes, this.latents.at(-1) ?? null, this.#random, request, () => this.#tell());
    this.latents.push(made);
    const end = total ?? from + part;
    // What the next part fades into is not finished yet.
    const settled = total !== null && index + 1 === this.#parts ? total : from + hop;
    this.#grow(end);
    await sounds.waveform(made, Math.min(part, end - from), request.signal, (at, piece) => {
      this.#planes.forEach((plane, channel) => {
        lay(plane, piece[channel], from + at, index === 0 ? 0 : from + overlap, overlap);
      });
      this.#finished = Math.min(from + at + piece[0].length, settled);
      this.#tellSound();
      this.#tell();
    });
  }

  /** Makes room for the song's samples until `end`. */
  #grow(end: number): void {
    this.#planes = this.#planes.map((plane) => {
      if (plane.length >= end) {
        return plane;
      }
      const longer = new Float32Array(end);
      longer.set(plane);
      return longer;
    });
  }

  #tell(): void {
    const length = this.#finished;
    const all = this.#parts * (this.request.steps + this.sounds.piecesOfPart);
    this.request.onPart(Math.min(++this.#done, all), all, () => this.#sound(0, length));
  }

  #tellSound(): void {
    const from = this.#told;
    if (this.#finished > from) {
      this.#told = this.#finished;
      this.request.onSound?.(from, this.#sound(from, this.#finished));
    }
  }

  #sound(from: number, until: number): Sound {
    return { rate: this.sounds.rate, channels: this.#planes.map((plane) => plane.slice(from, until)) };
  }

  #requireCodes({ values }: WrittenSong): void {
    if (values.some((value) => value >= this.sounds.config.codebook_size)) {
      throw new StudioError(
        'result_invalid',
        'The model wrote a sign that is no sound, so this song cannot be played; choose another seed, or other words.',
      );
    }
  }
}

/** Puts a piece into the song; before `fade` it is mixed with what is there. */
function lay(plane: Float32Array, piece: Float32Array, at: number, fade: number, overlap: number): void {
  const begin = fade - overlap;
  for (let i = 0; i < piece.length; i++) {
    const place = at + i;
    if (place < fade) {
      const share = (place - begin) / (overlap - 1);
      plane[place] = plane[place] * (1 - share) + piece[i] * share;
    } else {
      plane[place] = piece[i];
    }
  }
}
