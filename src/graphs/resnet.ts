/**
 * Residual blocks and resizing, shared by the UNet and the autoencoder.
 * Reference: diffusers/models/resnet.py, downsampling.py, upsampling.py
 */
import type { LayerWriter } from './layers.ts';
import { picture } from './elements.ts';
import type { Value } from './onnx.ts';

export interface ResnetOptions {
  out: number;
  groups: number;
  epsilon: number;
  /** silu(time embedding): [1, width] if it is the same for all pictures of a batch, else [batch, width]. */
  time?: Value;
}

/** ResnetBlock2D. */
export function resnetBlock(g: LayerWriter, path: string, x: Value, options: ResnetOptions): Value {
  const { out, groups, epsilon, time } = options;
  let hidden = g.groupNorm(`${path}.norm1`, x, groups, epsilon, 'silu');
  hidden = time ? timedConv(g, path, hidden, time, out) : g.conv(`${path}.conv1`, hidden, out);
  hidden = g.groupNorm(`${path}.norm2`, hidden, groups, epsilon, 'silu');
  if (picture(x)[1] === out) {
    return g.add(`${path}/add`, x, g.conv(`${path}.conv2`, hidden, out));
  }
  if (g.options.provider === 'wasm') {
    const shortcut = g.conv(`${path}.conv_shortcut`, x, out, { kernel: 1 });
    return g.add(`${path}/add`, shortcut, g.conv(`${path}.conv2`, hidden, out));
  }
  // The shortcut, a 1×1 convolution, is a Gemm over pixels that also adds the block's result.
  const bias = biasSum(g, `${path}/bias`, [`${path}.conv2.bias`, `${path}.conv_shortcut.bias`], out);
  const result = g.tokens(`${path}.conv2/tokens`, g.conv(`${path}.conv2`, hidden, out, { bias }));
  const pixels = g.tokens(`${path}/tokens`, x);
  return g.untokens(`${path}/picture`, g.linear(`${path}.conv_shortcut`, pixels, out, { bias: result }), x);
}

/** The first convolution and the time embedding's projection, which becomes its bias if all pictures share it. */
function timedConv(g: LayerWriter, path: string, x: Value, time: Value, out: number): Value {
  const [rows] = time.dims;
  const bias = biasSum(g, `${path}.time_emb_proj/bias`, [`${path}.time_emb_proj.bias`, `${path}.conv1.bias`], out);
  const projected = g.linear(`${path}.time_emb_proj`, time, out, { bias });
  if (rows === 1) {
    return g.conv(`${path}.conv1`, x, out, { bias: g.reshape(`${path}.time_emb_proj/vector`, projected, [out]) });
  }
  const perPicture = g.reshape(`${path}.time_emb_proj/pictures`, projected, [rows, out, 1, 1]);
  return g.add(`${path}.time_emb_proj/add`, g.conv(`${path}.conv1`, x, out, { bias: false }), perPicture);
}

/** The sum of two biases. ONNX Runtime folds it when loading the graph, which it could not do in f16. */
function biasSum(g: LayerWriter, name: string, [a, b]: readonly [string, string], width: number): Value {
  return g.cast(`${name}/cast`, g.add(name, g.weight(a, [width], 'f32'), g.weight(b, [width], 'f32')), g.options.dtype);
}

/** Downsample2D with a convolution; padding 0 means one row and column of zeros at the end, as in the reference. */
export function downsample(g: LayerWriter, path: string, x: Value, padding: number): Value {
  const channels = picture(x)[1];
  return g.conv(`${path}.conv`, x, channels, { stride: 2, padding: padding === 0 ? [0, 0, 1, 1] : padding });
}

/** Upsample2D with a convolution. @param size of the result; by default twice the picture's */
export function upsample(g: LayerWriter, path: string, x: Value, size?: readonly [number, number]): Value {
  const [, channels, height, width] = picture(x);
  const larger = g.resize(`${path}/resize`, x, size?.[0] ?? 2 * height, size?.[1] ?? 2 * width);
  return g.conv(`${path}.conv`, larger, channels);
}

/**
 * {@link upsample} to twice the size, for decoders. On the processor, doubled pixels would meet neighbouring taps of the kernel: instead, each
 * quarter of the result is a 2×2 convolution of the small picture with sums of those taps, which takes 4/9 of the multiplications
 * (docs/PROCESSOR.md). The sums are folded when the session is created.
 */
export function double(g: LayerWriter, path: string, x: Value): Value {
  if (g.options.provider !== 'wasm') {
    return upsample(g, path, x);
  }
  const [n, c, h, w] = picture(x);
  const weight = g.weight(`${path}.conv.weight`, [c, c, 3, 3]);
  const bias = g.weight(`${path}.conv.bias`, [c]);
  const quarters = halves(g, `${path}.conv/taps`, weight, 2).flatMap((tall, top) =>
    halves(g, `${path}.conv/taps.${top}`, tall, 3).map((kernel, left) => {
      const pads = [1 - top, 1 - left, top, left];
      const attributes = { kernel_shape: [2, 2], strides: [1, 1], pads };
      return g.node(`${path}.conv/${top}.${left}`, 'Conv', [x, kernel, bias], [n, c, h, w], { attributes });
    }),
  );
  const joined = g.concat(`${path}.conv/quarters`, quarters, 1);
  return g.node(`${path}.conv`, 'DepthToSpace', [joined], [n, c, 2 * h, 2 * w], {
    attributes: { blocksize: 2, mode: 'DCR' },
  });
}

/** What a kernel of three taps along `axis` is to the first and to the second of two doubled pixels: two taps each. */
function halves(g: LayerWriter, name: string, kernel: Value, axis: number): Value[] {
  const [before, at, after] = g.split(name, kernel, [1, 1, 1], axis);
  return [
    g.concat(`${name}/first`, [before, g.add(`${name}/after`, at, after)], axis),
    g.concat(`${name}/second`, [g.add(`${name}/before`, before, at), after], axis),
  ];
}
