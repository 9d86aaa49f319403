/**
 * RRDBNet, the network of ESRGAN and Real-ESRGAN: dense blocks within residual blocks, then upsampling by doubling.
 * Paper: https://arxiv.org/abs/1809.00219; Real-ESRGAN's method for factors below 4, pixel unshuffle first: https://arxiv.org/abs/2107.10833.
 * Tensors have Real-ESRGAN's names (basicsr).
 */
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { picture } from './elements.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

export const className = 'RRDBNet';

export interface Config {
  /** Channels between the blocks, and channels that each convolution of a dense block adds. */
  features: number;
  growth: number;
  blocks: number;
  /** How often width and height are doubled at the end. */
  doublings: number;
  /** Pixels per side folded into channels at the start; 1 = none. */
  unshuffle: number;
}

/** A dense block's convolutions, and the dense blocks of a residual block. */
const CONVOLUTIONS = 5;
const DENSE_BLOCKS = 3;
/** The factor on a block's result before it is added to its input. */
const SHARE = 0.2;
const SLOPE = 0.2;

export function scaleOf({ doublings, unshuffle }: Config): number {
  return 2 ** doublings / unshuffle;
}

/**
 * Input `image` [batch, 3, height, width] in [0, 1], sides being multiples of `unshuffle`; output `enlarged`
 * [batch, 3, scale·height, scale·width] around [0, 1]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(className, weights, options);
  const { features, blocks, doublings, unshuffle } = config;
  const image = g.floats('image', [options.batch, 3, options.height, options.width]);
  const first = g.conv('conv_first', g.pixelUnshuffle('unshuffle', image, unshuffle), features);
  let hidden = first;
  for (let block = 0; block < blocks; block++) {
    const before = hidden;
    for (let dense = 1; dense <= DENSE_BLOCKS; dense++) {
      hidden = denseBlock(g, `body.${block}.rdb${dense}`, hidden, config);
    }
    hidden = addShare(g, `body.${block}`, before, hidden);
  }
  hidden = g.add('body/add', first, g.conv('conv_body', hidden, features));
  for (let doubling = 1; doubling <= doublings; doubling++) {
    const [, , height, width] = picture(hidden);
    const doubled = g.resize(`conv_up${doubling}/doubled`, hidden, 2 * height, 2 * width);
    hidden = g.leakyRelu(`conv_up${doubling}/lrelu`, g.conv(`conv_up${doubling}`, doubled, features), SLOPE);
  }
  hidden = g.leakyRelu('conv_hr/lrelu', g.conv('conv_hr', hidden, features), SLOPE);
  g.output('enlarged', g.conv('conv_last', hidden, 3));
  return g.graph();
}

/** ResidualDenseBlock: each convolution sees the results of all before it. */
function denseBlock(g: LayerWriter, path: string, x: Value, { features, growth }: Config): Value {
  const seen = [x];
  for (let k = 1; k < CONVOLUTIONS; k++) {
    const all = k === 1 ? x : g.concat(`${path}.conv${k}/seen`, seen, 1);
    seen.push(g.leakyRelu(`${path}.conv${k}/lrelu`, g.conv(`${path}.conv${k}`, all, growth), SLOPE));
  }
  const last = g.conv(`${path}.conv${CONVOLUTIONS}`, g.concat(`${path}/seen`, seen, 1), features);
  return addShare(g, path, x, last);
}

function addShare(g: LayerWriter, path: string, x: Value, more: Value): Value {
  // Without dimensions: then the runtime multiplies a convolution's kernel by it instead, when it makes the session.
  return g.add(`${path}/add`, g.binary(`${path}/share`, 'Mul', more, g.fill(SHARE, [])), x);
}
