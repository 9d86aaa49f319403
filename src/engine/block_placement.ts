/** Which of a network's blocks stay on the device, which are streamed at each run because not all have room, and where their values lie. */
import type { BlockGraphs } from '../graphs/graph.ts';

/** Blocks whose weights may be on their way or in use at one time: one computes while the next one arrives. */
export const SLOTS = 2;

export interface BlockPlacement {
  /** Whether each block's weights stay on the device. */
  isResident: readonly boolean[];
  /** Bytes of those that stay, and of those that are streamed at each run. */
  residentBytes: number;
  streamedBytes: number;
  /** What streamed weights take on the device at most. */
  slotBytes: number;
}

/**
 * As many blocks stay as have room beside the slots; those are spread evenly, so that there is something to compute while a streamed one
 * arrives. What comes before and after the blocks proper stays first.
 * @param sizes bytes of each block's weights, in the order in which they run
 * @param budget bytes that weights may take on the device
 * @returns null where not even the slots have room
 */
export function placeBlocks(sizes: readonly number[], budget: number): BlockPlacement | null {
  const all = placementOf(sizes, () => true);
  if (all.residentBytes <= budget) {
    return all;
  }
  const inner = sizes.length - 2;
  for (let kept = inner; kept >= 0; kept--) {
    const placed = placementOf(
      sizes,
      (index) => isEnd(sizes, index) || Math.floor((index * kept) / inner) > Math.floor(((index - 1) * kept) / inner),
    );
    if (placed.residentBytes + placed.slotBytes <= budget) {
      return placed;
    }
  }
  const none = placementOf(sizes, () => false);
  return none.slotBytes <= budget ? none : null;
}

/** The least budget that {@link placeBlocks} finds room in. */
export function leastBytes(sizes: readonly number[]): number {
  const ends = placementOf(sizes, (index) => isEnd(sizes, index));
  const none = placementOf(sizes, () => false);
  return Math.min(ends.residentBytes + ends.slotBytes, none.slotBytes);
}

const isEnd = (sizes: readonly number[], index: number) => index === 0 || index === sizes.length - 1;

function placementOf(sizes: readonly number[], stays: (index: number) => boolean): BlockPlacement {
  const isResident = sizes.map((_, index) => stays(index));
  const sum = (which: boolean) => sizes.reduce((total, size, i) => total + (isResident[i] === which ? size : 0), 0);
  const streamed = sizes.filter((_, i) => !isResident[i]);
  return {
    isResident,
    residentBytes: sum(true),
    streamedBytes: sum(false),
    slotBytes: Math.min(SLOTS, streamed.length) * Math.max(0, ...streamed),
  };
}

export interface ValueLayout {
  /** Shapes of the tensors that hold values between blocks. */
  tensors: readonly (readonly number[])[];
  /** Index of each value's tensor. */
  places: ReadonlyMap<string, number>;
}

/** Gives each value between blocks a tensor that no other one needs at the same time. */
export function layOut({ blocks, values }: Pick<BlockGraphs, 'blocks' | 'values'>): ValueLayout {
  const lastReader = new Map<string, number>();
  blocks.forEach(({ inputs }, index) => {
    inputs.forEach(({ value }) => lastReader.set(value, index));
  });
  const tensors: (readonly number[])[] = [];
  const places = new Map<string, number>();
  const spare: number[] = [];
  blocks.forEach(({ inputs, outputs }, index) => {
    for (const { value } of outputs) {
      const dims = values.get(value);
      if (dims) {
        const at = spare.findIndex((tensor) => tensors[tensor].join() === dims.join());
        places.set(value, at < 0 ? tensors.push(dims) - 1 : spare.splice(at, 1)[0]);
      }
    }
    for (const { value } of inputs) {
      const tensor = places.get(value);
      if (tensor !== undefined && lastReader.get(value) === index) {
        spare.push(tensor);
      }
    }
  });
  return { tensors, places };
}
