/** What a graph's nodes say of how the levels of a flow are shifted. */
import { isModelSampling, type ModelSamplingRequest } from '../../core/model_sampling.ts';
import { numberOf } from '../json.ts';
import type { Node } from './graph.ts';
import type { Routes } from './routes.ts';

/**
 * @param passed the nodes between the sampler and its checkpoint; that nearest to the sampler counts
 * @returns null where no node says it
 */
export function modelSamplingAmong(
  passed: readonly Node[],
  routes: Routes,
): { node: Node; request: ModelSamplingRequest } | null {
  const node = passed.find(({ type }) => isModelSampling(type));
  if (!node || !isModelSampling(node.type)) {
    return null;
  }
  const number = (name: string) => numberOf(routes.value(node, name));
  const ofFlux = {
    base_shift: number('base_shift'),
    max_shift: number('max_shift'),
    shift_width: number('width'),
    shift_height: number('height'),
  };
  const rest = node.type === 'ModelSamplingFlux' ? ofFlux : { shift: number('shift') };
  return { node, request: { model_sampling: node.type, ...rest } };
}
