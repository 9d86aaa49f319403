/**
 * DoRA: a weight and its change keep their direction and get trained lengths, of rows (LyCORIS' `wd_on_out`, PEFT) or of what each input
 * is multiplied by (LyCORIS before, OneTrainer).
 *
 * Reference: _weight_decompose of lycoris/functional/general.py (lycoris-lora 4.1), DoraLinearVariant.merge_safe of
 * peft/tuners/lora/variants.py; https://arxiv.org/abs/2402.09353
 */
import type { Lengths } from '../graphs/graph.ts';

/** LyCORIS adds this to lengths, f32's epsilon. */
const EPSILON = 2 ** -23;

/** A matrix's elements that begin with element `from`: whole rows, or all of them where lengths are of inputs and not known yet. */
export interface Rows {
  values: Float32Array;
  from: number;
  columns: number;
}

/**
 * What elements of weight and change together are multiplied by.
 * @param changed them
 * @param lengths all of the tensor's numbers
 * @returns for each of these rows, or for each input
 */
export function lengthFactors({ values, from, columns }: Rows, { of, share }: Lengths, lengths: Float32Array) {
  const epsilon = share === undefined ? 0 : EPSILON;
  const group = groupOf(of, columns, lengths.length);
  const squares = new Float64Array(of === 'rows' ? values.length / columns : lengths.length);
  for (let i = 0; i < values.length; i++) {
    squares[group(i)] += values[i] * values[i];
  }
  const first = of === 'rows' ? from / columns : 0;
  return squares.map((sum, i) => lengths[first + i] / (Math.sqrt(sum) + epsilon));
}

/**
 * @param values elements with other changes, which get this one
 * @param own the checkpoint's elements, of as many
 * @param changed own elements with this change alone
 * @param factors of {@link lengthFactors}
 */
export function addDecomposed(
  { values, columns }: Rows,
  own: Float32Array,
  changed: Float32Array,
  { of, share }: Lengths,
  factors: Float64Array,
): void {
  const group = groupOf(of, columns, factors.length);
  for (let i = 0; i < values.length; i++) {
    const factor = factors[group(i)];
    values[i] =
      share === undefined
        ? factor * (values[i] + changed[i] - own[i])
        : values[i] + share * (factor * changed[i] - own[i]);
  }
}

/** The place of an element's length, of rows counted from the first one here. */
function groupOf(of: Lengths['of'], columns: number, inputs: number): (i: number) => number {
  const kernel = columns / inputs;
  return of === 'rows' ? (i) => Math.floor(i / columns) : (i) => Math.floor((i % columns) / kernel);
}
