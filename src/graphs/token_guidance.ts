/**
 * Qwen-Image's guidance: the mixture of both predictions, every token of it brought back to the length of the prompt's own prediction.
 * Reference: diffusers/pipelines/qwenimage/pipeline_qwenimage.py (`true_cfg_scale`)
 */
import type { Graph, GraphOptions } from './graph.ts';
import { LayerWriter } from './layers.ts';
import { patches, unpatched } from './modulation.ts';
import type { Value } from './onnx.ts';

const NO_WEIGHTS = { get: () => undefined, names: () => [] };

export interface Options extends GraphOptions {
  channels: number;
  /** Latents per side of a token. */
  patch: number;
}

/**
 * Inputs `cond` and `uncond` [1, channels, height, width], `scale` [1]; output `mixed` like them: u + scale · (c − u), times |c| / its own
 * length, token by token. All float32.
 */
export function build({ channels, patch, ...options }: Options): Graph {
  const g = new LayerWriter('guidance', NO_WEIGHTS, options);
  const dims = [1, channels, options.height, options.width];
  const sample = g.floats('cond', dims);
  const cond = patches(g, 'cond/tokens', sample, patch);
  const uncond = patches(g, 'uncond/tokens', g.floats('uncond', dims), patch);
  const away = g.binary('away', 'Mul', g.binary('difference', 'Sub', cond, uncond), g.floats('scale', [1]));
  const mixed = g.add('mixture', uncond, away);
  const ratio = g.binary('ratio', 'Div', length(g, 'cond/length', cond), length(g, 'mixture/length', mixed));
  const tokens = g.binary('restored', 'Mul', mixed, ratio);
  g.output('mixed', unpatched(g, 'mixed/picture', tokens, sample, patch, 'first'));
  return g.graph();
}

/** Of every row, [rows, 1]. */
function length(g: LayerWriter, name: string, x: Value): Value {
  return g.node(name, 'ReduceL2', [x, g.constant([1])], [x.dims[0], 1], { attributes: { keepdims: 1 } });
}
