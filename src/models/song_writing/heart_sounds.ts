/**
 * HeartCodec's networks on the device: a flow makes latents of the codes of half a minute, beginning with the last ones of the part before, and a
 * decoder makes samples of these piece by piece. `heart_playing.ts` makes a song of that.
 * Reference: `detokenize` of heartlib/heartcodec/modeling_heartcodec.py
 */
import { StudioError, cancelled } from '../../core/errors.ts';
import type { WeightVariant } from '../../core/model.ts';
import type { TorchGenerator } from '../../core/random.ts';
import type { SongDecodeRequest } from '../../core/song_model.ts';
import { NOT_FINITE_SOUND } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import * as codec from '../../graphs/heart_codec.ts';
import type { StoredTensor } from '../../graphs/graph.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import { withWeightNorm } from '../../weights/weight_norm.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';
import { KNOWN, LATENTS, PART, partsOf } from './song_parts.ts';

/** The reference's default. */
const GUIDANCE = 1.25;

/** Of the widest value between two layers of the decoder. */
const PIECE_BYTES = 2 ** 27;

const { CHANNELS } = codec;
const F32 = { height: 1, dtype: 'f32' as const };

export type Planes = Float32Array<ArrayBuffer>[];

export class HeartSounds {
  readonly config: codec.Config;
  /** The most latents of a piece, what it sees around it included. */
  piece: number;
  readonly #component: Component;

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: Pick<CheckpointFiles, 'blob'>,
    component: Component,
    readonly variant: WeightVariant,
  ) {
    this.#component = withWeightNorm(component);
    this.config = codec.parseConfig(component.config);
    const { init_channel, sample_rate } = this.config;
    const bytes = 4 * CHANNELS * init_channel * codec.hopOf(this.config);
    const { before, after } = codec.seenLatents(this.config);
    this.piece = Math.min(LATENTS, Math.max(Math.floor(PIECE_BYTES / bytes), 3 * (before + after)));
    this.rate = sample_rate;
  }

  readonly rate: number;

  /** Pieces that the decoder makes of a part. */
  get piecesOfPart(): number {
    return this.#pieces(LATENTS).length;
  }

  /**
   * The first samples of a part.
   * @param latents [length, 256]
   * @param onPiece with where a piece begins, in order
   */
  async waveform(
    latents: Float32Array<ArrayBuffer>,
    samples: number,
    signal: AbortSignal,
    onPiece: (at: number, planes: Planes) => void,
  ): Promise<void> {
    const { config, engine } = this;
    const { arithmetic } = engine;
    const hop = codec.hopOf(config);
    const length = latents.length / config.out_channels;
    const width = Math.min(length, this.piece);
    const network = await this.shelf.get('codec_decoder', { width }, ({ provider }) =>
      codec.buildDecoder(config, this.#component.weights, { ...F32, provider, batch: CHANNELS, width }),
    );
    const rows = config.latent_hidden_dim;
    const held = new Held();
    const input = held.hold(arithmetic.empty([CHANNELS, rows, 1, width]));
    const output = held.hold(arithmetic.empty([CHANNELS, 1, 1, width * hop]));
    try {
      for (const { begin, from, until } of this.#pieces(length)) {
        if (from * hop >= samples) {
          break;
        }
        if (signal.aborted) {
          throw cancelled();
        }
        arithmetic.write(input, turned(latents.subarray(begin * CHANNELS * rows), rows, width));
        await engine.run(network, { latents: input }, { sample: output });
        const made = await arithmetic.read(output);
        const count = Math.min(until * hop, samples) - from * hop;
        onPiece(
          from * hop,
          Array.from({ length: CHANNELS }, (_, channel) => {
            const at = (channel * width + from - begin) * hop;
            return made.slice(at, at + count);
          }),
        );
      }
    } finally {
      held.dispose();
    }
  }

  planned(costs: GraphCosts, frames: number, steps: number): PlannedNetwork[] {
    const { config } = this;
    const { weights } = this.#component;
    const { provider } = this.engine;
    const parts = partsOf(frames);
    const about = { runsPerStep: 0, phase: 'decode' as const, precision: 'f32' as const };
    const width = Math.min(LATENTS, this.piece);
    return [
      costs.network(
        { name: 'codec_codes', runs: parts, ...about },
        { ...this.#shape(provider), frames: PART },
        (options) => codec.buildCodes(config, weights, options),
      ),
      costs.network(
        { name: 'codec_flow', runs: parts * steps, ...about },
        { ...this.#shape(provider), batch: 2, length: LATENTS },
        (options) => codec.buildFlow(config, weights, options),
      ),
      costs.network(
        { name: 'codec_decoder', runs: Math.ceil((frames * 2) / width), ...about },
        { ...this.#shape(provider), batch: CHANNELS, width },
        (options) => codec.buildDecoder(config, weights, { ...options, weights: 'full' }),
      ),
    ];
  }

  get names(): string[] {
    return ['codec_codes', 'codec_flow', 'codec_decoder'];
  }

  #shape(provider: Engine['provider']) {
    return { ...F32, provider, batch: 1, width: 0 };
  }

  /** Pieces of one width that together are a part: each sees more of the past than of the future. */
  #pieces(length: number): { begin: number; from: number; until: number }[] {
    const width = Math.min(length, this.piece);
    const { before, after } = codec.seenLatents(this.config);
    const pieces: { begin: number; from: number; until: number }[] = [];
    for (let from = 0; from < length;) {
      const begin = Math.min(Math.max(from - before, 0), length - width);
      const until = begin + width === length ? length : begin + width - after;
      pieces.push({ begin, from, until });
      from = until;
    }
    return pieces;
  }

  /**
   * Latents of a part, [744, 256].
   * @param before those of the part before; null for the first
   * @param tell after each step
   */
  async flow(
    codes: Int32Array,
    before: Float32Array<ArrayBuffer> | null,
    random: TorchGenerator,
    { steps, signal }: Pick<SongDecodeRequest, 'steps' | 'signal'>,
    tell: () => void,
  ): Promise<Float32Array<ArrayBuffer>> {
    const { config, engine } = this;
    const { arithmetic } = engine;
    const { in_channels: wide, out_channels: width, dim } = config;
    const told = await this.#told(codes);
    const known = before ? KNOWN : 0;
    const given = before?.subarray((LATENTS - KNOWN) * width) ?? new Float32Array(0);
    // The reference draws what it fills up what is known with, and never looks at it.
    random.randn((LATENTS - known) * width);
    const noise = random.randn(LATENTS * width);
    const x = noise.slice();
    const network = await this.shelf.get('codec_flow', {}, ({ provider }) =>
      codec.buildFlow(config, this.#component.weights, {
        ...this.#shape(provider),
        batch: 2,
        length: LATENTS,
        weights: this.variant,
      }),
    );
    const held = new Held();
    const rows = new Float32Array(2 * LATENTS * wide);
    for (let row = 0; row < 2 * LATENTS; row++) {
      const at = row % LATENTS;
      if (at < known) {
        rows.set(given.subarray(at * width, (at + 1) * width), row * wide + width);
      }
      // Guidance leads away from being told nothing, which is zeros.
      if (row >= LATENTS) {
        rows.set(told.subarray((at >> 1) * dim, ((at >> 1) + 1) * dim), row * wide + 2 * width);
      }
    }
    const sample = held.hold(arithmetic.empty([2 * LATENTS, wide]));
    const time = held.hold(arithmetic.empty([1, codec.TIME_WIDTH]));
    const velocity = held.hold(arithmetic.empty([2 * LATENTS, width]));
    const turns = Object.fromEntries(
      Object.entries(codec.flowAngles(config, LATENTS)).flatMap(([prefix, tables]) =>
        (['cos', 'sin'] as const).map((name) => [
          prefix + name,
          held.hold(arithmetic.upload(tables[name], [LATENTS, tables[name].length / LATENTS])),
        ]),
      ),
    );
    const f = Math.fround;
    try {
      let now = 0;
      for (let step = 1; step <= steps; step++) {
        if (signal.aborted) {
          throw cancelled();
        }
        const far = f(level(step, steps) - now);
        const share = f(1 - f(f(1 - 1e-6) * now));
        for (let i = 0; i < known * width; i++) {
          x[i] = f(share * noise[i]) + f(now * given[i]);
        }
        for (let row = 0; row < 2 * LATENTS; row++) {
          const at = row % LATENTS;
          rows.set(x.subarray(at * width, (at + 1) * width), row * wide);
        }
        arithmetic.write(sample, rows);
        arithmetic.write(time, codec.timeProjection(now));
        await engine.run(network, { sample, time, ...turns }, { velocity });
        const both = await arithmetic.read(velocity);
        const led = both.subarray(LATENTS * width);
        for (let i = 0; i < x.length; i++) {
          x[i] += f(far * f(both[i] + f(GUIDANCE * f(led[i] - both[i]))));
        }
        if (!x.every(Number.isFinite)) {
          throw new StudioError('result_invalid', NOT_FINITE_SOUND);
        }
        now = f(now + far);
        tell();
      }
      x.set(given);
      return x;
    } finally {
      held.dispose();
    }
  }

  /** What the flow is told of each frame, [frames, dim]. */
  async #told(codes: Int32Array): Promise<Float32Array<ArrayBuffer>> {
    const { config, engine } = this;
    const { arithmetic } = engine;
    const { codebook_dim: width, num_quantizers: count, dim } = config;
    const sums = new Float32Array(PART * width);
    for (let quantiser = 0; quantiser < count; quantiser++) {
      const table = this.#component.weights.get(codec.codebook(quantiser)) as StoredTensor;
      const ids = Array.from({ length: PART }, (_, frame) => codes[frame * count + quantiser]);
      const rows = await readRows(this.files, table, ids);
      rows.forEach((value, i) => {
        sums[i] += value;
      });
    }
    const network = await this.shelf.get('codec_codes', {}, ({ provider }) =>
      codec.buildCodes(config, this.#component.weights, { ...this.#shape(provider), frames: PART }),
    );
    const held = new Held();
    const input = held.hold(arithmetic.upload(sums, [PART, width]));
    const told = held.hold(arithmetic.empty([PART, dim]));
    try {
      await engine.run(network, { codes: input }, { told });
      return await arithmetic.read(told);
    } finally {
      held.dispose();
    }
  }
}

/** torch.linspace(0, 1, steps + 1)[step], which counts from the nearer end. */
function level(step: number, steps: number): number {
  const apart = Math.fround(1 / steps);
  return step < (steps + 1) / 2 ? Math.fround(apart * step) : Math.fround(1 - Math.fround(apart * (steps - step)));
}

/** [length, channels · rows] as the decoder wants it: [channels, rows, length], on the quantiser's steps. */
function turned(latents: Float32Array, rows: number, length: number): Float32Array<ArrayBuffer> {
  const all = new Float32Array(CHANNELS * rows * length);
  for (let at = 0; at < length; at++) {
    for (let row = 0; row < CHANNELS * rows; row++) {
      all[row * length + at] = codec.quantised(latents[at * CHANNELS * rows + row]);
    }
  }
  return all;
}
