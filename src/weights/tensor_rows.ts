/** A range of a tensor's rows, as a tensor of its own. */
import type { StoredTensor } from '../graphs/graph.ts';
import type { Rows } from './layer_parts.ts';
import { scaleCount } from './scaled_weights.ts';

/** @param rows whole rows of a tensor that no delta is added to */
export function rowsOf(tensor: StoredTensor, rows: Rows, name: string): StoredTensor {
  const { from, to, of } = rows;
  const { shape, offset, length, scale } = tensor;
  const share = (to - from) / of;
  return {
    ...tensor,
    name,
    shape: [shape[0] * share, ...shape.slice(1)],
    offset: offset + (length * from) / of,
    length: length * share,
    ...(scale && scaleCount(scale) > 1 && { scale: rowsOf(scale, rows, scale.name) }),
  };
}
