/**
 * Waveforms to latents and back, piece by piece: at full length an autoencoder's layers would hold gigabytes. Pieces overlap by as much as its layers
 * see, so that together they are what the whole would be.
 */
import { StudioError, cancelled } from '../../core/errors.ts';
import { EMPTY_SOUND, NOT_FINITE_SOUND } from '../../engine/arithmetic.ts';
import type { Sound } from '../../core/media.ts';
import type { Latents } from '../../core/model.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import type { Graph, GraphOptions, WeightIndex } from '../../graphs/graph.ts';
import { Held } from '../flow_transformer/base_networks.ts';
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

/** One kind of autoencoder. */
export interface SoundCodec {
  weights: WeightIndex;
  /** Samples per latent. */
  hop: number;
  /** Of a latent, and of what the encoder gives for each. */
  channels: number;
  encoded: number;
  audioChannels: number;
  /** Latents on each side that its layers see. */
  overlap: number;
  /** Of the widest value between two layers, for one latent. */
  bytes: number;
  /** Inputs beside the sound, or its latents. */
  tables?(latents: number): Record<string, { data: Float32Array<ArrayBuffer>; dims: readonly number[] }>;
  /** From `latent_sample` to `sample`, and from `sample` to the output that `encoderOutput` names. */
  buildDecoder(options: GraphOptions): Graph;
  buildEncoder(options: GraphOptions): Graph;
  encoderOutput: string;
}

export class PiecewiseSounds {
  /** The most latents of a piece, its overlaps included. */
  piece: number;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly codec: SoundCodec,
  ) {
    this.piece = Math.max(Math.floor(PIECE_BYTES / codec.bytes), 4 * codec.overlap);
  }

  get hop(): number {
    return this.codec.hop;
  }

  get channels(): number {
    return this.codec.channels;
  }

  /**
   * @param planes samples of the whole sound, at least as many as a latent stands for; what is left over at its end has no latent, but is seen
   * @returns what the encoder gives, [encoded, length]
   */
  async encode(planes: Planes, { signal, onPart }: OnPiece): Promise<Float32Array<ArrayBuffer>> {
    const { hop, codec } = this;
    const length = Math.floor(planes[0].length / hop);
    const piece = Math.min(length, this.piece);
    const width = piece * hop + (planes[0].length % hop);
    const network = await this.#encoder(width);
    const pieces = this.#pieces(0, length, length);
    const rows = codec.encoded;
    const moments = new Float32Array(rows * length);
    for (const [n, { begin, from, until }] of pieces.entries()) {
      const cut = planes.map((plane) => plane.subarray(begin * hop, begin * hop + width));
      const encoded = await this.#run(network, ['sample', codec.encoderOutput], cut, rows, piece, piece, signal);
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
    const { audioChannels } = this.codec;
    const network = await this.decoder(length);
    const pieces = this.#pieces(Math.floor(from / hop), Math.ceil(until / hop), length);
    const planes = Array.from({ length: audioChannels }, () => new Float32Array(until - from));
    for (const [n, { begin, from: first, until: last }] of pieces.entries()) {
      const cut = Array.from({ length: channels }, (_, row) =>
        latents.subarray(row * length + begin, row * length + begin + piece),
      );
      const decoded = await this.#run(
        network,
        ['latent_sample', 'sample'],
        cut,
        audioChannels,
        piece * hop,
        piece,
        signal,
      );
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

  /**
   * All sounds of a batch, each as its planes.
   * @param latents [batch, channels, 1, length]
   * @param span as of {@link decode}
   */
  async decodeAll(
    latents: Latents,
    [from, until]: readonly [number, number],
    { signal, onPart }: OnPiece,
  ): Promise<Planes[]> {
    const [batch, channels, , length] = latents.dims;
    const all = await latents.read();
    const count = channels * length;
    const made: Planes[] = [];
    for (let n = 0; n < batch; n++) {
      const planes = await this.decode(all.subarray(n * count, (n + 1) * count), from, until, {
        signal,
        onPart: (done, parts) => {
          onPart(n * parts + done, batch * parts);
        },
      });
      made.push(planes);
    }
    return made;
  }

  /** @param length latents of the whole sound */
  decoder(length: number): Promise<Network> {
    const width = Math.min(length, this.piece);
    return this.shelf.get('vae_decoder', { width }, (options) =>
      this.codec.buildDecoder({ ...options, ...F32, width }),
    );
  }

  #encoder(width: number): Promise<Network> {
    return this.shelf.get('vae_encoder', { width }, (options) =>
      this.codec.buildEncoder({ ...options, ...F32, width }),
    );
  }

  /** @param length latents of each sound */
  planned(costs: GraphCosts, sounds: number, encodes: boolean, length: number): PlannedNetwork[] {
    const { hop, codec } = this;
    const piece = Math.min(length, this.piece);
    const runs = this.#pieces(0, length, length).length;
    const shape = { provider: this.engine.provider, batch: 1, height: 1, weights: 'full' as const };
    const about = { runsPerStep: 0, precision: 'f32' as const };
    const decoder = costs.network(
      { name: 'vae_decoder', runs: sounds * runs, ...about },
      { ...shape, width: piece },
      (options) => codec.buildDecoder(options),
    );
    const encoder = () =>
      costs.network({ name: 'vae_encoder', runs, ...about }, { ...shape, width: piece * hop }, (options) =>
        codec.buildEncoder(options),
      );
    return encodes ? [decoder, encoder()] : [decoder];
  }

  /** The pieces that together hold latents [from, until) of `length`. */
  #pieces(from: number, until: number, length: number): Piece[] {
    const piece = Math.min(length, this.piece);
    const overlap = piece === length ? 0 : this.codec.overlap;
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
    latents: number,
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
    const held = new Held();
    try {
      const inputs = { [into]: held.hold(arithmetic.upload(data, [1, rows.length, 1, length])) };
      for (const [name, table] of Object.entries(this.codec.tables?.(latents) ?? {})) {
        inputs[name] = held.hold(arithmetic.upload(table.data, table.dims));
      }
      const output = held.hold(arithmetic.empty([1, channels, 1, width]));
      await this.engine.run(network, inputs, { [outOf]: output });
      return await arithmetic.read(output);
    } finally {
      held.dispose();
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
