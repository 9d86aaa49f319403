/** Weights that are stored as a direction and a length for each row (torch.nn.utils.weight_norm): `x.weight_v` and `x.weight_g`, seen as `x.weight`. */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor, WeightIndex } from '../graphs/graph.ts';
import type { Component } from './checkpoint.ts';
import { TensorIndex } from './checkpoint.ts';

const [DIRECTION, LENGTH] = ['weight_v', 'weight_g'];

/** @throws StudioError `checkpoint_damaged` for a direction without its lengths */
export function withWeightNorm(component: Component): Component {
  return { ...component, weights: normalisedIndex(component.weights, component.name) };
}

function normalisedIndex(weights: WeightIndex, component: string): WeightIndex {
  const tensors = new Map<string, StoredTensor>();
  for (const name of weights.names()) {
    const tensor = weights.get(name) as StoredTensor;
    const layer = name.slice(0, name.lastIndexOf('.') + 1);
    if (!name.endsWith(`.${DIRECTION}`)) {
      if (!name.endsWith(`.${LENGTH}`)) {
        tensors.set(name, tensor);
      }
      continue;
    }
    const gains = weights.get(layer + LENGTH);
    const [rows] = tensor.shape;
    if (!gains || gains.shape.reduce((product, dim) => product * dim, 1) !== rows) {
      throw new StudioError(
        'checkpoint_damaged',
        `"${layer + LENGTH}" of the ${component} is missing or has another length than "${name}"; download the checkpoint again.`,
      );
    }
    tensors.set(`${layer}weight`, { ...tensor, name: `${layer}weight`, gains });
  }
  return new TensorIndex(tensors);
}
