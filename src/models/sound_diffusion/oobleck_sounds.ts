/**
 * Waveforms to latents and back by an AutoencoderOobleck, piece by piece: at full length its layers would hold gigabytes. Pieces overlap by as
 * much as its layers see, so that together they are what the whole would be.
 */
import { StudioError, cancelled } from '../../core/errors.ts';
import { EMPTY_SOUND, NOT_FINITE_SOUND } from '../../engine/arithmetic.ts';
import type { Sound } from '../../core/media.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import * as oobleck from '../../graphs/autoencoder_oobleck.ts';
import type { Component } from '../../weights/checkpoint.ts';
import { withWeightNorm } from '../../weights/weight_norm.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';

/** Of the widest value between two layers: a buffer that every GPU takes. */
const PIECE_BYTES = 2 ** 27;

const F32 = { batch: 1, height: 1, dtype: 'f32' as const };

/** One channel after another, all of one length. */
type Planes = Float32Array<ArrayBuffer>[];

/** Where a piece lies, and what of it is taken; in latents. */
interface Piece {
  begin: number;
  /** Within the whole. */
  from: number;
  until: number;
}

export interface OnPiece {
  signal: AbortSignal;
  onPart: (done: number, parts: number) => void;
}

export class OobleckSounds {
  readonly config: oobleck.Config;
  readonly hop: number;
  /** The most latents of a piece, its overlaps included. */
  piece: number;
  readonly #component: Component;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    component: Component,
  ) {
    this.#component = withWeightNorm(component);
    this.config = oobleck.parseConfig(component.config);
    this.hop = oobleck.hopOf(this.config);
    const { decoder_channels, encoder_hidden_size } = this.config;
    const bytes = 4 * this.hop * Math.max(decoder_channels, encoder_hidden_size);
    this.piece = Math.max(Math.floor(PIECE_BYTES / bytes), 4 * oobleck.overlapOf(this.config));
  }

  get channels(): number {
    return this.config.decoder_input_channels;
  }

  /**
   * @param planes samples of the whole sound, at least as many as a latent stands for; what is left over at its end has no latent, but is seen
   * @returns means and then what `oobleck.deviation` makes deviations of, [2 · channels, length]
   */
  async encode(planes: Planes, { signal, onPart }: OnPiece): Promise<Float32Array<ArrayBuffer>> {
    const { hop } = this;
    const length = Math.floor(planes[0].length / hop);
    const piece = Math.min(length, this.piece);
    const width = piece * hop + (planes[0].length % hop);
    const network = await this.#encoder(width);
    const pieces = this.#pieces(0, length, length);
    const rows = 2 * this.channels;
    const moments = new Float32Array(rows * length);
    for (const [n, { begin, from, until }] of pieces.entries()) {
      const cut = planes.map((plane) => plane.subarray(begin * hop, begin * hop + width));
      const encoded = await this.#run(network, ['sample', 'latent_parameters'], cut, rows, piece, signal);
      for (let row = 0; row < rows; row++) {
        const own = encoded.subarray(row * piece + from - begin, row * piece + until - begin);
        moments.set(own, row * length + from);
      }
      onPart(n + 1, pieces.length);
    }
    return moments;
  }

  /**
   * @param latents [channels, length], of the whole sound
   * @param from the first sample that is wanted, and the first that no longer is
   */
  async decode(
    latents: Float32Array<ArrayBuffer>,
    from: number,
    until: number,
    { signal, onPart }: OnPiece,
  ): Promise<Planes> {
    const { hop, channels } = this;
    const length = latents.length / channels;
    const piece = Math.min(length, this.piece);
    const { audio_channels } = this.config;
    const network = await this.decoder(length);
    const pieces = this.#pieces(Math.floor(from / hop), Math.ceil(until / hop), length);
    const planes = Array.from({ length: audio_channels }, () => new Float32Array(until - from));
    for (const [n, { begin, from: first, until: last }] of pieces.entries()) {
      const cut = Array.from({ length: channels }, (_, row) =>
        latents.subarray(row * length + begin, row * length + begin + piece),
      );
      const decoded = await this.#run(network, ['latent_sample', 'sample'], cut, audio_channels, piece * hop, signal);
      const [start, end] = [Math.max(first * hop, from), Math.min(last * hop, until)];
      planes.forEach((plane, channel) => {
        const at = (channel * piece - begin) * hop;
        plane.set(decoded.subarray(at + start, at + end), start - from);
      });
      onPart(n + 1, pieces.length);
    }
    requireSound(planes);
    return planes;
  }

  /** @param length latents of the whole sound */
  decoder(length: number): Promise<Network> {
    const { config } = this;
    const width = Math.min(length, this.piece);
    return this.shelf.get('vae_decoder', { width }, (options) =>
      oobleck.buildDecoder(config, this.#component.weights, { ...options, ...F32, width }),
    );
  }

  #encoder(width: number): Promise<Network> {
    const { config } = this;
    return this.shelf.get('vae_encoder', { width }, (options) =>
      oobleck.buildEncoder(config, this.#component.weights, { ...options, ...F32, width }),
    );
  }

  /** @param length latents of each sound */
  planned(costs: GraphCosts, sounds: number, encodes: boolean, length: number): PlannedNetwork[] {
    const { config, hop } = this;
    const { weights } = this.#component;
    const piece = Math.min(length, this.piece);
    const runs = this.#pieces(0, length, length).length;
    const shape = { provider: this.engine.provider, batch: 1, height: 1, weights: 'full' as const };
    const about = { runsPerStep: 0, precision: 'f32' as const };
    const decoder = costs.network(
      { name: 'vae_decoder', runs: sounds * runs, ...about },
      weights,
      { ...shape, width: piece },
      (options) => oobleck.buildDecoder(config, weights, options),
    );
    const encoder = () =>
      costs.network({ name: 'vae_encoder', runs, ...about }, weights, { ...shape, width: piece * hop }, (options) =>
        oobleck.buildEncoder(config, weights, options),
      );
    return encodes ? [decoder, encoder()] : [decoder];
  }

  /** The pieces that together hold latents [from, until) of `length`. */
  #pieces(from: number, until: number, length: number): Piece[] {
    const piece = Math.min(length, this.piece);
    const overlap = piece === length ? 0 : oobleck.overlapOf(this.config);
    const own = piece - 2 * overlap;
    return Array.from({ length: Math.ceil((until - from) / own) }, (_, n) => {
      const first = from + n * own;
      const begin = Math.min(Math.max(first - overlap, 0), length - piece);
      return { begin, from: first, until: Math.min(first + own, until) };
    });
  }

  async #run(
    network: Network,
    [into, outOf]: readonly [string, string],
    rows: Planes,
    channels: number,
    width: number,
    signal: AbortSignal,
  ): Promise<Float32Array<ArrayBuffer>> {
    if (signal.aborted) {
      throw cancelled();
    }
    const { arithmetic } = this.engine;
    const [{ length }] = rows;
    const data = new Float32Array(rows.length * length);
    rows.forEach((row, n) => {
      data.set(row, n * length);
    });
    const input = arithmetic.upload(data, [1, rows.length, 1, length]);
    const output = arithmetic.empty([1, channels, 1, width]);
    try {
      await this.engine.run(network, { [into]: input }, { [outOf]: output });
      return await arithmetic.read(output);
    } finally {
      input.dispose();
      output.dispose();
    }
  }
}

/** One channel stands for two, and the mean of several for one, as the reference has it. */
export function channelsOf({ channels: planes }: Sound, count: number): Float32Array<ArrayBuffer>[] {
  if (count === 1 && planes.length > 1) {
    return [planes[0].map((_, i) => planes.reduce((sum, plane) => sum + plane[i], 0) / planes.length)];
  }
  return Array.from({ length: count }, (_, n) => planes[Math.min(n, planes.length - 1)]);
}

/** @throws StudioError `result_invalid` */
export function requireSound(planes: Planes): void {
  if (!planes.every((plane) => plane.every(Number.isFinite))) {
    throw new StudioError('result_invalid', NOT_FINITE_SOUND);
  }
  if (planes.every((plane) => plane.every((value) => value === 0))) {
    throw new StudioError('result_invalid', EMPTY_SOUND, { retry: 'same' });
  }
}
