/**
 * CFGNorm of ComfyUI: guidance whose predicted picture is nowhere further from nothing than the prompt's own.
 * Reference: ComfyUI, comfy_extras/nodes_cfg.py (`CFGNorm` with a strength of 1, after guidance)
 */
import type { Graph, GraphOptions } from './graph.ts';
import { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

const NO_WEIGHTS = { get: () => undefined, names: () => [] };
/** The reference's guard against a norm of zero. */
const LEAST = 1e-8;

export interface Options extends GraphOptions {
  channels: number;
}

/**
 * Inputs `cond`, `uncond` and `sample` [batch, channels, height, width], `scale` [1], and `of_sample` and `of_prediction` [1], the weights of which a picture
 * consists. Output `mixed` like `cond`: what predicts the picture of u + scale · (c − u), its channels at each place shortened to the length of those that
 * c predicts. All float32.
 */
export function build({ channels, ...options }: Options): Graph {
  const g = new LayerWriter('guidance', NO_WEIGHTS, options);
  const dims = [options.batch, channels, options.height, options.width];
  const [cond, uncond, sample] = ['cond', 'uncond', 'sample'].map((name) => g.floats(name, dims));
  const weight = g.floats('of_prediction', [1]);
  const base = g.binary('base', 'Mul', sample, g.floats('of_sample', [1]));
  const picture = (name: string, prediction: Value) =>
    g.add(name, base, g.binary(`${name}/share`, 'Mul', prediction, weight));
  const away = g.binary('away', 'Mul', g.binary('difference', 'Sub', cond, uncond), g.floats('scale', [1]));
  const mixture = picture('mixture', g.add('guided', uncond, away));
  const least = g.add('mixture/least', length(g, 'mixture/length', mixture), g.constant([LEAST], 'f32'));
  const ratio = g.binary('ratio', 'Div', length(g, 'cond/length', picture('cond/picture', cond)), least);
  const most = g.node('most', 'Clip', [ratio, g.constant([0], 'f32'), g.constant([1], 'f32')], ratio.dims);
  const shortened = g.binary('shortened', 'Mul', mixture, most);
  g.output('mixed', g.binary('mixed/prediction', 'Div', g.binary('mixed/rest', 'Sub', shortened, base), weight));
  return g.graph();
}

/** Of the channels at every place, [batch, 1, height, width]. */
function length(g: LayerWriter, name: string, x: Value): Value {
  const [batch, , height, width] = x.dims;
  return g.node(name, 'ReduceL2', [x, g.constant([1])], [batch, 1, height, width], { attributes: { keepdims: 1 } });
}
