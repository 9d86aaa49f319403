/** Weights that are stored as a direction and a length for each row (torch.nn.utils.weight_norm): `x.weight_v` and `x.weight_g`, seen as `x.weight`. */
import { StudioError } from '../core/errors.ts';
import type { StoredTensor, WeightIndex } from '../graphs/graph.ts';
import type { Component } from './checkpoint.ts';
import { TensorIndex } from './checkpoint.ts';

/** Of direction and length; newer ones as torch.nn.utils.parametrizations names them. */
const SPELLINGS = [
  ['weight_v', 'weight_g'],
  ['parametrizations.weight.original1', 'parametrizations.weight.original0'],
] as const;

/** @throws StudioError `checkpoint_damaged` for a direction without its lengths */
export function withWeightNorm(component: Component): Component {
  return { ...component, weights: normalisedIndex(component.weights, component.name) };
}

function normalisedIndex(weights: WeightIndex, component: string): WeightIndex {
  const tensors = new Map<string, StoredTensor>();
  for (const name of weights.names()) {
    const tensor = weights.get(name) as StoredTensor;
    const spelling = SPELLINGS.find((endings) => endings.some((ending) => name.endsWith(`.${ending}`)));
    if (!spelling) {
      tensors.set(name, tensor);
      continue;
    }
    const [direction, length] = spelling;
    if (!name.endsWith(`.${direction}`)) {
      continue;
    }
    const layer = name.slice(0, -direction.length);
    const gains = weights.get(layer + length);
    const [rows] = tensor.shape;
    if (!gains || gains.shape.reduce((product, dim) => product * dim, 1) !== rows) {
      throw new StudioError(
        'checkpoint_damaged',
        `"${layer + length}" of the ${component} is missing or has another length than "${name}"; download the checkpoint again.`,
      );
    }
    tensors.set(`${layer}weight`, { ...tensor, name: `${layer}weight`, gains });
  }
  return new TensorIndex(tensors);
}
