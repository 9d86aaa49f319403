/**
 * The layers that all networks here consist of, each as the nodes that ONNX Runtime's WebGPU kernels run fastest.
 *
 * Pictures are [batch, channels, height, width]; tokens are kept as [batch·sequence, channels], the shape of a Gemm, and get
 * their batch axis back only for attention. Reshapes cost nothing at run time, transpositions and casts are kernel launches.
 */
import { assert } from '../core/errors.ts';
import { ElementWriter, picture } from './elements.ts';
import type { FloatType } from './graph.ts';
import { MICROSOFT, float, size } from './onnx.ts';
import type { Value } from './onnx.ts';
import { BLOCK } from './quantisation.ts';
import { isShort, shortConv } from './short_convolution.ts';

export interface ConvOptions {
  /** One number for both sides, or [height, width]; likewise stride and dilation. */
  kernel?: number | readonly [number, number];
  stride?: number | readonly [number, number];
  dilation?: number | readonly [number, number];
  /** One number for all sides, or [top, left, bottom, right]; by default the padding that keeps the size at stride 1. */
  padding?: number | readonly [number, number, number, number];
  /** `false` for none, a value of shape [out] instead of the stored `.bias`. */
  bias?: boolean | Value;
  /** Whether the processor computes it as it is, whatever its size. */
  isPlain?: boolean;
  /** [out, channels, height, width] instead of the stored `.weight`. */
  weight?: Value;
  /**
   * Of a causal convolution over so many frames that is given one picture: all frames but the last meet nothing but zeros, so they are left
   * out of the kernel. Absent = a convolution of pictures.
   */
  frames?: number;
}

/**
 * The longest row that GroupNorm normalises with LayerNormalization, in elements. Its unit scale must exist as a tensor of that length (4
 * Mi elements: 16 MiB in f32); longer rows go through InstanceNormalization.
 */
const LONGEST_LAYER_NORM = 2 ** 22;

/**
 * Maximum bytes of attention scores at one time on the processor. ONNX Runtime's own attention kernel holds them all (1 GiB for the
 * autoencoder's middle at 1024×1024 pixels) and counts them in 32 bits, so it fails at common sizes.
 */
const SCORE_BYTES = 2 ** 23;

/** See {@link LayerWriter.rotary}. */
export interface Angles {
  cos: Value;
  sin: Value;
}

export class LayerWriter extends ElementWriter {
  /** Rows of an embedding table. */
  embedding(path: string, ids: Value, rows: number, width: number): Value {
    return this.node(path, 'Gather', [this.weight(`${path}.weight`, [rows, width]), ids], [...ids.dims, width]);
  }

  /** torch.nn.Conv2d. */
  conv(path: string, x: Value, out: number, options: ConvOptions = {}): Value {
    const { bias = true } = options;
    const [n, c, h, w] = picture(x);
    const [kernel, strides, dilations] = [options.kernel ?? 3, options.stride ?? 1, options.dilation ?? 1].map(sides);
    const [tall, wide] = [0, 1].map((side) => dilations[side] * (kernel[side] - 1) + 1);
    const padding = options.padding ?? ([(tall - 1) / 2, (wide - 1) / 2, (tall - 1) / 2, (wide - 1) / 2] as const);
    const pads = typeof padding === 'number' ? [padding, padding, padding, padding] : padding;
    const [top, left, bottom, right] = pads as [number, number, number, number];
    const height = Math.floor((h + top + bottom - tall) / strides[0]) + 1;
    const width = Math.floor((w + left + right - wide) / strides[1]) + 1;
    const weight = options.weight ?? this.#kernelOf(path, [out, c, ...kernel], options.frames);
    const added = bias === false ? [] : [bias === true ? this.weight(`${path}.bias`, [out]) : bias];
    const isUsual = [...kernel, ...strides, ...dilations, ...pads].join() === '3,3,1,1,1,1,1,1,1,1';
    const { provider, dtype, plainConvolutions } = this.options;
    if (
      provider === 'wasm' &&
      dtype === 'f32' &&
      isUsual &&
      !plainConvolutions &&
      !options.isPlain &&
      isShort(x, out)
    ) {
      return shortConv(this, path, x, out, weight, added[0] ?? null);
    }
    const convolve = (name: string, inputs: Value[]) =>
      this.node(name, 'Conv', inputs, [n, out, height, width], {
        attributes: { kernel_shape: kernel, strides, pads, ...(dilations.some((one) => one > 1) && { dilations }) },
      });
    // The runtime's GPU kernel reads channels in threes if their number is divisible by three but not four, and is only correct for
    // exactly three: with 9 the result is wrong (1.30.0). So the channels beyond a multiple of four get a separate convolution.
    if (this.options.provider !== 'webgpu' || c === 3 || c % 3 !== 0 || c % 4 === 0) {
      return convolve(path, [x, weight, ...added]);
    }
    const parts = [c - (c % 4), c % 4].filter((count) => count > 0);
    const channels = this.split(`${path}/channels`, x, parts, 1);
    const weights = this.split(`${path}/weights`, weight, parts, 1);
    const [fours, rest] = channels.map((part, i) =>
      convolve(`${path}/part.${i}`, [part, weights[i], ...(i === 0 ? added : [])]),
    );
    return this.add(path, fours, rest);
  }

  #kernelOf(path: string, dims: readonly [number, number, number, number], frames?: number): Value {
    const name = `${path}.weight`;
    if (frames === undefined || frames === 1) {
      return this.weight(name, dims);
    }
    const [out, c, ...kernel] = dims;
    const all = this.weight(name, [out, c, frames, ...kernel]);
    // Folded when the session is created.
    const range = [frames - 1, frames, 2].map((value) => this.constant([value]));
    const last = this.node(`${path}/last_frame`, 'Slice', [all, ...range], [out, c, 1, ...kernel]);
    return this.reshape(`${path}/kernel`, last, dims);
  }

  /** torch.nn.ConvTranspose1d on a picture one pixel high, `padding` on both ends. */
  convTranspose1d(path: string, x: Value, out: number, kernel: number, stride: number, padding: number): Value {
    const [n, c, h, w] = picture(x);
    assert(h === 1, `${path} works along a line`);
    const inputs = [x, this.weight(`${path}.weight`, [c, out, 1, kernel]), this.weight(`${path}.bias`, [out])];
    return this.node(path, 'ConvTranspose', inputs, [n, out, 1, (w - 1) * stride - 2 * padding + kernel], {
      attributes: { kernel_shape: [1, kernel], strides: [1, stride], pads: [0, padding, 0, padding] },
    });
  }

  /** torch.nn.PReLU with a slope per channel. The runtime has no GPU kernel for it (1.30.0). */
  prelu(path: string, x: Value): Value {
    const slopes = this.weight(`${path}.weight`, [picture(x)[1], 1, 1]);
    if (this.options.provider === 'wasm') {
      return this.node(path, 'PRelu', [x, slopes], x.dims);
    }
    const isAbove = this.node(`${path}/is_above`, 'Greater', [x, this.fill(0, [1])], x.dims, { type: 'bool' });
    const below = this.binary(`${path}/below`, 'Mul', x, slopes);
    return this.node(path, 'Where', [isAbove, x, below], x.dims, { type: x.type });
  }

  /**
   * torch.nn.Linear on [rows, in], using the weight as stored. Also a 1×1 convolution on tokens.
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
    // Its own bias must be a vector; a residual stream in place of the bias needs a separate node.
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

  /** The inverse of {@link tokens}: a picture with the size of `like` (whose channels do not matter). */
  untokens(name: string, x: Value, like: Value): Value {
    const [n, , h, w] = picture(like);
    const pixels = this.reshape(`${name}/pixels`, x, [n, h, w, x.dims[1]]);
    return this.transpose(name, pixels, [0, 3, 1, 2]);
  }

  /**
   * torch.nn.GroupNorm, with the SiLU that usually follows. ONNX Runtime 1.30 has no WebGPU kernel for it, so a group becomes one row of a
   * LayerNormalization, which sums in f32, followed by the channels' scale and shift.
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

  /** Scale and shift per channel: a BatchNormalization of already standardised data. */
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
   * Scale, shift and SiLU in one kernel, a causal depthwise convolution. Its window is two elements, the earlier with weight 0, because a
   * window of one has an empty state, on which ONNX Runtime 1.30 aborts.
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
    return this.scaledRmsNorm(path, x, this.weight(`${path}.weight`, [x.dims.at(-1) as number]), epsilon);
  }

  /** The same with factors, [width], that the module keeps otherwise. */
  scaledRmsNorm(name: string, x: Value, factors: Value, epsilon: number): Value {
    return this.node(name, 'SimplifiedLayerNormalization', [x, factors], x.dims, {
      attributes: { axis: -1, epsilon: float(epsilon) },
    });
  }

  /** {@link rmsNorm} of every head: [rows, heads·width], the weight [width]. */
  headNorm(path: string, x: Value, heads: number, epsilon: number): Value {
    return this.perHead(path, x, heads, (parts) => this.rmsNorm(path, parts, epsilon));
  }

  /** Changes each head by itself: [rows, heads·width] as [rows·heads, width]. */
  perHead(path: string, x: Value, heads: number, change: (parts: Value) => Value): Value {
    const [rows, width] = x.dims as [number, number];
    const parts = this.reshape(`${path}/heads`, x, [rows * heads, width / heads]);
    return this.reshape(`${path}/tokens`, change(parts), [rows, width]);
  }

  /** SwiGLU of language models: `gate_proj`, `up_proj` and `down_proj` of `path`, added to `added`. */
  swiGlu(path: string, x: Value, inner: number, added: Value | false, biases = false): Value {
    const width = x.dims[1];
    const gate = this.silu(`${path}.act_fn`, this.linear(`${path}.gate_proj`, x, inner, { bias: biases }));
    const up = this.linear(`${path}.up_proj`, x, inner, { bias: biases });
    const product = this.binary(path, 'Mul', gate, up);
    return biases && added
      ? this.add(`${path}/added`, added, this.linear(`${path}.down_proj`, product, width))
      : this.linear(`${path}.down_proj`, product, width, { bias: biases || added });
  }

  /** Repeats each of the `shared` heads of [rows, shared·width] until there are `heads`; the runtime's attention shares none without a cache. */
  repeatHeads(name: string, x: Value, shared: number, heads: number): Value {
    const [rows, all] = x.dims;
    if (shared === heads) {
      return x;
    }
    const [each, width] = [heads / shared, all / shared];
    const apart = this.reshape(`${name}/apart`, x, [rows, shared, 1, width]);
    const repeated = this.expand(`${name}/expand`, apart, [rows, shared, each, width]);
    return this.reshape(name, repeated, [rows, heads * width]);
  }

  /** torch.nn.LayerNorm without weights of its own. */
  plainNorm(name: string, x: Value, epsilon: number): Value {
    const width = x.dims.at(-1) as number;
    return this.node(name, 'LayerNormalization', [x, this.fill(1, [width])], x.dims, {
      attributes: { axis: -1, epsilon: float(epsilon) },
    });
  }

  /** torch.nn.RMSNorm without weights of its own. */
  plainRmsNorm(name: string, x: Value, epsilon: number): Value {
    return this.scaledRmsNorm(name, x, this.fill(1, [x.dims.at(-1) as number]), epsilon);
  }

  /**
   * Rotates every head by the angles of its token's position.
   * @param x [rows, heads·width]
   * @param angles their cosines and sines, each [rows of one batch, half the rotated width of a head]
   * @param pairs which elements rotate together: neighbours, or the two halves of a head
   * @param part set if only the first elements of each head are rotated, by halves; the rest stays as it is
   */
  rotary(
    name: string,
    x: Value,
    angles: Angles,
    pairs: 'neighbours' | 'halves',
    part?: { heads: number; turned: number },
  ): Value {
    const { batch } = this.options;
    const [rows, width] = x.dims as [number, number];
    const tokens = this.reshape(`${name}/batch`, x, [batch, rows / batch, width]);
    const inputs = [tokens, this.constant([0]), angles.cos, angles.sin];
    const turned = this.node(name, 'RotaryEmbedding', inputs, tokens.dims, {
      domain: MICROSOFT,
      attributes: {
        interleaved: pairs === 'neighbours' ? 1 : 0,
        ...(part && { num_heads: part.heads, rotary_embedding_dim: part.turned }),
      },
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
   * A linear layer added to a residual stream, and the LayerNorm of the sum; one kernel for bias, addition and norm.
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
   * @param options.batch in place of the graph's
   */
  attention(
    name: string,
    q: Value,
    k: Value,
    v: Value,
    heads: number,
    options: { causal?: boolean; upcast?: boolean; bias?: Value; scale?: number; batch?: number } = {},
  ) {
    const { provider } = this.options;
    const { batch = this.options.batch } = options;
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

  /** See {@link SCORE_BYTES}; in f32, like everything on the processor. */
  #attentionInBlocks(
    name: string,
    q: Value,
    k: Value,
    v: Value,
    heads: number,
    options: { bias?: Value; scale?: number; batch?: number },
  ): Value {
    const { batch = this.options.batch } = options;
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
    if (this.options.isPlanned && sizes.length > 2) {
      // Long videos have blocks by the hundred thousand. One of them stands for all, and the rest takes the room that theirs do.
      const [one, rest] = this.split(`${name}/blocks`, query, [block, queries - block], 2);
      const [bias, others] = options.bias
        ? this.split(`${name}/biases`, options.bias, [block, queries - block], 2)
        : [undefined, undefined];
      const made = this.counted(queries / block, () => this.#attentionBlock(name, 0, one, key, value, bias));
      if (others) {
        // Those of the last block are there until the end.
        this.node(`${name}/biases/kept`, 'Size', [others], [], { type: 'i64' });
      }
      const all = this.concat(`${name}/joined`, [made, rest], 2);
      return this.reshape(`${name}/tokens`, this.transpose(name, all, [0, 2, 1, 3]), [rows, width]);
    }
    const blocks = this.split(`${name}/blocks`, query, sizes, 2);
    const biases = options.bias && this.split(`${name}/biases`, options.bias, sizes, 2);
    const mixed = blocks.map((part, n) => this.#attentionBlock(name, n, part, key, value, biases?.[n]));
    const whole = mixed.length === 1 ? mixed[0] : this.concat(`${name}/joined`, mixed, 2);
    return this.reshape(`${name}/tokens`, this.transpose(name, whole, [0, 2, 1, 3]), [rows, width]);
  }

  #attentionBlock(name: string, n: number, part: Value, key: Value, value: Value, bias: Value | undefined): Value {
    const [batch, heads, queries] = part.dims;
    const plain = this.node(`${name}/scores/${n}`, 'MatMul', [part, key], [batch, heads, queries, key.dims[3]]);
    const scores = bias ? this.add(`${name}/biased/${n}`, plain, bias) : plain;
    const shares = this.node(`${name}/softmax/${n}`, 'Softmax', [scores], scores.dims, { attributes: { axis: -1 } });
    return this.node(`${name}/mix/${n}`, 'MatMul', [shares, value], part.dims);
  }
}

function sides(both: number | readonly [number, number]): readonly [number, number] {
  return typeof both === 'number' ? [both, both] : both;
}
