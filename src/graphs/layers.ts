/**
 * The layers that all networks here are made of, each as the nodes that ONNX Runtime's WebGPU kernels run fastest.
 *
 * Pictures are [batch, channels, height, width]; tokens are kept as [batch·sequence, channels], the shape of a Gemm, and get
 * their batch axis back only for attention. Reshapes cost nothing at run time, transpositions and casts are kernel launches.
 */
import { assert } from '../core/errors.ts';
import type { FloatType } from './graph.ts';
import { MICROSOFT, OnnxWriter, float, size } from './onnx.ts';
import type { Value } from './onnx.ts';
import { BLOCK } from './quantisation.ts';

export interface ConvOptions {
  kernel?: number;
  stride?: number;
  /** One number for all sides, or [top, left, bottom, right]; by default the padding that keeps the size at stride 1. */
  padding?: number | readonly [number, number, number, number];
  /** `false` for none, a value of shape [out] instead of the stored `.bias`. */
  bias?: boolean | Value;
}

/**
 * The longest row that GroupNorm normalises with LayerNormalization, in elements. Its unit scale has to exist as a tensor
 * of that length (4 Mi elements: 16 MiB in f32); longer rows go through InstanceNormalization.
 */
const LONGEST_LAYER_NORM = 2 ** 22;

/**
 * The most bytes of attention scores at one time on the processor. ONNX Runtime's attention kernel holds them all there (1 GiB for
 * the autoencoder's middle at 1024×1024 pixels), and reckons their number in 32 bits, so that it fails on common sizes.
 */
const SCORE_BYTES = 2 ** 23;

const CAST_TO = { f32: 1, f16: 10 } as const;

/** See {@link LayerWriter.rotary}. */
export interface Angles {
  cos: Value;
  sin: Value;
}

export class LayerWriter extends OnnxWriter {
  /** A float32 input, in the graph's own type. */
  floats(name: string, dims: readonly number[]): Value {
    return this.cast(`${name}/cast`, this.input(name, 'float32', dims), this.options.dtype);
  }

  // Elementwise and layout

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

  unary(name: string, op: 'Tanh' | 'Relu' | 'Gelu' | 'Sqrt', x: Value): Value {
    return this.node(name, op, [x], x.dims, { type: x.type });
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

  reshape(name: string, x: Value, dims: readonly number[]): Value {
    assert(size(x.dims) === size(dims), `${name}: [${x.dims.join()}] reshaped to [${dims.join()}]`);
    return this.node(name, 'Reshape', [x, this.constant(dims)], dims, { type: x.type });
  }

  transpose(name: string, x: Value, perm: readonly number[]): Value {
    const dims = perm.map((axis) => x.dims[axis]);
    return this.node(name, 'Transpose', [x], dims, { type: x.type, attributes: { perm } });
  }

  /** Parts of these sizes along an axis, one after another. */
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
      // ONNX Runtime's Resize wants channels first, its convolutions channels last; repeating pixels works with either.
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

  /** Rows of an embedding table. */
  embedding(path: string, ids: Value, rows: number, width: number): Value {
    return this.node(path, 'Gather', [this.weight(`${path}.weight`, [rows, width]), ids], [...ids.dims, width]);
  }

  // Layers with weights

  /** torch.nn.Conv2d. */
  conv(path: string, x: Value, out: number, options: ConvOptions = {}): Value {
    const { kernel = 3, stride = 1, padding = (kernel - 1) / 2, bias = true } = options;
    const [n, c, h, w] = picture(x);
    const pads = typeof padding === 'number' ? [padding, padding, padding, padding] : padding;
    const [top, left, bottom, right] = pads as [number, number, number, number];
    const height = Math.floor((h + top + bottom - kernel) / stride) + 1;
    const width = Math.floor((w + left + right - kernel) / stride) + 1;
    const inputs = [x, this.weight(`${path}.weight`, [out, c, kernel, kernel])];
    if (bias !== false) {
      inputs.push(bias === true ? this.weight(`${path}.bias`, [out]) : bias);
    }
    return this.node(path, 'Conv', inputs, [n, out, height, width], {
      attributes: { kernel_shape: [kernel, kernel], strides: [stride, stride], pads },
    });
  }

  /**
   * torch.nn.Linear on [rows, in], on the weight as it is stored. Also a 1×1 convolution on tokens.
   * @param options.bias `false` for none, a value of shape [out] or [rows, out] instead of the stored `.bias`
   */
  linear(path: string, x: Value, out: number, options: { bias?: boolean | Value; type?: FloatType } = {}): Value {
    const [rows, width] = x.dims;
    const { type = this.options.dtype } = options;
    const bias =
      options.bias === true || options.bias === undefined ? this.weight(`${path}.bias`, [out], type) : options.bias;
    const blocks = this.quantised(`${path}.weight`, [out, width], type);
    if (!blocks) {
      const inputs = [x, this.weight(`${path}.weight`, [out, width], type), ...(bias ? [bias] : [])];
      return this.node(path, 'Gemm', inputs, [rows, out], { type, attributes: { transB: 1 } });
    }
    // Its own bias has to be a vector; a residual stream in place of the bias is added by a node of its own.
    const added = bias && bias.dims.length > 1 ? bias : null;
    const inputs = [x, blocks.data, blocks.scales, ...(bias && !added ? [null, null, bias] : [])];
    const product = this.node(added ? `${path}/product` : path, 'MatMulNBits', inputs, [rows, out], {
      type,
      domain: MICROSOFT,
      attributes: { K: width, N: out, bits: blocks.bits, block_size: BLOCK },
    });
    return added ? this.add(path, product, added) : product;
  }

  /** A picture's pixels as tokens: [batch, channels, height, width] to [batch·height·width, channels]. */
  tokens(name: string, x: Value): Value {
    const [n, c, h, w] = picture(x);
    return this.reshape(name, this.transpose(`${name}/transpose`, x, [0, 2, 3, 1]), [n * h * w, c]);
  }

  /** The way back from {@link tokens}, to a picture of the size of `like` (whose channels do not matter). */
  untokens(name: string, x: Value, like: Value): Value {
    const [n, , h, w] = picture(like);
    const pixels = this.reshape(`${name}/pixels`, x, [n, h, w, x.dims[1]]);
    return this.transpose(name, pixels, [0, 3, 1, 2]);
  }

  /**
   * torch.nn.GroupNorm, with the SiLU that mostly follows it. ONNX Runtime 1.30 has no WebGPU kernel for it, so a group
   * becomes one row of a LayerNormalization, which sums in f32; then follow the channels' scale and shift.
   */
  groupNorm(path: string, x: Value, groups: number, epsilon: number, activation: 'silu' | 'none' = 'none'): Value {
    const [n, c, h, w] = picture(x);
    const row = (c / groups) * h * w;
    const webgpu = this.options.provider === 'webgpu';
    let normal: Value;
    if (webgpu && row <= LONGEST_LAYER_NORM) {
      const rows = this.reshape(`${path}/rows`, x, [n * groups, row]);
      normal = this.node(`${path}/normalize`, 'LayerNormalization', [rows, this.fill(1, [row])], rows.dims, {
        attributes: { axis: -1, epsilon: float(epsilon) },
      });
    } else {
      const rows = this.reshape(`${path}/rows`, x, [n, groups, row]);
      const inputs = [rows, this.fill(1, [groups]), this.fill(0, [groups])];
      normal = this.node(`${path}/normalize`, 'InstanceNormalization', inputs, rows.dims, {
        attributes: { epsilon: float(epsilon) },
      });
    }
    return webgpu && activation === 'silu'
      ? this.#affineSilu(path, normal, x.dims)
      : this.#affine(path, normal, x.dims, activation);
  }

  /** Scale and shift per channel: a BatchNormalization of data that is standardised already. */
  #affine(path: string, normal: Value, dims: readonly number[], activation: 'silu' | 'none'): Value {
    const c = [dims[1]];
    const affine = this.node(
      `${path}/affine`,
      'BatchNormalization',
      [
        this.reshape(`${path}/picture`, normal, dims),
        this.weight(`${path}.weight`, c),
        this.weight(`${path}.bias`, c),
        this.fill(0, c),
        this.fill(1, c),
      ],
      dims,
      { attributes: { epsilon: float(0) } },
    );
    return activation === 'silu' ? this.silu(`${path}/silu`, affine) : affine;
  }

  /**
   * Scale, shift and SiLU in one kernel: that of a causal depthwise convolution. Its window is two elements, the weight of
   * the earlier one being 0, because a window of one has an empty state, on which ONNX Runtime 1.30 aborts.
   */
  #affineSilu(path: string, normal: Value, dims: readonly number[]): Value {
    const [n, c, h, w] = dims;
    const rows = this.reshape(`${path}/channels`, normal, [n, c, h * w]);
    // Folded when the session is created.
    const window = this.concat(
      `${path}/window`,
      [this.fill(0, [c, 1, 1]), this.weight(`${path}.weight`, [c, 1, 1])],
      2,
    );
    const inputs = [rows, window, this.weight(`${path}.bias`, [c])];
    const outputs = [{ dims: rows.dims }, { dims: [n, c, 1] }];
    const [silu] = this.nodes(`${path}/silu`, 'CausalConvWithState', inputs, outputs, {
      domain: MICROSOFT,
      attributes: { ndim: 1, activation: 'silu' },
    });
    assert(silu, 'the first output is asked for');
    return this.reshape(`${path}/picture`, silu, dims);
  }

  /** torch.nn.RMSNorm over the last axis; `path` names the module that holds the weight. */
  rmsNorm(path: string, x: Value, epsilon: number): Value {
    const weight = this.weight(`${path}.weight`, [x.dims.at(-1) as number]);
    return this.node(path, 'SimplifiedLayerNormalization', [x, weight], x.dims, {
      attributes: { axis: -1, epsilon: float(epsilon) },
    });
  }

  /** {@link rmsNorm} of every head: [rows, heads·width], the weight [width]. */
  headNorm(path: string, x: Value, heads: number, epsilon: number): Value {
    const [rows, width] = x.dims as [number, number];
    const parts = this.reshape(`${path}/heads`, x, [rows * heads, width / heads]);
    return this.reshape(`${path}/tokens`, this.rmsNorm(path, parts, epsilon), [rows, width]);
  }

  /** torch.nn.LayerNorm without weights of its own. */
  plainNorm(name: string, x: Value, epsilon: number): Value {
    const width = x.dims.at(-1) as number;
    return this.node(name, 'LayerNormalization', [x, this.fill(1, [width])], x.dims, {
      attributes: { axis: -1, epsilon: float(epsilon) },
    });
  }

  /**
   * Turns every head by the angles of its token's position.
   * @param x [rows, heads·width]
   * @param angles their cosines and sines, each [rows of one batch, width/2]
   * @param pairs what is turned together: neighbours, or the two halves of a head
   */
  rotary(name: string, x: Value, angles: Angles, pairs: 'neighbours' | 'halves'): Value {
    const { batch } = this.options;
    const [rows, width] = x.dims as [number, number];
    const tokens = this.reshape(`${name}/batch`, x, [batch, rows / batch, width]);
    const inputs = [tokens, this.constant([0]), angles.cos, angles.sin];
    const turned = this.node(name, 'RotaryEmbedding', inputs, tokens.dims, {
      domain: MICROSOFT,
      attributes: { interleaved: pairs === 'neighbours' ? 1 : 0 },
    });
    return this.reshape(`${name}/tokens`, turned, [rows, width]);
  }

  /** torch.nn.LayerNorm over the last axis. */
  layerNorm(path: string, x: Value, epsilon: number): Value {
    const width = x.dims.at(-1) as number;
    const inputs = [x, this.weight(`${path}.weight`, [width]), this.weight(`${path}.bias`, [width])];
    return this.node(path, 'LayerNormalization', inputs, x.dims, {
      attributes: { axis: -1, epsilon: float(epsilon) },
    });
  }

  /**
   * A linear layer, the addition of its result to a residual stream, and the LayerNorm of the sum; one kernel for bias,
   * addition and norm.
   * @returns the norm and the new residual stream
   */
  linearAddNorm(linear: string, x: Value, residual: Value, norm: string, epsilon: number) {
    const [rows, width] = residual.dims as [number, number];
    const product = this.linear(linear, x, width, { bias: false });
    const inputs = [
      product,
      residual,
      this.weight(`${norm}.weight`, [width]),
      this.weight(`${norm}.bias`, [width]),
      this.weight(`${linear}.bias`, [width]),
    ];
    const dims = [rows, width];
    const [normal, , , sum] = this.nodes(norm, 'SkipLayerNormalization', inputs, [{ dims }, null, null, { dims }], {
      domain: MICROSOFT,
      attributes: { epsilon: float(epsilon) },
    });
    assert(normal && sum, 'both outputs are asked for');
    return { normal, residual: sum };
  }

  /**
   * Scaled dot product attention.
   * @param q [batch·queries, heads·width]
   * @param k and
   * @param v [batch·keys, heads·width]
   * @param options.bias added to the scores: [1, 1 or heads, queries, keys]
   * @param options.scale of the scores, in place of 1/√width
   */
  attention(
    name: string,
    q: Value,
    k: Value,
    v: Value,
    heads: number,
    options: { causal?: boolean; upcast?: boolean; bias?: Value; scale?: number } = {},
  ) {
    const { batch, provider } = this.options;
    const [rows, width] = q.dims as [number, number];
    const type = options.upcast ? 'f32' : this.options.dtype;
    if (provider === 'wasm' && !options.causal) {
      return this.#attentionInBlocks(name, q, k, v, heads, options);
    }
    const [query, key, value] = [q, k, v].map((x, index) => {
      const part = 'qkv'[index];
      const tokens = this.reshape(`${name}/${part}`, x, [batch, size(x.dims) / batch / width, width]);
      return this.cast(`${name}/${part}/cast`, tokens, type);
    }) as [Value, Value, Value];
    const inputs = [query, key, value, ...(options.bias ? [null, null, options.bias] : [])];
    const mixed = this.node(name, 'MultiHeadAttention', inputs, query.dims, {
      type,
      domain: MICROSOFT,
      attributes: {
        num_heads: heads,
        ...(options.causal ? { unidirectional: 1 } : {}),
        ...(options.scale === undefined ? {} : { scale: float(options.scale) }),
      },
    });
    return this.reshape(`${name}/tokens`, this.cast(`${name}/cast`, mixed, this.options.dtype), [rows, width]);
  }

  /** See {@link SCORE_BYTES}; in f32, as everything is on the processor. */
  #attentionInBlocks(
    name: string,
    q: Value,
    k: Value,
    v: Value,
    heads: number,
    options: { bias?: Value; scale?: number },
  ): Value {
    const { batch } = this.options;
    const [rows, width] = q.dims as [number, number];
    const [queries, keys] = [q, k].map((x) => size(x.dims) / batch / width);
    const head = width / heads;
    const split = (part: string, x: Value, perm: readonly number[]) => {
      const parts = this.reshape(`${name}/${part}`, x, [batch, size(x.dims) / batch / width, heads, head]);
      return this.transpose(`${name}/${part}/heads`, parts, perm);
    };
    const scale = options.scale ?? 1 / Math.sqrt(head);
    const scaled = scale === 1 ? q : this.binary(`${name}/scale`, 'Mul', q, this.constant([scale], 'f32'));
    const query = split('q', scaled, [0, 2, 1, 3]);
    const key = split('k', k, [0, 2, 3, 1]);
    const value = split('v', v, [0, 2, 1, 3]);
    const block = Math.max(1, Math.floor(SCORE_BYTES / (4 * batch * heads * keys)));
    const sizes = Array.from({ length: Math.ceil(queries / block) }, (_, n) => Math.min(block, queries - n * block));
    const blocks = this.split(`${name}/blocks`, query, sizes, 2);
    const biases = options.bias && this.split(`${name}/biases`, options.bias, sizes, 2);
    const mixed = blocks.map((part, n) => {
      const plain = this.node(`${name}/scores/${n}`, 'MatMul', [part, key], [batch, heads, sizes[n], keys]);
      const scores = biases ? this.add(`${name}/biased/${n}`, plain, biases[n]) : plain;
      const shares = this.node(`${name}/softmax/${n}`, 'Softmax', [scores], scores.dims, { attributes: { axis: -1 } });
      return this.node(`${name}/mix/${n}`, 'MatMul', [shares, value], part.dims);
    });
    const whole = mixed.length === 1 ? mixed[0] : this.concat(`${name}/joined`, mixed, 2);
    return this.reshape(`${name}/tokens`, this.transpose(name, whole, [0, 2, 1, 3]), [rows, width]);
  }
}

/** The dimensions of a picture. */
export function picture(x: Value): [number, number, number, number] {
  assert(x.dims.length === 4, `${x.name} is a picture`);
  return x.dims as [number, number, number, number];
}
