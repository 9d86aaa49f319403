/** What diffusion transformers share: blocks that are scaled, shifted and gated by time and pooled text. */
import type { LayerWriter } from './layers.ts';
import type { Value } from './onnx.ts';

/** Each [1, dim]; the scale already includes its 1. */
export interface Modulation {
  shift: Value;
  scale: Value;
  gate: Value;
}

/** Splits `all`, [1, 3 · sets · dim], into `sets` of shift, scale and gate. */
export function modulations(g: LayerWriter, path: string, all: Value, dim: number, sets: number): Modulation[] {
  const widths = Array.from({ length: 3 * sets }, () => dim);
  const parts = g.split(`${path}/parts`, all, widths, 1);
  return Array.from({ length: sets }, (_, set) => ({
    shift: parts[3 * set],
    scale: oneMore(g, `${path}/scale/${set}`, parts[3 * set + 1]),
    gate: parts[3 * set + 2],
  }));
}

/** The norm of x, named `path`, scaled and shifted. */
export function modulated(
  g: LayerWriter,
  path: string,
  x: Value,
  by: Pick<Modulation, 'shift' | 'scale'>,
  epsilon: number,
): Value {
  return scaledAndShifted(g, path, g.plainNorm(path, x, epsilon), by);
}

/** @param normal a norm of any kind, which is called `path` */
export function scaledAndShifted(
  g: LayerWriter,
  path: string,
  normal: Value,
  { shift, scale }: Pick<Modulation, 'shift' | 'scale'>,
): Value {
  return g.add(`${path}/shifted`, g.binary(`${path}/scaled`, 'Mul', normal, scale), shift);
}

/**
 * diffusers' `AdaLayerNormContinuous`, whose layer `${path}.linear` outputs the scale first. For the original layout, which has the shift
 * first, they are two layers.
 */
export function continuousNorm(
  g: LayerWriter,
  path: string,
  x: Value,
  time: Value,
  epsilon: number,
  options: { bias: boolean } = { bias: true },
): Value {
  const [, dim] = x.dims as [number, number];
  const [scale, shift] = g.has(`${path}.linear.scale.weight`)
    ? ['scale', 'shift'].map((part) => g.linear(`${path}.linear.${part}`, time, dim, options))
    : g.split(`${path}/parts`, g.linear(`${path}.linear`, time, 2 * dim, options), [dim, dim], 1);
  return modulated(g, `${path}.norm`, x, { shift, scale: oneMore(g, `${path}/scale`, scale) }, epsilon);
}

export function gated(
  g: LayerWriter,
  name: string,
  x: Value,
  change: Value,
  { gate }: Pick<Modulation, 'gate'>,
): Value {
  return g.add(`${name}/added`, x, g.binary(`${name}/gated`, 'Mul', change, gate));
}

/** diffusers' `FeedForward` with `gelu-approximate`. */
export function feedForward(g: LayerWriter, path: string, x: Value, inner: number): Value {
  const [, dim] = x.dims as [number, number];
  return g.linear(`${path}.net.2`, g.tanhGelu(`${path}.net.0`, g.linear(`${path}.net.0.proj`, x, inner)), dim);
}

/**
 * The sum of all embedders' outputs, then SiLU: [1, dim].
 * @param inputs by the embedder's name, [1, width] each
 * @param more is added as it is, [1, dim]
 */
export function embedded(
  g: LayerWriter,
  path: string,
  inputs: Readonly<Record<string, Value>>,
  dim: number,
  more?: Value,
): Value {
  const parts = Object.entries(inputs).map(([name, x]) => {
    const embedder = `${path}.${name}`;
    const mid = g.silu(`${embedder}.act`, g.linear(`${embedder}.linear_1`, x, dim));
    return g.linear(`${embedder}.linear_2`, mid, dim);
  });
  return g.silu(
    path,
    [...parts, ...(more ? [more] : [])].reduce((sum, part, i) => g.add(`${path}/sum/${i}`, sum, part)),
  );
}

/**
 * A picture [1, channels, height, width] as one token per patch × patch square, channels first:
 * [tokens, channels · patch · patch].
 */
export function patches(g: LayerWriter, name: string, sample: Value, patch: number): Value {
  const [, channels, height, width] = sample.dims as [number, number, number, number];
  const [rows, columns] = [height / patch, width / patch];
  const cells = g.reshape(`${name}/cells`, sample, [channels, rows, patch, columns, patch]);
  const squares = g.transpose(`${name}/transpose`, cells, [1, 3, 0, 2, 4]);
  return g.reshape(name, squares, [rows * columns, channels * patch * patch]);
}

/** The inverse: a picture like `sample` from tokens whose squares have channels first, or last. */
export function unpatched(
  g: LayerWriter,
  name: string,
  x: Value,
  sample: Value,
  patch: number,
  channels: 'first' | 'last',
): Value {
  const [, count, height, width] = sample.dims as [number, number, number, number];
  const grid = [height / patch, width / patch];
  const square = channels === 'first' ? [count, patch, patch] : [patch, patch, count];
  const cells = g.reshape(`${name}/cells`, x, [...grid, ...square]);
  const order = channels === 'first' ? [2, 0, 3, 1, 4] : [4, 0, 2, 1, 3];
  return g.reshape(name, g.transpose(`${name}/transpose`, cells, order), sample.dims);
}

export function oneMore(g: LayerWriter, name: string, x: Value): Value {
  return g.add(name, x, g.fill(1, [1]));
}

/** Of each time in `all`, [times, 3 · sets · dim], on top of the table of `path`, its `sets` of shift, scale and gate. */
export function modulationSets(g: LayerWriter, path: string, all: Value, sets: number): Modulation[][] {
  const [times, width] = all.dims;
  const table = g.weight(`${path}.scale_shift_table`, [1, width]);
  const each = g.split(
    `${path}/times`,
    g.add(`${path}/modulation`, all, table),
    Array.from({ length: times }, () => 1),
    0,
  );
  return each.map((one, k) => modulations(g, `${path}/${k}`, one, width / (3 * sets), sets));
}

/** Applies `change` to each group of tokens by itself: `groups` are their sizes. */
export function inGroups(
  g: LayerWriter,
  name: string,
  x: Value,
  groups: readonly number[],
  change: (part: Value, k: number, name: string) => Value,
): Value {
  if (groups.length === 1 || groups[1] === 0) {
    return change(x, 0, name);
  }
  const parts = g.split(`${name}/groups`, x, groups, 0);
  return g.concat(
    `${name}/joined`,
    parts.map((part, k) => change(part, k, `${name}/${k}`)),
    0,
  );
}

/** The same of what is added to a stream, each group through a gate of its own. */
export function gatedInGroups(
  g: LayerWriter,
  name: string,
  x: Value,
  change: Value,
  groups: readonly number[],
  sets: readonly Modulation[],
): Value {
  const changes = groups.length === 1 || groups[1] === 0 ? [change] : g.split(`${name}/changes`, change, groups, 0);
  return inGroups(g, `${name}/gate`, x, groups, (part, k, own) => gated(g, own, part, changes[k], sets[k]));
}
