/**
 * Residual blocks and changes of size, shared by the UNet and the autoencoder.
 * Reference: diffusers/models/resnet.py, downsampling.py, upsampling.py
 */
import type { LayerWriter } from './layers.ts';
import { picture } from './layers.ts';
import type { Value } from './onnx.ts';

export interface ResnetOptions {
  out: number;
  groups: number;
  epsilon: number;
  /** silu(time embedding): [1, width] where it is the same for all pictures of a batch, else [batch, width]. */
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
  // The shortcut, a 1×1 convolution, is a Gemm over pixels that adds the block's result as it goes.
  const bias = biasSum(g, `${path}/bias`, [`${path}.conv2.bias`, `${path}.conv_shortcut.bias`], out);
  const result = g.tokens(`${path}.conv2/tokens`, g.conv(`${path}.conv2`, hidden, out, { bias }));
  const pixels = g.tokens(`${path}/tokens`, x);
  return g.untokens(`${path}/picture`, g.linear(`${path}.conv_shortcut`, pixels, out, { bias: result }), x);
}

/** The first convolution, and the time embedding's projection: as its bias, where all pictures have the same. */
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

/** The sum of two biases. ONNX Runtime folds it when it loads the graph, which it could not in f16. */
function biasSum(g: LayerWriter, name: string, [a, b]: readonly [string, string], width: number): Value {
  return g.cast(`${name}/cast`, g.add(name, g.weight(a, [width], 'f32'), g.weight(b, [width], 'f32')), g.options.dtype);
}

/** Downsample2D with a convolution; padding 0 stands for one row and column of zeros at the end, as in the reference. */
export function downsample(g: LayerWriter, path: string, x: Value, padding: number): Value {
  const channels = picture(x)[1];
  return g.conv(`${path}.conv`, x, channels, { stride: 2, padding: padding === 0 ? [0, 0, 1, 1] : padding });
}

/** Upsample2D with a convolution. @param size of the result; twice the picture's where it is not given */
export function upsample(g: LayerWriter, path: string, x: Value, size?: readonly [number, number]): Value {
  const [, channels, height, width] = picture(x);
  const larger = g.resize(`${path}/resize`, x, size?.[0] ?? 2 * height, size?.[1] ?? 2 * width);
  return g.conv(`${path}.conv`, larger, channels);
}
