/**
 * What a run will compute and hold, from configurations and headers alone: the graphs that it would run are built without weights,
 * and say their operations, their weights and what flows between their nodes.
 *
 * Memory that no graph says is measured: see {@link LAYOUT}. GPU memory itself cannot be asked in a browser, see {@link memoryBudget}.
 */
import type { DeviceReport } from '../../core/job.ts';
import { AUTOMATIC_TILE } from '../../core/model.ts';
import { usualStrength } from '../../core/parameters.ts';
import type {
  Estimate,
  EstimateRequest,
  MemoryBudget,
  MemoryEstimate,
  Misfit,
  Precision,
  VariantEstimate,
  WeightVariant,
} from '../../core/model.ts';
import { gibibytes } from '../../core/fit.ts';
import { rateOf, type Rates } from '../../engine/self_measurement.ts';
import type { Graph, WeightIndex } from '../../graphs/graph.ts';
import { quantisedBits } from '../../graphs/quantisation.ts';
import type { Circumstances } from '../family.ts';
import type { CommonNetworks, LatentSize } from './networks.ts';
import { layTiles } from './tiles.ts';

/**
 * Buffers that the runtime keeps per value that flows between nodes: its convolutions work on another layout, so most values are there
 * twice. Measured in Chromium on SwiftShader over tiny-sd15 and shapes at 64 to 256 pixels: 1.6 to 1.9.
 */
const LAYOUT = 1.8;

/** The wasm provider's memory ends here, whatever the machine has. */
const WASM_HEAP = 4 * 2 ** 30;

/** What is guessed where the browser says nothing of the machine. */
const USUAL_MEMORY = 4 * 2 ** 30;

const BYTES = { f32: 4, f16: 2 } as const;

/** What is asked of the networks for one run. */
export interface NetworkRequest extends LatentSize {
  /** Of each call of the denoiser, and such calls per step. */
  rows: number;
  calls: number;
  steps: number;
  /** Texts to encode. */
  texts: number;
  /** Runs of the decoder, and the latents that each of them decodes. */
  decodings: number;
  decoded: LatentSize;
  startsFromPicture: boolean;
}

export interface NetworkCost {
  /** Of one run; null for a network whose layers are not known. */
  flops: number | null;
  weightBytes: number;
  /** See {@link Graph.activationSizes}; null for a network whose layers are not known. */
  activationSizes: ReadonlyMap<number, number> | null;
  largestTensorBytes: number;
}

/** The parts of a run, in order. In each only its own networks are needed. */
export type Phase = 'read' | 'sample' | 'decode';

/** One network of a run. */
export interface PlannedNetwork {
  name: string;
  /** Absent for those of models that keep all networks on the device. */
  phase?: Phase;
  /** For the whole request. */
  runs: number;
  /** Of these, in each step; 0 for networks that run before and after. */
  runsPerStep: number;
  /** What it computes in, whatever the engine's precision; null = that. */
  precision: Precision | null;
  /** Whether its layers are known. */
  isOurs: boolean;
  cost(precision: Precision, weights: WeightVariant): NetworkCost;
}

/**
 * GPU memory to plan with.
 * @param set what the person says, in bytes; null = a guess
 * @param deviceMemory what the browser says of the machine's memory, in GiB, where it does (rounded, and capped by many)
 */
export function memoryBudget(device: DeviceReport, set: number | null, deviceMemory: number | undefined): MemoryBudget {
  if (set !== null) {
    return { bytes: device.backend === 'wasm' ? Math.min(set, WASM_HEAP) : set, source: 'set' };
  }
  if (device.backend === 'wasm') {
    return { bytes: Math.min(WASM_HEAP, (deviceMemory ?? 8) * 2 ** 29), source: 'guess' };
  }
  // Three quarters of the machine's memory, which many browsers call 8 GiB when it is more: about what integrated GPUs may use, and what
  // a separate one has beside such a machine. And at least what the adapter would take in one buffer.
  const part = deviceMemory === undefined ? USUAL_MEMORY : deviceMemory * 0.75 * 2 ** 30;
  return { bytes: Math.max(part, device.limits?.maxBufferSize ?? 0), source: 'guess' };
}

/** @param variants in which the checkpoint can be run */
export async function estimate(
  networks: CommonNetworks,
  variants: readonly WeightVariant[],
  request: EstimateRequest,
  { device, budget, rates, downloadBytes }: Circumstances,
): Promise<Estimate> {
  const asked = variants.filter((variant) => request.weights === undefined || variant === request.weights);
  const cannotRun = (estimates: VariantEstimate[]) =>
    estimates.every(({ runsHere, misfit }) => !runsHere || misfit?.guessed === false);
  const whole = await judge(networks, asked, request, { device, budget, rates });
  const inTiles = () => judge(networks, asked, { ...request, tile_size: AUTOMATIC_TILE }, { device, budget, rates });
  const tiled = request.tile_size === undefined && cannotRun(whole.estimates) ? await inTiles() : whole;
  const together = cannotRun(tiled.estimates) ? whole : tiled;
  const canBePhased = together.run.networks.every(({ phase }) => phase !== undefined);
  // Phases cost the time to load everything again for each picture, so they are for what would not run at all.
  const phased =
    request.phased === undefined && canBePhased && !fits(together.estimates)
      ? await judge(
          networks,
          asked,
          { ...request, tile_size: request.tile_size ?? AUTOMATIC_TILE, phased: true },
          { device, budget, rates },
        )
      : together;
  const { run, estimates, request: judged } = fits(phased.estimates) ? phased : together;
  const here = estimates.filter(({ runsHere }) => runsHere);
  const recommended = here.find(({ misfit }) => misfit === null) ?? null;
  const shown = recommended ?? here.at(0);
  return {
    request: judged,
    flops: flopsOf(run),
    variants: estimates,
    recommended: recommended?.variant ?? null,
    seconds: shown?.seconds ?? null,
    rate: shown?.rate ?? null,
    budget,
    downloadBytes,
    smaller: recommended ? null : await smallerSize(networks, asked, request, device, budget),
  };
}

function fits(estimates: readonly VariantEstimate[]): boolean {
  return estimates.some(({ runsHere, misfit }) => runsHere && misfit === null);
}

/** A request in each variant and precision. */
async function judge(
  networks: CommonNetworks,
  asked: readonly WeightVariant[],
  request: EstimateRequest,
  { device, budget, rates }: Pick<Circumstances, 'device' | 'budget' | 'rates'>,
): Promise<{ run: Run; estimates: VariantEstimate[]; request: EstimateRequest }> {
  const run = await plannedRun(networks, request);
  const kinds = asked.flatMap((variant): { variant: WeightVariant; precision: Precision }[] =>
    variant === 'full' && run.isOurs
      ? fullPrecisions(device).map((precision) => ({ variant, precision }))
      : [{ variant, precision: device.precision }],
  );
  const estimates = kinds.map(({ variant, precision }): VariantEstimate => {
    const runsHere = precision === device.precision;
    const memory = memoryOf(run, precision, variant);
    const largestTensor = largestOf(run, precision, variant);
    const misfit = misfitOf(memory, largestTensor, device, budget);
    return { variant, precision, memory, largestTensor, ...timeOf(run, precision, variant, rates), misfit, runsHere };
  });
  return { run, estimates, request };
}

interface Run {
  networks: PlannedNetwork[];
  loop: number;
  /** Whether the layers of all networks are known. */
  isOurs: boolean;
  /** Whether networks leave the device with their phase. */
  isPhased: boolean;
}

/** The networks that a request runs, each with what it costs. */
export async function plannedNetworks(networks: CommonNetworks, request: EstimateRequest): Promise<PlannedNetwork[]> {
  return (await plannedRun(networks, request)).networks;
}

/** As `LatentDiffusion` runs it. */
async function plannedRun(networks: CommonNetworks, request: EstimateRequest): Promise<Run> {
  const { channels, factor } = networks.latents;
  const { batch_size: batch, operation, guidance_mode: mode = 'auto' } = request;
  const [height, width] = [request.height / factor, request.width / factor];
  const guided = request.guidance_scale > (networks.leastGuidance ?? 1) && !(await networks.embedsGuidance());
  const batched =
    guided && (mode === 'auto' ? await networks.batchesGuidance(2 * batch, { height, width }) : mode === 'batched');
  const startsFromPicture = operation !== 'image_generation';
  const strength = startsFromPicture ? (request.strength ?? usualStrength(operation === 'image_inpaint')) : 1;
  const rows = batched ? 2 * batch : batch;
  const calls = guided && !batched ? 2 : 1;
  const tiles = request.tile_size === undefined ? null : layTiles({ height, width }, request.tile_size / factor);
  const planned = await networks.planned({
    height,
    width,
    rows,
    calls,
    steps: Math.max(1, Math.floor(request.steps * strength)),
    texts: guided ? 2 : 1,
    decodings: batch * (tiles?.length ?? 1),
    // The first is the largest.
    decoded: tiles?.[0] ?? { height, width },
    startsFromPicture,
  });
  // Latents, their noise, prediction, history and blend; embeddings are small beside the networks; the picture as floats and as bytes.
  const latents = 4 * batch * channels * height * width;
  const loop = latents * (12 + 2 * calls) + 16 * request.height * request.width;
  return {
    networks: planned,
    loop,
    isOurs: planned.every((network) => network.isOurs),
    isPhased: request.phased === true && planned.every(({ phase }) => phase !== undefined),
  };
}

/** f16 is shown where the device cannot compute it too, because a person may choose a device by it. */
function fullPrecisions(device: DeviceReport): Precision[] {
  return device.precision === 'f16' ? ['f16', 'f32'] : ['f32', 'f16'];
}

function memoryOf({ networks, loop, isPhased }: Run, precision: Precision, variant: WeightVariant): MemoryEstimate {
  const phases = isPhased ? new Set(networks.map(({ phase }) => phase)) : [null];
  return Array.from(phases, (phase) =>
    memoryTogether(
      networks.filter((network) => phase === null || network.phase === phase),
      loop,
      precision,
      variant,
    ),
  ).reduce((most, memory) => (memory.peak > most.peak ? memory : most));
}

/** Of networks that are on the device at the same time. */
function memoryTogether(
  networks: readonly PlannedNetwork[],
  loop: number,
  precision: Precision,
  variant: WeightVariant,
): MemoryEstimate {
  const costs = networks.map((network) => network.cost(network.precision ?? precision, variant));
  const weights = costs.reduce((sum, { weightBytes }) => sum + weightBytes, 0);
  const loading = Math.max(...costs.map(({ largestTensorBytes }) => largestTensorBytes));
  const activations = activationsOf(costs);
  // The last tensor is loaded before its network first computes.
  return { weights, loading, activations, loop, peak: weights + Math.max(loading, activations ?? 0) + loop };
}

/** Buffers are kept for values of the same size, in whichever network. */
function activationsOf(costs: NetworkCost[]): number | null {
  const kept = new Map<number, number>();
  for (const { activationSizes } of costs) {
    if (!activationSizes) {
      return null;
    }
    for (const [size, count] of activationSizes) {
      kept.set(size, Math.max(kept.get(size) ?? 0, count));
    }
  }
  return Math.round(LAYOUT * [...kept].reduce((sum, [size, count]) => sum + size * count, 0));
}

function largestOf({ networks }: Run, precision: Precision, variant: WeightVariant): number {
  return networks.reduce((largest, network) => {
    const { largestTensorBytes, activationSizes } = network.cost(network.precision ?? precision, variant);
    return Math.max(largest, largestTensorBytes, ...(activationSizes?.keys() ?? []));
  }, 0);
}

function misfitOf(
  { peak }: MemoryEstimate,
  largestTensor: number,
  { limits, backend }: DeviceReport,
  budget: MemoryBudget,
): Misfit | null {
  const limit = limits ? Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize) : Infinity;
  if (largestTensor > limit) {
    const message = `This needs a tensor of ${mebibytes(largestTensor)} MiB, but this GPU takes at most ${mebibytes(limit)} MiB in one buffer.`;
    return { code: 'does_not_fit', guessed: false, message };
  }
  if (backend === 'wasm' && peak > WASM_HEAP) {
    const message = `This needs about ${gibibytes(peak)} GiB, but the processor backend can use at most ${gibibytes(WASM_HEAP)} GiB.`;
    return { code: 'does_not_fit', guessed: false, message };
  }
  if (peak <= budget.bytes) {
    return null;
  }
  const message =
    budget.source === 'set'
      ? `This needs about ${gibibytes(peak)} GiB, but the memory set for the GPU is ${gibibytes(budget.bytes)} GiB.`
      : `This needs about ${gibibytes(peak)} GiB, but this device is guessed to have ${gibibytes(budget.bytes)} GiB for it.`;
  return { code: 'does_not_fit', guessed: budget.source === 'guess', message };
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}

/** Neither precision nor quantisation changes how many there are. */
function flopsOf({ networks, isOurs }: Run): Estimate['flops'] {
  const sum = (count: (network: PlannedNetwork) => number) =>
    networks.reduce((total, network) => total + count(network) * (network.cost('f32', 'full').flops ?? 0), 0);
  return isOurs ? { step: sum(({ runsPerStep }) => runsPerStep), total: sum(({ runs }) => runs) } : null;
}

function timeOf(
  { networks, isOurs }: Run,
  precision: Precision,
  variant: WeightVariant,
  rates: Rates,
): Pick<VariantEstimate, 'seconds' | 'rate'> {
  const rate = rateOf(rates, precision, variant);
  if (!isOurs || !rate) {
    return { seconds: null, rate: null };
  }
  const seconds = networks.reduce((sum, network) => {
    const own = network.precision && network.precision !== precision ? rateOf(rates, network.precision, 'full') : rate;
    return sum + (network.runs * (network.cost('f32', 'full').flops ?? 0)) / (own ?? rate).perSecond;
  }, 0);
  return { seconds, rate: rate.source };
}

/** The largest of a few smaller sizes of the same shape at which some variant fits. */
async function smallerSize(
  networks: CommonNetworks,
  variants: readonly WeightVariant[],
  request: EstimateRequest,
  device: DeviceReport,
  budget: MemoryBudget,
): Promise<Estimate['smaller']> {
  for (const part of [0.75, 0.5, 0.375, 0.25]) {
    const [width, height] = [request.width, request.height].map((side) => Math.floor((side * part) / 64) * 64);
    if (width < 64 || height < 64) {
      return null;
    }
    const run = await plannedRun(networks, { ...request, width, height });
    const fits = variants.some((variant) => {
      const memory = memoryOf(run, device.precision, variant);
      return misfitOf(memory, largestOf(run, device.precision, variant), device, budget) === null;
    });
    if (fits) {
      return { width, height };
    }
  }
  return null;
}

/** What graphs of our own cost, each built once for its shape and each way to compute it. */
export class GraphCosts {
  readonly #costs = new Map<string, NetworkCost>();

  /**
   * @param shape what of the options is settled already
   * @param build the network's graph with these options
   */
  network<Shape extends object>(
    about: Pick<PlannedNetwork, 'name' | 'phase' | 'runs' | 'runsPerStep' | 'precision'>,
    weights: WeightIndex,
    shape: Shape,
    build: (options: Shape & { dtype: Precision; weights: WeightVariant }) => Graph,
  ): PlannedNetwork {
    return {
      ...about,
      isOurs: true,
      cost: (precision, variant) => {
        const key = `${about.name} ${precision} ${variant} ${JSON.stringify(shape)}`;
        let cost = this.#costs.get(key);
        if (!cost) {
          const { flops, weightBytes, activationSizes } = build({ ...shape, dtype: precision, weights: variant });
          cost = {
            flops,
            weightBytes,
            activationSizes,
            largestTensorBytes: largestTensor(weights, precision, variant),
          };
          this.#costs.set(key, cost);
        }
        return cost;
      },
    };
  }
}

/** Bytes of a network's largest tensor on the device. */
function largestTensor(weights: WeightIndex, precision: Precision, variant: WeightVariant): number {
  let largest = 0;
  for (const name of weights.names()) {
    const tensor = weights.get(name);
    const elements = tensor?.shape.reduce((product, dim) => product * dim, 1) ?? 0;
    const bits = tensor?.quantised?.bits ?? quantisedBits(name, tensor?.shape ?? [], variant);
    largest = Math.max(largest, bits === null ? elements * BYTES[precision] : (elements * bits) / 8);
  }
  return largest;
}
