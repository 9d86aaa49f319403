/**
 * What a run will compute and hold, from configurations and headers alone: its graphs are built without weights, and report their
 * operations, weights and intermediate values.
 *
 * Memory beyond the graphs was measured: see {@link LAYOUT}. Browsers do not reveal GPU memory, see {@link memoryBudget}.
 */
import type { DeviceReport } from '../../core/job.ts';
import { AUTOMATIC_TILE } from '../../core/model.ts';
import { hasMask, usualStrength } from '../../core/parameters.ts';
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
import { gibibytes } from '../../core/gibibytes.ts';
import { rateOf, type Rates } from '../../engine/self_measurement.ts';
import type { Graph } from '../../graphs/graph.ts';
import type { Circumstances, Streaming } from '../family.ts';
import type { CommonNetworks, LatentSize } from './networks.ts';
import {
  memoryInBlocks,
  memoryOf,
  plainly,
  type NetworkCost,
  type PlannedNetwork,
  type Run,
} from './network_memory.ts';
import { layTiles } from './tiles.ts';

export type { NetworkCost, PlannedNetwork } from './network_memory.ts';

/** The wasm provider's limit, whatever the machine has. */
const WASM_HEAP = 4 * 2 ** 30;

/** The guess if the browser says nothing about the machine. */
const USUAL_MEMORY = 4 * 2 ** 30;

/** What one run needs from the networks. */
export interface NetworkRequest extends LatentSize {
  /** Rows per call of the denoiser, and calls per step. */
  rows: number;
  calls: number;
  steps: number;
  /** Texts to encode. */
  texts: number;
  /** Runs of the encoder, where it starts from a picture, and of the decoder, and the latents of each. */
  encodings: number;
  decodings: number;
  decoded: LatentSize;
  startsFromPicture: boolean;
  /** How many ControlNets lead it. */
  controlnets: number;
  /** How many pictures each IP-Adapter sees. */
  imagePrompts: readonly number[];
}

/**
 * GPU memory to plan with.
 * @param set bytes set by the person; null = a guess
 * @param deviceMemory the machine's memory in GiB, if the browser reveals it (rounded, and capped by many)
 */
export function memoryBudget(device: DeviceReport, set: number | null, deviceMemory: number | undefined): MemoryBudget {
  if (set !== null) {
    return { bytes: Math.min(set, heapOf(device)), source: 'set' };
  }
  if (device.backend === 'wasm') {
    return { bytes: Math.min(WASM_HEAP, (deviceMemory ?? 8) * 2 ** 29), source: 'guess' };
  }
  // Three quarters of the machine's memory (which many browsers cap at 8 GiB): about what integrated GPUs may use, and what a discrete //
  // one has in such a machine. And at least the adapter's largest buffer.
  const part = deviceMemory === undefined ? USUAL_MEMORY : deviceMemory * 0.75 * 2 ** 30;
  return { bytes: Math.max(part, device.limits?.maxBufferSize ?? 0), source: 'guess' };
}

function heapOf({ backend, runtime }: DeviceReport): number {
  return backend === 'wasm' && runtime !== 'node' ? WASM_HEAP : Infinity;
}

/** What an estimate needs from a checkpoint's networks. */
export type EstimatedNetworks = Pick<
  CommonNetworks,
  'latents' | 'leastGuidance' | 'embedsGuidance' | 'batchesGuidance' | 'planned'
>;

/**
 * @param variants the checkpoint can run in
 * @param streaming for networks that can be cut into blocks, which they are where nothing fits as a whole
 */
export async function estimate(
  networks: EstimatedNetworks,
  variants: readonly WeightVariant[],
  request: EstimateRequest,
  { device, budget, rates, downloadBytes }: Circumstances,
  streaming: Streaming = null,
): Promise<Estimate> {
  const asked = variants.filter((variant) => request.weights === undefined || variant === request.weights);
  const cannotRun = (estimates: VariantEstimate[]) =>
    estimates.every(({ runsHere, misfit }) => !runsHere || misfit?.guessed === false);
  const plain = await judge(networks, asked, request, { device, budget, rates });
  const inTiles = () => judge(networks, asked, { ...request, tile_size: AUTOMATIC_TILE }, { device, budget, rates });
  const tiled = request.tile_size === undefined && cannotRun(plain.estimates) ? await inTiles() : plain;
  const together = cannotRun(tiled.estimates) ? plain : tiled;
  const canBePhased = together.run.networks.every(({ phase }) => phase !== undefined);
  // Phases reload everything for each picture, so they are only for what would not run otherwise.
  const phased =
    request.phased === undefined && canBePhased && !fits(together.estimates)
      ? await judge(
          networks,
          asked,
          { ...request, tile_size: request.tile_size ?? AUTOMATIC_TILE, phased: true },
          { device, budget, rates },
        )
      : together;
  const whole = fits(phased.estimates) ? phased : together;
  const cut = streaming && !fits(whole.estimates) ? inBlocks(phased, { device, budget }, streaming) : null;
  const { run, estimates, request: judged } = cut ?? whole;
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

interface Judged {
  run: Run;
  estimates: VariantEstimate[];
  request: EstimateRequest;
}

/** The same with networks in blocks, in the one variant that waits least for its weights; null where not even that fits. */
function inBlocks(
  judged: Judged,
  { device, budget }: Pick<Circumstances, 'device' | 'budget'>,
  streaming: NonNullable<Streaming>,
): Judged | null {
  const cut = judged.estimates.map((one): VariantEstimate => {
    const found = one.runsHere ? memoryInBlocks(judged.run, one.precision, one.variant, budget.bytes, streaming) : null;
    return found && misfitOf(found.memory, one.largestTensor, device, budget) === null
      ? { ...one, ...found, misfit: null }
      : one;
  });
  const least = Math.min(...cut.map(({ blocks }) => blocks?.seconds ?? Infinity));
  const chosen = cut.findIndex(({ blocks }) => blocks?.seconds === least);
  return chosen < 0 ? null : { ...judged, estimates: judged.estimates.map((one, i) => (i === chosen ? cut[i] : one)) };
}

/** A request in each variant and precision. */
async function judge(
  networks: EstimatedNetworks,
  asked: readonly WeightVariant[],
  request: EstimateRequest,
  { device, budget, rates }: Pick<Circumstances, 'device' | 'budget' | 'rates'>,
): Promise<Judged> {
  const run = await plannedRun(networks, request);
  const kinds = asked.flatMap((variant): { variant: WeightVariant; precision: Precision }[] =>
    variant === 'full' && run.isOurs
      ? fullPrecisions(device).map((precision) => ({ variant, precision }))
      : [{ variant, precision: device.precision }],
  );
  const estimates = kinds.map(({ variant, precision }): VariantEstimate => {
    const runsHere = precision === device.precision;
    const held = onDevice(run, precision, variant, device, budget);
    return { variant, precision, ...held, ...timeOf(run, precision, variant, rates), runsHere };
  });
  return { run, estimates, request };
}

/** What a run takes and whether that fits: on the processor with the weights that make convolutions quick, else with those as stored. */
function onDevice(
  run: Run,
  precision: Precision,
  variant: WeightVariant,
  device: DeviceReport,
  budget: MemoryBudget,
): Pick<VariantEstimate, 'memory' | 'phases' | 'largestTensor' | 'misfit' | 'plainConvolutions'> {
  const judged = (one: Run) => {
    const largestTensor = largestOf(one, precision, variant);
    const { memory, phases } = memoryOf(one, precision, variant);
    return { memory, phases, largestTensor, misfit: misfitOf(memory, largestTensor, device, budget) };
  };
  const quick = judged(run);
  const plain = device.backend === 'wasm' && quick.misfit ? judged(plainly(run)) : quick;
  const saves = plain.memory.peak < quick.memory.peak;
  return saves ? { ...plain, plainConvolutions: true } : quick;
}

/** The networks a request runs, with their costs. */
export async function plannedNetworks(
  networks: EstimatedNetworks,
  request: EstimateRequest,
): Promise<PlannedNetwork[]> {
  return (await plannedRun(networks, request)).networks;
}

/** As `LatentDiffusion` runs it. */
async function plannedRun(networks: EstimatedNetworks, request: EstimateRequest): Promise<Run> {
  const { channels, factor } = networks.latents;
  const { batch_size: batch, operation, guidance_mode: mode = 'auto' } = request;
  const [height, width] = [request.height / factor, request.width / factor];
  const guided = request.guidance_scale > (networks.leastGuidance ?? 1) && !(await networks.embedsGuidance());
  const batched =
    guided && (mode === 'auto' ? await networks.batchesGuidance(2 * batch, { height, width }) : mode === 'batched');
  const startsFromPicture = request.startsFromPicture ?? request.fromSound ?? !operation.endsWith('_generation');
  const usual = request.fromSound ? 1 : usualStrength(hasMask(operation));
  const strength = startsFromPicture ? (request.strength ?? usual) : 1;
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
    encodings: tiles?.length ?? 1,
    decodings: batch * (tiles?.length ?? 1),
    // The first is the largest.
    decoded: tiles?.[0] ?? { height, width },
    startsFromPicture,
    controlnets: request.controlnets ?? 0,
    imagePrompts: request.imagePrompts ?? [],
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

/** f16 is listed even if the device cannot compute it, because a person may choose a device by it. */
function fullPrecisions(device: DeviceReport): Precision[] {
  return device.precision === 'f16' ? ['f16', 'f32'] : ['f32', 'f16'];
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
  device: DeviceReport,
  budget: MemoryBudget,
): Misfit | null {
  const { limits } = device;
  const limit = limits ? Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize) : Infinity;
  if (largestTensor > limit) {
    const message = `This needs a tensor of ${mebibytes(largestTensor)} MiB, but this GPU takes at most ${mebibytes(limit)} MiB in one buffer.`;
    return { code: 'does_not_fit', guessed: false, message };
  }
  if (peak > heapOf(device)) {
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

/** Independent of precision and quantisation. */
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
    const { flops } = network.cost(network.precision ?? precision, variant);
    return sum + (network.runs * (flops ?? 0)) / (own ?? rate).perSecond;
  }, 0);
  return { seconds, rate: rate.source };
}

/** The largest of a few smaller sizes with the same aspect ratio at which some variant fits. */
async function smallerSize(
  networks: EstimatedNetworks,
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
    const fitting = variants.some(
      (variant) => onDevice(run, device.precision, variant, device, budget).misfit === null,
    );
    if (fitting) {
      return { width, height };
    }
  }
  return null;
}

/** The costs of our own graphs, each built once per shape and way to compute it. */
export class GraphCosts {
  readonly #costs = new Map<string, NetworkCost>();

  /**
   * @param shape the options already settled
   * @param build the network's graph with these options
   */
  network<Shape extends object>(
    about: Pick<PlannedNetwork, 'name' | 'phase' | 'runs' | 'runsPerStep' | 'precision'>,
    shape: Shape,
    build: (
      options: Shape & { dtype: Precision; weights: WeightVariant; plainConvolutions: boolean; isPlanned: true },
    ) => Graph,
  ): PlannedNetwork {
    return {
      ...about,
      isOurs: true,
      cost: (precision, variant, plainConvolutions = false) => {
        const key = `${about.name} ${precision} ${variant} ${plainConvolutions} ${JSON.stringify(shape)}`;
        let cost = this.#costs.get(key);
        if (!cost) {
          const { flops, weightBytes, heldBytes, largestBytes, activationSizes, blocks } = build({
            ...shape,
            dtype: precision,
            weights: variant,
            plainConvolutions,
            isPlanned: true,
          });
          cost = {
            flops,
            weightBytes,
            heldBytes,
            activationSizes,
            largestTensorBytes: largestBytes,
            ...(blocks && { blockBytes: once(() => blocks().blocks.map((block) => block.weightBytes)) }),
          };
          this.#costs.set(key, cost);
        }
        return cost;
      },
    };
  }
}

function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}
