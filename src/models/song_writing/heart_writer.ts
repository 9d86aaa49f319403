/**
 * HeartMuLa's networks on the device: a backbone that reads one position after another and keeps the keys and values of those before, and a decoder
 * that draws the codes of a frame. What is kept lies on the device from beginning to end; what is drawn is drawn on the processor.
 */
import type { WeightVariant } from '../../core/model.ts';
import { cancelled } from '../../core/errors.ts';
import type { DeviceTensor } from '../../engine/arithmetic.ts';
import type { Engine } from '../../engine/engine.ts';
import type { NetworkShelf } from '../../engine/network_shelf.ts';
import type { Network } from '../../engine/runtime.ts';
import * as mula from '../../graphs/heart_mula.ts';
import type { StoredTensor, WeightIndex } from '../../graphs/graph.ts';
import type { Component } from '../../weights/checkpoint.ts';
import type { CheckpointFiles } from '../../weights/checkpoint_files.ts';
import { readRows } from '../../weights/embedding_rows.ts';
import { Held } from '../flow_transformer/base_networks.ts';
import type { GraphCosts, PlannedNetwork } from '../latent_diffusion/estimate.ts';

/** Room for positions goes in such steps, so that songs of nearly one length share their sessions. */
const ROOM_STEP = 256;
/** Rows of the table of codes that stay in memory: they come again and again. */
const ROWS_KEPT = 2048;
/**
 * Operations that a device does while it reads a byte of weights: a single position waits for all of them, however little it computes. About what
 * laptops and graphics cards have, between 10 and 30.
 */
const OPERATIONS_PER_BYTE = 16;
/** What the estimate reckons the words to be. */
const USUAL_WORDS = 300;

/** A row for each of the batch: what is read with words, and what is read without. */
export interface Words {
  /** Of each position, [1 or 2, embed_dim]. */
  positions: Float32Array<ArrayBuffer>[];
  batch: number;
}

/** A song that is being written: positions are read in order. */
export interface Writing {
  /** Reads a position. */
  read(embedded: Float32Array<ArrayBuffer>): Promise<void>;
  /** The first code's chances after the last position, [batch, words]. */
  firstLogits(): Promise<Float32Array<ArrayBuffer>>;
  /** The chances of code `n` of the frame, from 1, after the code before was drawn. */
  nextLogits(n: number, drawn: number): Promise<Float32Array<ArrayBuffer>>;
  /** What the backbone reads of a whole frame. */
  frame(codes: ArrayLike<number>): Promise<Float32Array<ArrayBuffer>>;
  dispose(): void;
}

export class HeartWriter {
  readonly config: mula.Config;
  readonly #weights: WeightIndex;
  readonly #rows = new Map<number, Float32Array>();

  constructor(
    readonly engine: Engine,
    readonly shelf: NetworkShelf,
    readonly files: Pick<CheckpointFiles, 'blob'>,
    component: Component,
    readonly variant: WeightVariant,
  ) {
    this.config = mula.parseConfig(component.config);
    this.#weights = mula.withHeads(component.weights);
  }

  /** @param tags and @param lyrics as tokens, with their beginning and end */
  async words(tags: Int32Array, lyrics: Int32Array, isGuided: boolean): Promise<Words> {
    const { embed_dim: width } = this.config.backbone_flavor;
    const table = async (name: string, ids: ArrayLike<number>) =>
      readRows(this.files, this.#weights.get(name) as StoredTensor, ids);
    const nothing = await table(mula.NOTHING_TABLE, [0]);
    const bias = this.#weights.get(mula.NO_SOUND) as StoredTensor;
    const noSound = await readRows(this.files, { ...bias, shape: [1, width] }, [0]);
    const texts = await table(mula.TEXT_TABLE, [...tags, ...lyrics]);
    const positions = Array.from({ length: tags.length + 1 + lyrics.length }, (_, position) => {
      const at = position - (position > tags.length ? 1 : 0);
      const own = position === tags.length ? noSound : texts.subarray(at * width, (at + 1) * width);
      return isGuided ? both(own, nothing) : own.slice();
    });
    return { positions, batch: isGuided ? 2 : 1 };
  }

  /** @param length positions of the whole song, its words included */
  async begin(batch: number, length: number, signal: AbortSignal): Promise<Writing> {
    const { config, engine } = this;
    const { arithmetic } = engine;
    const { audio_num_codebooks: codes, audio_vocab_size: words, backbone_flavor: backbone } = config;
    const room = roomFor(length);
    const { provider } = engine;
    const shape = { provider, batch, ...COMMON, weights: this.variant };
    const get = (name: string, room: number, build: typeof mula.buildBackbone) =>
      this.shelf.get(name, { batch, room }, () => build(config, this.#weights, { ...shape, length: room }));
    const reads = await get('backbone', room, mula.buildBackbone);
    const draws = await get('decoder', codes, mula.buildDecoder);
    const heads: Network[] = [];
    for (let code = 1; code < codes; code++) {
      heads.push(
        await this.shelf.get(`head_${code}`, { batch }, () => mula.buildHead(config, this.#weights, code, shape)),
      );
    }
    const held = new Held();
    const whole = this.#stack(held, reads, 'backbone', batch, room);
    const inner = this.#stack(held, draws, 'decoder', batch, codes);
    const logits = held.hold(arithmetic.empty([batch, words]));
    const states = held.hold(arithmetic.empty([batch, backbone.embed_dim]));
    const seen = held.hold(arithmetic.empty([batch, config.decoder_flavor.embed_dim]));
    const embedded = held.hold(arithmetic.empty([batch, backbone.embed_dim]));
    let position = 0;
    const stop = () => {
      if (signal.aborted) {
        throw cancelled();
      }
    };
    return {
      read: async (row) => {
        stop();
        arithmetic.write(embedded, row);
        await whole(position++, embedded, { logits, hidden_states: states });
      },
      firstLogits: () => arithmetic.read(logits),
      nextLogits: async (code, drawn) => {
        stop();
        if (code === 1) {
          await inner(0, states, { hidden_states: seen });
        }
        const row = await this.#codeRow(code - 1, drawn);
        arithmetic.write(embedded, batch === 2 ? both(row, row) : row.slice());
        await inner(code, embedded, { hidden_states: seen });
        await engine.run(heads[code - 1], { hidden_states: seen }, { logits });
        return arithmetic.read(logits);
      },
      frame: async (values) => {
        const sum = new Float32Array(backbone.embed_dim);
        for (let code = 0; code < codes; code++) {
          const row = await this.#codeRow(code, values[code]);
          for (let i = 0; i < sum.length; i++) {
            sum[i] += row[i];
          }
        }
        return batch === 2 ? both(sum, sum) : sum;
      },
      dispose: () => {
        held.dispose();
      },
    };
  }

  /** @param positions of the whole song, its words included @param frames of it */
  planned(costs: GraphCosts, batch: number, frames: number): PlannedNetwork[] {
    const { config } = this;
    const { audio_num_codebooks: codes } = config;
    const shape = { provider: this.engine.provider, batch, ...COMMON };
    const once = { phase: 'sample' as const, precision: 'f32' as const };
    const weights = this.#weights;
    const room = roomFor(USUAL_WORDS + frames);
    const networks = [
      costs.network(
        { name: 'backbone', runs: USUAL_WORDS + frames, runsPerStep: 0, ...once },
        { ...shape, length: room },
        (options) => mula.buildBackbone(config, weights, options),
      ),
      costs.network(
        { name: 'decoder', runs: codes * frames, runsPerStep: 0, ...once },
        { ...shape, length: codes },
        (options) => mula.buildDecoder(config, weights, options),
      ),
      ...Array.from({ length: codes - 1 }, (_, n) =>
        costs.network({ name: `head_${n + 1}`, runs: frames, runsPerStep: 0, ...once }, shape, (options) =>
          mula.buildHead(config, weights, n + 1, options),
        ),
      ),
    ];
    return networks.map((network) => ({
      ...network,
      cost: (...how) => {
        const cost = network.cost(...how);
        return { ...cost, flops: Math.max(cost.flops ?? 0, OPERATIONS_PER_BYTE * cost.weightBytes) };
      },
    }));
  }

  /** Names of its networks on the shelf. */
  get names(): string[] {
    const heads = Array.from({ length: this.config.audio_num_codebooks - 1 }, (_, n) => `head_${n + 1}`);
    return ['backbone', 'decoder', ...heads];
  }

  /** Runs one position of a stack, whose kept keys and values are written where they lie. */
  #stack(held: Held, network: Network, stack: mula.Stack, batch: number, room: number) {
    const { engine, config } = this;
    const { arithmetic } = engine;
    const flavour = mula.flavourOf(config, stack);
    const dims = mula.cacheDims(flavour, { batch, length: room });
    const kept = mula.cacheNames(flavour).map((name) => [name, held.hold(arithmetic.empty(dims))] as const);
    const past = Object.fromEntries(kept.map(([name, tensor]) => [`past.${name}`, tensor]));
    const present = Object.fromEntries(kept.map(([name, tensor]) => [`present.${name}`, tensor]));
    const half = mula.headDim(flavour) / 2;
    const [cos, sin] = [0, 1].map(() => held.hold(arithmetic.empty([1, half])));
    return (position: number, embedded: DeviceTensor, outputs: Record<string, DeviceTensor>) => {
      const turns = mula.angles(flavour, position);
      arithmetic.write(cos, turns.cos);
      arithmetic.write(sin, turns.sin);
      const before = Array.from({ length: batch }, () => position);
      const inputs = {
        inputs_embeds: embedded,
        cos,
        sin,
        ...past,
        seqlens: engine.hostTensor('int32', before, [batch]),
        total: engine.hostTensor('int32', [position + 1], [1]),
      };
      return engine.run(network, inputs, { ...outputs, ...present });
    };
  }

  async #codeRow(code: number, value: number): Promise<Float32Array> {
    const row = code * this.config.audio_vocab_size + value;
    const known = this.#rows.get(row);
    if (known) {
      return known;
    }
    const read = await readRows(this.files, this.#weights.get(mula.AUDIO_TABLE) as StoredTensor, [row]);
    if (this.#rows.size >= ROWS_KEPT) {
      const [oldest] = this.#rows.keys();
      this.#rows.delete(oldest);
    }
    this.#rows.set(row, read);
    return read;
  }
}

const COMMON = { height: 1, width: 0, dtype: 'f32' as const };

function roomFor(length: number): number {
  return ROOM_STEP * Math.ceil(length / ROOM_STEP);
}

function both(first: Float32Array, second: Float32Array): Float32Array<ArrayBuffer> {
  const rows = new Float32Array(first.length + second.length);
  rows.set(first);
  rows.set(second, first.length);
  return rows;
}
