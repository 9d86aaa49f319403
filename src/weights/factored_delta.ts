/**
 * Changes of a layer beyond a product of two matrices: LyCORIS' LoHa, LoKr, (IA)³, GLoRA, full differences, and Tucker-decomposed convolutions.
 * Each consists of tensors and a formula.
 *
 * Reference: lycoris/modules/{loha,lokr,ia3,glora,full,locon}.py of lycoris-lora 4.1
 */
import type { FactoredDelta, StoredTensor } from '../graphs/graph.ts';

/** A matrix of f32, row by row. */
interface Matrix {
  rows: number;
  columns: number;
  values: Float32Array;
}

type Values = (part: string) => Float32Array | undefined;

/** The rows and columns of the change, from its tensors; null if they do not match. */
export function deltaShape({ kind, parts }: FactoredDelta): { rows: number; columns: number } | null {
  // Numbers are not needed to know how many there would be.
  const made = matrixOf({ kind, parts, scale: 1 }, (name) => {
    const part = parts[name];
    return part && new Float32Array(size(part.shape));
  });
  return made && { rows: made.rows, columns: made.columns };
}

/**
 * Adds a change to a matrix's elements, starting at element `from`, which begins a row where the change is GLoRA's.
 * @param own the checkpoint's elements
 * @param values numbers of the delta's tensors, whole
 */
export function addFactored(
  into: Float32Array,
  own: Float32Array,
  from: number,
  columns: number,
  delta: FactoredDelta,
  values: Values,
): void {
  const { kind, scale } = delta;
  if (kind === 'scaled' || kind === 'scaled_columns') {
    const factors = values('weight') ?? new Float32Array(1);
    const onInput = kind === 'scaled_columns';
    // Of a convolution each input has as many elements as its kernel.
    const kernel = onInput ? columns / factors.length : 1;
    for (let i = 0; i < into.length; i++) {
      const at = from + i;
      into[i] += scale * own[i] * factors[onInput ? Math.floor((at % columns) / kernel) : Math.floor(at / columns)];
    }
    return;
  }
  if (kind === 'generalised') {
    addThroughInputs(into, own, columns, delta, values);
  }
  const change = matrixOf(delta, values);
  if (change) {
    for (let i = 0; i < into.length; i++) {
      into[i] += scale * change.values[from + i];
    }
  }
}

/** Adds scale · own @ a1 @ a2 to whole rows; each place of a convolution's kernel is a matrix of its own. */
function addThroughInputs(
  into: Float32Array,
  own: Float32Array,
  columns: number,
  { parts, scale }: FactoredDelta,
  values: Values,
): void {
  const [a1, a2] = [values('a1'), values('a2')];
  const [inputs = 1, rank = 1] = parts.a1?.shape ?? [];
  if (!a1 || !a2) {
    return;
  }
  const kernel = columns / inputs;
  const inner = new Float64Array(rank);
  for (let row = 0; row < own.length; row += columns) {
    for (let k = 0; k < kernel; k++) {
      inner.fill(0);
      for (let i = 0; i < inputs; i++) {
        const factor = own[row + i * kernel + k];
        for (let r = 0; r < rank; r++) {
          inner[r] += factor * a1[i * rank + r];
        }
      }
      for (let i = 0; i < inputs; i++) {
        let sum = 0;
        for (let r = 0; r < rank; r++) {
          sum += inner[r] * a2[r * inputs + i];
        }
        into[row + i * kernel + k] += scale * sum;
      }
    }
  }
}

function matrixOf({ kind, parts }: FactoredDelta, values: Values): Matrix | null {
  const matrix = (name: string): Matrix | null => {
    const [part, given] = [parts[name], values(name)];
    if (!part || !given) {
      return null;
    }
    const [rows = 1] = part.shape;
    return { rows, columns: given.length / rows, values: given };
  };
  switch (kind) {
    case 'whole':
      return matrix('diff');
    case 'scaled':
    case 'scaled_columns':
      return matrix('weight');
    case 'generalised':
      return product(matrix('b1'), matrix('b2'));
    case 'tucker': {
      const core = folded(parts.mid, values('mid'), matrix('down'));
      return product(matrix('up'), core);
    }
    case 'hadamard': {
      const factor = (n: 1 | 2) => {
        const core = parts[`hada_t${n}`];
        const [a, b] = [matrix(`hada_w${n}_a`), matrix(`hada_w${n}_b`)];
        return core ? product(transposed(a), folded(core, values(`hada_t${n}`), b)) : product(a, b);
      };
      const [one, two] = [factor(1), factor(2)];
      return one && two && one.values.length === two.values.length
        ? { ...one, values: one.values.map((value, i) => Math.fround(value * two.values[i])) }
        : null;
    }
    case 'kronecker': {
      const first = matrix('lokr_w1') ?? product(matrix('lokr_w1_a'), matrix('lokr_w1_b'));
      const [a, b] = [matrix('lokr_w2_a'), matrix('lokr_w2_b')];
      const core = parts.lokr_t2;
      const second =
        matrix('lokr_w2') ?? (core ? product(transposed(a), folded(core, values('lokr_t2'), b)) : product(a, b));
      return kronecker(first, second, kernelOf(parts));
    }
  }
}

/** Elements of a convolution's kernel, which stand behind each input. */
function kernelOf({ lokr_w2: whole, lokr_w2_b: right, lokr_t2: core }: FactoredDelta['parts']): number {
  const shape = (whole ?? core ?? right)?.shape ?? [];
  return size(shape.slice(2));
}

function product(a: Matrix | null, b: Matrix | null): Matrix | null {
  if (!a || !b || a.columns !== b.rows) {
    return null;
  }
  const values = new Float32Array(a.rows * b.columns);
  const sums = new Float64Array(b.columns);
  for (let row = 0; row < a.rows; row++) {
    sums.fill(0);
    for (let k = 0; k < a.columns; k++) {
      const factor = a.values[row * a.columns + k];
      for (let column = 0; column < b.columns; column++) {
        sums[column] += factor * b.values[k * b.columns + column];
      }
    }
    values.set(sums, row * b.columns);
  }
  return { rows: a.rows, columns: b.columns, values };
}

function transposed(matrix: Matrix | null): Matrix | null {
  if (!matrix) {
    return null;
  }
  const { rows, columns, values } = matrix;
  return {
    rows: columns,
    columns: rows,
    values: values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]),
  };
}

/** A core [i, j, kernel…] with a matrix [j, inputs]: [i, inputs · kernel]. */
function folded(core: StoredTensor | undefined, values: Float32Array | undefined, b: Matrix | null): Matrix | null {
  if (!core || !values || !b || core.shape[1] !== b.rows) {
    return null;
  }
  const [outer, inner] = core.shape;
  const kernel = size(core.shape.slice(2));
  const columns = b.columns * kernel;
  const out = new Float32Array(outer * columns);
  for (let i = 0; i < outer; i++) {
    for (let r = 0; r < b.columns; r++) {
      for (let k = 0; k < kernel; k++) {
        let sum = 0;
        for (let j = 0; j < inner; j++) {
          sum += values[(i * inner + j) * kernel + k] * b.values[j * b.columns + r];
        }
        out[i * columns + r * kernel + k] = sum;
      }
    }
  }
  return { rows: outer, columns, values: out };
}

/** Of matrices whose columns are inputs, each with its kernel in the second. */
function kronecker(a: Matrix | null, b: Matrix | null, kernel: number): Matrix | null {
  if (!a || !b) {
    return null;
  }
  const inputs = b.columns / kernel;
  const columns = a.columns * inputs * kernel;
  const values = new Float32Array(a.rows * b.rows * columns);
  for (let row = 0; row < a.rows * b.rows; row++) {
    const [i, p] = [Math.floor(row / b.rows), row % b.rows];
    for (let j = 0; j < a.columns; j++) {
      const factor = a.values[i * a.columns + j];
      for (let at = 0; at < b.columns; at++) {
        values[row * columns + j * b.columns + at] = factor * b.values[p * b.columns + at];
      }
    }
  }
  return { rows: a.rows * b.rows, columns, values };
}

function size(shape: readonly number[]): number {
  return shape.reduce((all, one) => all * one, 1);
}
