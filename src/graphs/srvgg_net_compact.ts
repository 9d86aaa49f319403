/**
 * SRVGGNetCompact, Real-ESRGAN's small network: a chain of convolutions at the size of the picture, whose last channels become pixels that
 * are added to the resized picture. Paper: https://arxiv.org/abs/2107.10833; tensors go by the names of basicsr, activations are PReLUs.
 */
import type { Graph, GraphOptions, WeightIndex } from './graph.ts';
import { LayerWriter } from './layers.ts';

export const className = 'SRVGGNetCompact';

export interface Config {
  features: number;
  /** Convolutions between the first and the last. */
  convolutions: number;
  scale: number;
}

export function scaleOf({ scale }: Config): number {
  return scale;
}

/**
 * Input `image` [batch, 3, height, width] in [0, 1], output `enlarged` [batch, 3, scale·height, scale·width] around [0, 1]. All float32.
 * @throws StudioError `checkpoint_incomplete`, `checkpoint_damaged`
 */
export function build(config: Config, weights: WeightIndex, options: GraphOptions): Graph {
  const g = new LayerWriter(className, weights, options);
  const { features, convolutions, scale } = config;
  const image = g.floats('image', [options.batch, 3, options.height, options.width]);
  let hidden = image;
  for (let n = 0; n <= convolutions; n++) {
    hidden = g.prelu(`body.${2 * n + 1}`, g.conv(`body.${2 * n}`, hidden, features));
  }
  hidden = g.conv(`body.${2 * convolutions + 2}`, hidden, 3 * scale * scale);
  const base = g.resize('base', image, scale * options.height, scale * options.width);
  g.output('enlarged', g.add('sum', g.pixelShuffle('upsampler', hidden, scale), base));
  return g.graph();
}
