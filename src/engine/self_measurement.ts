/**
 * How fast this device computes the bulk of a diffusion network: a convolution and a linear layer as large as in Stable Diffusion's middle
 * block, including the read-back. Never measured at start-up but once, for the first estimate, and kept for this adapter and version of the
 * runtime. The rates of real pictures replace it.
 */
import { get, set, type UseStore } from 'idb-keyval';
import type { DeviceReport, Stage } from '../core/job.ts';
import type { StageSeconds } from '../core/job_progress.ts';
import type { Precision, WeightVariant } from '../core/model.ts';
import { LayerWriter } from '../graphs/layers.ts';
import type { WeightIndex } from '../graphs/graph.ts';
import { openStore } from '../storage/database.ts';
import type { Engine } from './engine.ts';

/** Floating-point operations per second; a multiply-add counts as two. */
export interface Rates {
  /** Recent seconds per unit of the stages around sampling; see {@link StageUnits}. */
  stages?: Partial<Record<keyof StageUnits, number>>;
  /** Rates from the benchmark. */
  measured: Partial<Record<Precision, number>>;
  /** Sampling rates of recent pictures, by precision and variant. */
  pictures: Partial<Record<`${Precision} ${WeightVariant}`, number>>;
}

/** How much of each stage a job has. */
export interface StageUnits {
  /** Bytes of weights to load. */
  load: number;
  /** Number of texts. */
  encode: number;
  /** Pixels in all pictures together. */
  decode: number;
  record: number;
}

/** Where rates are kept. If the browser refuses (private mode), they are merely measured again. */
export interface RateStore {
  get(key: string): Promise<Rates | undefined>;
  set(key: string, rates: Rates): Promise<void>;
}

/** One layer on the device, ready to be computed. */
export interface Workload {
  /** Of one run. */
  flops: number;
  /** Starts a run; the device may still be busy with it when this resolves. */
  run(): Promise<void>;
  /** Waits for all runs begun and reads the last result. */
  read(): Promise<void>;
  release(): Promise<void>;
}

export type Layer = 'convolution' | 'linear';

/** Makes a workload with the given number of channels. */
export type OpenWorkload = (layer: Layer, channels: number, precision: Precision) => Promise<Workload>;

const LAYERS: readonly Layer[] = ['convolution', 'linear'];

/**
 * From small to full size, so a slow device is detected with little work, in steps small enough that waiting for a read-back is not
 * mistaken for slowness.
 */
const CHANNELS = [160, 480, 1280] as const;

/** A size that takes longer than this many seconds is the last one tried; the last size is repeated for as long. */
const PATIENCE = 0.06;

/** Side of the picture, and pictures at once: guidance runs two. */
const [SIDE, BATCH] = [8, 2];

/**
 * The effective rate of both layers in turn, in operations per second.
 * @param clock in seconds
 */
export async function measureRate(precision: Precision, open: OpenWorkload, clock: () => number): Promise<number> {
  let [flops, seconds] = [0, 0];
  for (const layer of LAYERS) {
    // Each counts by its time per operation, so the one that ran longer does not weigh more.
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
      // Larger layers use a device better, so this is an upper bound on their time.
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
  // A clock coarsened against fingerprinting may show no time at all.
  return Math.max(clock() - began, 1e-4);
}

/** What is known about this device's speed. */
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

  /** What is known so far, without measuring. */
  known(): Promise<Rates> {
    this.#rates ??= this.store
      .get(this.key)
      .catch(() => undefined)
      .then((kept) => kept ?? { measured: {}, pictures: {} });
    return this.#rates;
  }

  /** Measures precisions not measured here before; a concurrent call waits for the first. */
  async measured(precisions: readonly Precision[], open: OpenWorkload): Promise<Rates> {
    const rates = await this.known();
    this.#measuring ??= this.#measure(rates, precisions, open).finally(() => {
      this.#measuring = undefined;
    });
    await this.#measuring;
    return rates;
  }

  /** Adds the rate of a finished picture. It counts half, so one slow moment does not mislead for long. */
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

  /** Adds the durations of one job's stages around sampling; each counts half, as in {@link observe}. */
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

/** The expected rate: from pictures made with such weights, else from the benchmark; null if nothing is known. */
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

/** Expected seconds of each stage of a job; null if nothing like it was measured here. @param sample seconds of all sampling steps */
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
        : // As wide as the gated feed-forward layer of a transformer block.
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
