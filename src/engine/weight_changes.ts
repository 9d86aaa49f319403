/** Determines which weights to rewrite when LoRAs come, go or change their strength. */
import type { BlockGraphs, BlockWeight, External } from '../graphs/graph.ts';

export interface WeightChanges {
  /** The network as it will be. */
  graphs: BlockGraphs;
  /** Of each block, the places of those of its weights that are others. */
  weights: readonly (readonly number[])[];
  /** Of all of them. */
  bytes: number;
}

/**
 * @returns null unless both are the same network with different weights; otherwise its sessions cannot be reused
 */
export function changesBetween(before: BlockGraphs, graphs: BlockGraphs): WeightChanges | null {
  if (!areSameModels(before, graphs)) {
    return null;
  }
  const [old, now] = [sourcesOf(before), sourcesOf(graphs)];
  const weights = graphs.blocks.map((block, index) =>
    block.weights.flatMap((weight, place) => (now(weight) === old(before.blocks[index].weights[place]) ? [] : [place])),
  );
  const bytes = graphs.blocks.flatMap((block, index) => weights[index].map((place) => block.weights[place].length));
  return { graphs, weights, bytes: bytes.reduce((sum, length) => sum + length, 0) };
}

function areSameModels(one: BlockGraphs, other: BlockGraphs): boolean {
  const shapeOf = ({ kinds, blocks }: BlockGraphs) =>
    JSON.stringify([
      kinds.map(({ externals }) => externals),
      blocks.map(({ kind, inputs, outputs, weights }) => [
        kind,
        inputs,
        outputs,
        weights.map(({ port, type, dims }) => [port, type, dims]),
      ]),
    ]);
  return (
    one.kinds.length === other.kinds.length &&
    one.kinds.every(({ bytes }, i) => {
      const others = other.kinds[i].bytes;
      return bytes.length === others.length && bytes.every((byte, at) => byte === others[at]);
    }) &&
    shapeOf(one) === shapeOf(other)
  );
}

/** Identifies a weight's source: equal strings mean equal bytes, since a file keeps its name as long as a network lives. */
function sourcesOf({ externals }: BlockGraphs): (weight: BlockWeight) => string {
  const places = new Map<string, External>(externals.map((external) => [external.location, external]));
  return ({ location, offset, length }) => {
    const external = places.get(location);
    return JSON.stringify([external?.kind === 'file' ? external.file : external, offset, length]);
  };
}
