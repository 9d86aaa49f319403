/** Nodes without weights: elementwise operations and changes of shape. */
import { assert } from '../core/errors.ts';
import type { FloatType } from './graph.ts';
import { MICROSOFT, OnnxWriter, float, size } from './onnx.ts';
import type { Value } from './onnx.ts';

const CAST_TO = { f32: 1, f16: 10 } as const;

export class ElementWriter extends OnnxWriter {
  /** Declares a float32 input and casts it to the graph's type. */
  floats(name: string, dims: readonly number[]): Value {
    return this.cast(`${name}/cast`, this.input(name, 'float32', dims), this.options.dtype);
  }

  cast(name: string, x: Value, type: FloatType): Value {
    return x.type === type ? x : this.node(name, 'Cast', [x], x.dims, { type, attributes: { to: CAST_TO[type] } });
  }

  /** Two values of which the second broadcasts to the first. */
  binary(name: string, op: 'Add' | 'Sub' | 'Mul' | 'Div', a: Value, b: Value): Value {
    return this.node(name, op, [a, b], a.dims, { type: a.type });
  }

  add(name: string, a: Value, b: Value): Value {
    return this.binary(name, 'Add', a, b);
  }

  /** x · scale + shift, in f32. */
  scaleShift(name: string, x: Value, scale: number, shift: number): Value {
    assert(x.type === 'f32', 'inline numbers are f32');
    const scaled = this.binary(`${name}/mul`, 'Mul', x, this.constant([scale], 'f32'));
    return shift === 0 ? scaled : this.binary(`${name}/add`, 'Add', scaled, this.constant([shift], 'f32'));
  }

  unary(
    name: string,
    op: 'Tanh' | 'Sigmoid' | 'Relu' | 'Gelu' | 'Sqrt' | 'Sin' | 'Exp' | 'Floor' | 'Reciprocal',
    x: Value,
  ): Value {
    return this.node(name, op, [x], x.dims, { type: x.type });
  }

  leakyRelu(name: string, x: Value, slope: number): Value {
    return this.node(name, 'LeakyRelu', [x], x.dims, { type: x.type, attributes: { alpha: float(slope) } });
  }

  silu(name: string, x: Value): Value {
    return this.quickGelu(name, x, 1);
  }

  /** x · sigmoid(alpha · x); 1.702 is CLIP's. */
  quickGelu(name: string, x: Value, alpha = 1.702): Value {
    return this.node(name, 'QuickGelu', [x], x.dims, {
      type: x.type,
      domain: MICROSOFT,
      attributes: { alpha: float(alpha) },
    });
  }

  /** GELU by its approximation with tanh, which torch calls `gelu-approximate` or `gelu_new`. */
  tanhGelu(name: string, x: Value): Value {
    return this.node(name, 'Gelu', [x], x.dims, { type: x.type, attributes: { approximate: 'tanh' } });
  }

  reshape(name: string, x: Value, dims: readonly number[]): Value {
    assert(size(x.dims) === size(dims), `${name}: [${x.dims.join()}] reshaped to [${dims.join()}]`);
    return this.node(name, 'Reshape', [x, this.constant(dims)], dims, { type: x.type });
  }

  transpose(name: string, x: Value, perm: readonly number[]): Value {
    const dims = perm.map((axis) => x.dims[axis]);
    return this.node(name, 'Transpose', [x], dims, { type: x.type, attributes: { perm } });
  }

  /** Splits along an axis into consecutive parts of these sizes. */
  split(name: string, x: Value, sizes: readonly number[], axis: number): Value[] {
    if (sizes.length === 1) {
      return [x];
    }
    const dims = (count: number) => x.dims.map((dim, index) => (index === axis ? count : dim));
    const outputs = sizes.map((count) => ({ dims: dims(count), type: x.type }));
    return this.nodes(name, 'Split', [x, this.constant(sizes)], outputs, { attributes: { axis } }) as Value[];
  }

  /** The first `count` of `x` along its first axis. */
  firstOf(name: string, x: Value, count: number): Value {
    const dims = [count, ...x.dims.slice(1)];
    const range = [this.constant([0]), this.constant([count]), this.constant([0])];
    return count === x.dims[0] ? x : this.node(name, 'Slice', [x, ...range], dims, { type: x.type });
  }

  /** Repeats axes of length 1. */
  expand(name: string, x: Value, dims: readonly number[]): Value {
    return size(x.dims) === size(dims)
      ? this.reshape(name, x, dims)
      : this.node(name, 'Expand', [x, this.constant(dims)], dims, { type: x.type });
  }

  concat(name: string, values: readonly Value[], axis: number): Value {
    const [first] = values;
    assert(first, 'there is something to join');
    const total = values.reduce((sum, value) => sum + value.dims[axis], 0);
    const dims = first.dims.map((dim, index) => (index === axis ? total : dim));
    return this.node(name, 'Concat', values, dims, { type: first.type, attributes: { axis } });
  }

  /** Nearest neighbour, as `torch.nn.functional.interpolate`. */
  resize(name: string, x: Value, height: number, width: number): Value {
    const [n, c, h, w] = picture(x);
    if (this.options.provider === 'webgpu' && height % h === 0 && width % w === 0) {
      // ONNX Runtime's Resize needs channels first, its convolutions channels last; repeating pixels works with both.
      const pixels = this.transpose(`${name}/pixels`, x, [0, 2, 3, 1]);
      const each = this.reshape(`${name}/each`, pixels, [n, h, 1, w, 1, c]);
      const dims = [n, h, height / h, w, width / w, c];
      const repeated = this.node(`${name}/repeat`, 'Expand', [each, this.constant(dims)], dims, { type: x.type });
      return this.transpose(name, this.reshape(`${name}/rows`, repeated, [n, height, width, c]), [0, 3, 1, 2]);
    }
    const target = [x, null, null, this.constant([n, c, height, width])];
    return this.node(name, 'Resize', target, [n, c, height, width], {
      type: x.type,
      attributes: {
        mode: 'nearest',
        coordinate_transformation_mode: 'asymmetric',
        nearest_mode: 'floor',
      },
    });
  }

  /** torch.nn.PixelUnshuffle: `factor`×`factor` pixels become as many channels. */
  pixelUnshuffle(name: string, x: Value, factor: number): Value {
    if (factor === 1) {
      return x;
    }
    const [n, c, h, w] = picture(x);
    const [height, width] = [h / factor, w / factor];
    const each = this.reshape(`${name}/each`, x, [n, c, height, factor, width, factor]);
    return this.reshape(name, this.transpose(`${name}/channels`, each, [0, 1, 3, 5, 2, 4]), [
      n,
      c * factor * factor,
      height,
      width,
    ]);
  }

  /** torch.nn.PixelShuffle: the inverse of {@link pixelUnshuffle}. */
  pixelShuffle(name: string, x: Value, factor: number): Value {
    if (factor === 1) {
      return x;
    }
    const [n, c, h, w] = picture(x);
    return this.node(name, 'DepthToSpace', [x], [n, c / factor / factor, h * factor, w * factor], {
      type: x.type,
      attributes: { blocksize: factor, mode: 'CRD' },
    });
  }
}

/** The dimensions of a picture. */
export function picture(x: Value): [number, number, number, number] {
  assert(x.dims.length === 4, `${x.name} is a picture`);
  return x.dims as [number, number, number, number];
}
