/**
 * How fast this device computes what diffusion networks mostly do: a convolution and a linear layer of the size of a Stable
 * Diffusion middle block, read-back included. Never at start-up: it is done once, when an estimate is asked for, and kept for
 * this adapter and this version of the runtime. The rates of pictures that were really made take its place.
 */
import { get, set, type UseStore } from 'idb-keyval';
import type { DeviceReport, Stage } from '../core/job.ts';
import type { StageSeconds } from '../core/job_progress.ts';
import type { Precision, WeightVariant } from '../core/model.ts';
import { LayerWriter } from '../graphs/layers.ts';
import type { WeightIndex } from '../graphs/graph.ts';
import { openStore } from '../storage/database.ts';
import type { Engine } from './engine.ts';

/** Floating point operations per second; a multiplication and an addition are two. */
export interface Rates {
  /** Seconds that the last pictures took per unit of the stages around the sampling; see {@link StageUnits}. */
  stages?: Partial<Record<keyof StageUnits, number>>;
  /** Of the self-measurement. */
  measured: Partial<Record<Precision, number>>;
  /** Of the sampling of the last pictures made here, by precision and variant. */
  pictures: Partial<Record<`${Precision} ${WeightVariant}`, number>>;
}

/** How much of each stage a job has. */
export interface StageUnits {
  /** Bytes of weights to bring to the device. */
  load: number;
  /** Texts. */
  encode: number;
  /** Pixels of all pictures. */
  decode: number;
  record: number;
}

/** Where rates are kept. A browser that refuses to keep them (private mode) only measures again. */
export interface RateStore {
  get(key: string): Promise<Rates | undefined>;
  set(key: string, rates: Rates): Promise<void>;
}

/** One layer on the device, ready to be computed. */
export interface Workload {
  /** Of one run. */
  flops: number;
  /** Begins a run; the device may still be at it when this resolves. */
  run(): Promise<void>;
  /** Waits for all runs begun and reads the last result. */
  read(): Promise<void>;
  release(): Promise<void>;
}

export type Layer = 'convolution' | 'linear';

/** Makes a workload of so many channels. */
export type OpenWorkload = (layer: Layer, channels: number, precision: Precision) => Promise<Workload>;

const LAYERS: readonly Layer[] = ['convolution', 'linear'];

/**
 * From small to the real size, so that a slow device is found out with little work, in steps so short that the wait for a read-back
 * is not taken for slowness.
 */
const CHANNELS = [160, 480, 1280] as const;

/** Seconds that one size may take before the next is not tried, and that the last one is repeated for. */
const PATIENCE = 0.06;

/** Side of the picture, and pictures at once: guidance runs two. */
const [SIDE, BATCH] = [8, 2];

/**
 * Effective rate of both layers one after the other, in operations per second.
 * @param clock in seconds
 */
export async function measureRate(precision: Precision, open: OpenWorkload, clock: () => number): Promise<number> {
  let [flops, seconds] = [0, 0];
  for (const layer of LAYERS) {
    // Each counts by its time per operation, so that one that ran longer does not weigh more.
    const rate = await layerRate(layer, precision, open, clock);
    flops += 1;
    seconds += 1 / rate;
  }
  return flops / seconds;
}

async function layerRate(layer: Layer, precision: Precision, open: OpenWorkload, clock: () => number): Promise<number> {
  let rate = 0;
  for (const [index, channels] of CHANNELS.entries()) {
    const workload = await open(layer, channels, precision);
    try {
      // The first run also compiles.
      await workload.run();
      await workload.read();
      const once = await timed(workload, 1, clock);
      rate = workload.flops / once;
      const next = CHANNELS[index + 1];
      if (next === undefined) {
        const runs = Math.min(16, Math.floor(PATIENCE / once));
        return runs > 1 ? (runs * workload.flops) / (await timed(workload, runs, clock)) : rate;
      }
      // Larger layers use a device better, so what they will take is at most this.
      if (once * (next / channels) ** 2 > 4 * PATIENCE) {
        return rate;
      }
    } finally {
      await workload.release();
    }
  }
  return rate;
}

async function timed(workload: Workload, runs: number, clock: () => number): Promise<number> {
  const began = clock();
  for (let run = 0; run < runs; run++) {
    await workload.run();
  }
  await workload.read();
  // A clock that is made coarse against fingerprinting may show no time at all.
  return Math.max(clock() - began, 1e-4);
}

/** What is known of this device's speed. */
export class Speedometer {
  #rates: Promise<Rates> | undefined;
  #measuring: Promise<void> | undefined;

  /**
   * @param key names the device and the runtime, see {@link deviceKey}
   * @param clock in seconds
   */
  constructor(
    readonly key: string,
    readonly store: RateStore,
    readonly clock: () => number = () => performance.now() / 1000,
  ) {}

  /** What is known by now, without measuring. */
  known(): Promise<Rates> {
    this.#rates ??= this.store
      .get(this.key)
      .catch(() => undefined)
      .then((kept) => kept ?? { measured: {}, pictures: {} });
    return this.#rates;
  }

  /** Measures the precisions that were never measured here; a second call while it does so waits for the first. */
  async measured(precisions: readonly Precision[], open: OpenWorkload): Promise<Rates> {
    const rates = await this.known();
    this.#measuring ??= this.#measure(rates, precisions, open).finally(() => {
      this.#measuring = undefined;
    });
    await this.#measuring;
    return rates;
  }

  /** Takes the rate of a picture that was made; it counts half, so that one slow moment does not mislead for long. */
  async observe(precision: Precision, variant: WeightVariant, flops: number, seconds: number): Promise<void> {
    if (!(flops > 0) || !(seconds > 0)) {
      return;
    }
    const rates = await this.known();
    const [name, rate] = [`${precision} ${variant}` as const, flops / seconds];
    const before = rates.pictures[name];
    rates.pictures[name] = before === undefined ? rate : (before + rate) / 2;
    await this.#keep(rates);
  }

  /** Takes how long the stages around the sampling of one job took; each counts half, as in {@link observe}. */
  async observeStages(units: StageUnits, seconds: Partial<Record<Stage, number>>): Promise<void> {
    const rates = await this.known();
    const stages = (rates.stages ??= {});
    for (const stage of Object.keys(units) as (keyof StageUnits)[]) {
      const rate = (seconds[stage] ?? 0) / units[stage];
      if (rate > 0 && Number.isFinite(rate)) {
        const before = stages[stage];
        stages[stage] = before === undefined ? rate : (before + rate) / 2;
      }
    }
    await this.#keep(rates);
  }

  async #measure(rates: Rates, precisions: readonly Precision[], open: OpenWorkload): Promise<void> {
    const missing = precisions.filter((precision) => rates.measured[precision] === undefined);
    for (const precision of missing) {
      rates.measured[precision] = await measureRate(precision, open, this.clock);
    }
    if (missing.length > 0) {
      await this.#keep(rates);
    }
  }

  async #keep(rates: Rates): Promise<void> {
    await this.store.set(this.key, rates).catch(() => undefined);
  }
}

/** The rate to expect: of pictures made with such weights, else of the self-measurement; null when nothing is known. */
export function rateOf(
  rates: Rates,
  precision: Precision,
  variant: WeightVariant,
): { perSecond: number; source: 'pictures' | 'self-measurement' } | null {
  const made = rates.pictures[`${precision} ${variant}`];
  if (made !== undefined) {
    return { perSecond: made, source: 'pictures' };
  }
  const measured = rates.measured[precision];
  return measured === undefined ? null : { perSecond: measured, source: 'self-measurement' };
}

/** Seconds to expect of each stage of a job; null where nothing like it was measured here. @param sample of all sampling steps */
export function expectedSeconds(rates: Rates, units: StageUnits, sample: number | null): StageSeconds {
  const of = (stage: keyof StageUnits): number | null => {
    const rate = rates.stages?.[stage];
    return rate === undefined ? null : rate * units[stage];
  };
  return { load: of('load'), encode: of('encode'), sample, decode: of('decode'), record: of('record') };
}

/** @param version of ONNX Runtime */
export function deviceKey({ backend, adapter, runtime }: DeviceReport, version: string): string {
  return [backend, adapter, runtime, version].join('/');
}

/** Rates in IndexedDB, in a database of their own. */
export class IndexedRates implements RateStore {
  readonly #store: UseStore;

  constructor() {
    this.#store = openStore('darkroom-device', 'rates');
  }

  get(key: string): Promise<Rates | undefined> {
    return get<Rates>(key, this.#store);
  }

  set(key: string, rates: Rates): Promise<void> {
    return set(key, rates, this.#store);
  }
}

/** The layers on the real engine. */
export function workloads(engine: Engine): OpenWorkload {
  return async (layer, channels, precision) => {
    const { arithmetic } = engine;
    const none: WeightIndex = { get: () => undefined, names: () => [] };
    const options = { provider: engine.provider, dtype: precision, batch: BATCH, height: SIDE, width: SIDE };
    const g = new LayerWriter('self-measurement', none, options);
    const dims = layer === 'convolution' ? [BATCH, channels, SIDE, SIDE] : [BATCH * SIDE * SIDE, channels];
    const x = g.floats('x', dims);
    const out =
      layer === 'convolution'
        ? g.node('layer', 'Conv', [x, g.fill(0.01, [channels, channels, 3, 3])], dims, {
            attributes: { kernel_shape: [3, 3], strides: [1, 1], pads: [1, 1, 1, 1] },
          })
        : // As wide as the feed-forward layer of a transformer block, its gate included.
          g.node('layer', 'Gemm', [x, g.fill(0.01, [8 * channels, channels])], [dims[0], 8 * channels], {
            attributes: { transB: 1 },
          });
    g.output('out', out);
    const graph = g.graph();
    const network = await engine.createNetwork(graph, new Map());
    const input = arithmetic.empty(dims);
    const output = arithmetic.empty(out.dims);
    return {
      flops: graph.flops,
      run: () => engine.run(network, { x: input }, { out: output }),
      read: async () => {
        await arithmetic.read(output);
      },
      release: async () => {
        input.dispose();
        output.dispose();
        await network.release();
      },
    };
  };
}
