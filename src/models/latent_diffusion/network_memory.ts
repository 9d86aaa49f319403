/** What the networks of a run hold on the device: together, in phases, and in blocks. */
import type {
  MemoryEstimate,
  Phase,
  PhaseEstimate,
  Precision,
  VariantEstimate,
  WeightVariant,
} from '../../core/model.ts';
import { placeBlocks, type BlockPlacement } from '../../engine/block_placement.ts';
import type { Streaming } from '../family.ts';

/** The runtime's buffers per value between nodes: its convolutions use another layout, so most values exist twice. Measured in Chromium on SwiftShader over tiny-sd15 and shapes at 64 to 256 pixels: 1.6 to 1.9.
 */
const LAYOUT = 1.8;

export interface NetworkCost {
  /** Operations of one run; null if the network's layers are unknown. */
  flops: number | null;
  weightBytes: number;
  /** See {@link Graph.heldBytes}. */
  heldBytes: number;
  /** See {@link Graph.activationSizes}; null if the network's layers are unknown. */
  activationSizes: ReadonlyMap<number, number> | null;
  largestTensorBytes: number;
  /** Bytes of the weights of each of its blocks, in the order in which they run; absent where it cannot be cut into any. */
  blockBytes?: () => readonly number[];
}

/** One network of a run. */
export interface PlannedNetwork {
  name: string;
  /** Absent for models that keep all networks on the device. */
  phase?: Phase;
  /** For the whole request. */
  runs: number;
  /** How many of these are in each step; 0 for networks that run before or after. */
  runsPerStep: number;
  /** Its fixed precision; null = the engine's. */
  precision: Precision | null;
  /** Whether its layers are known. */
  isOurs: boolean;
  /** @param plain see {@link GraphOptions.plainConvolutions} */
  cost(precision: Precision, weights: WeightVariant, plain?: boolean): NetworkCost;
}

export interface Run {
  networks: PlannedNetwork[];
  loop: number;
  /** Whether the layers of all networks are known. */
  isOurs: boolean;
  /** Whether networks leave the device after their phase. */
  isPhased: boolean;
}

/** The peak of a run, and what its phases take. */
export function memoryOf(
  { networks, loop, isPhased }: Run,
  precision: Precision,
  variant: WeightVariant,
): Pick<VariantEstimate, 'memory' | 'phases'> {
  const phases = phasesOf(networks, isPhased).map(({ phase, together }) => ({
    phase,
    memory: memoryTogether(together, loop, precision, variant),
  }));
  return {
    memory: phases.map(({ memory }) => memory).reduce((most, memory) => (memory.peak > most.peak ? memory : most)),
    phases: phases.map(({ phase, memory }) => phaseEstimate(phase, memory)),
  };
}

/** The same with weights of convolutions as they are stored. */
export function plainly(run: Run): Run {
  const networks = run.networks.map((network): PlannedNetwork => ({
    ...network,
    cost: (precision, weights) => network.cost(precision, weights, true),
  }));
  return { ...run, networks };
}

/** The networks of each phase, or all where they stay together. */
function phasesOf(
  networks: readonly PlannedNetwork[],
  isPhased: boolean,
): { phase: Phase | null; together: readonly PlannedNetwork[] }[] {
  return isPhased
    ? Array.from(new Set(networks.map(({ phase }) => phase)), (phase) => ({
        phase: phase ?? null,
        together: networks.filter((network) => network.phase === phase),
      }))
    : [{ phase: null, together: networks }];
}

function phaseEstimate(
  phase: Phase | null,
  { weights, peak }: MemoryEstimate,
  { slotBytes: slots, streamedBytes: streamed } = { slotBytes: 0, streamedBytes: 0 },
): PhaseEstimate {
  return { phase, staying: weights - slots, slots, working: peak - weights, streamed };
}

/**
 * As {@link memoryOf}, with networks in blocks: in each phase that does not fit otherwise, one that can be cut. What goes from block to
 * block is among its activations. Null where some phase does not fit even so.
 */
export function memoryInBlocks(
  { networks, loop, isPhased }: Run,
  precision: Precision,
  variant: WeightVariant,
  budget: number,
  { perSecond }: NonNullable<Streaming>,
): Pick<Required<VariantEstimate>, 'memory' | 'phases' | 'blocks'> | null {
  const phases: PhaseEstimate[] = [];
  const blocks = {
    networks: {} as Record<string, number>,
    residentBytes: 0,
    streamedBytes: 0,
    secondsPerStep: 0,
    seconds: 0,
  };
  let most: MemoryEstimate | null = null;
  for (const { phase, together } of phasesOf(networks, isPhased)) {
    const whole = memoryTogether(together, loop, precision, variant);
    const cut = whole.peak <= budget ? null : cutOne(together, loop, precision, variant, budget);
    if (whole.peak > budget && !cut) {
      return null;
    }
    if (cut) {
      const { network, placement } = cut;
      const { residentBytes, streamedBytes, slotBytes } = placement;
      blocks.networks[network.name] = residentBytes + slotBytes;
      blocks.residentBytes += network.runsPerStep > 0 ? residentBytes : 0;
      blocks.streamedBytes += network.runsPerStep > 0 ? streamedBytes : 0;
      blocks.secondsPerStep += (network.runsPerStep * streamedBytes) / perSecond;
      blocks.seconds += (network.runs * streamedBytes) / perSecond;
    }
    const memory = cut?.memory ?? whole;
    phases.push(phaseEstimate(phase, memory, cut?.placement));
    most = most && most.peak > memory.peak ? most : memory;
  }
  return most && { memory: most, phases, blocks };
}

/** Of these networks, the one in blocks with which they fit together, and which then waits least for its weights. */
function cutOne(
  networks: readonly PlannedNetwork[],
  loop: number,
  precision: Precision,
  variant: WeightVariant,
  budget: number,
): { network: PlannedNetwork; placement: BlockPlacement; memory: MemoryEstimate } | null {
  const fitting = networks.flatMap((network) => {
    const sizes = network.cost(network.precision ?? precision, variant).blockBytes?.();
    const without: PlannedNetwork = {
      ...network,
      cost: (...how) => ({ ...network.cost(...how), heldBytes: 0, largestTensorBytes: 0 }),
    };
    const others = networks.map((one) => (one === network ? without : one));
    const rest = memoryTogether(others, loop, precision, variant);
    const placement = sizes && placeBlocks(sizes, budget - rest.peak);
    if (!placement) {
      return [];
    }
    const bytes = placement.residentBytes + placement.slotBytes;
    return [{ network, placement, memory: { ...rest, weights: rest.weights + bytes, peak: rest.peak + bytes } }];
  });
  const [least = null] = fitting.sort(
    (a, b) => a.network.runs * a.placement.streamedBytes - b.network.runs * b.placement.streamedBytes,
  );
  return least;
}

/** Memory of networks that are on the device together. */
function memoryTogether(
  networks: readonly PlannedNetwork[],
  loop: number,
  precision: Precision,
  variant: WeightVariant,
): MemoryEstimate {
  const costs = networks.map((network) => network.cost(network.precision ?? precision, variant));
  const weights = costs.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
  const loading = Math.max(...costs.map(({ largestTensorBytes }) => largestTensorBytes));
  const activations = activationsOf(costs);
  // The last tensor is loaded before its network computes for the first time.
  return { weights, loading, activations, loop, peak: weights + Math.max(loading, activations ?? 0) + loop };
}

/** Buffers are reused for values of the same size, across networks. */
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
