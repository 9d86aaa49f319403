/** What the autoencoder of LTX-Video consists of: convolutions over frames before and after, and blocks of these that may be told a time. */
import { picture } from './elements.ts';
import { FrameWriter, countOf } from './frame_layers.ts';
import type { GraphOptions, WeightIndex } from './graph.ts';
import { oneMore } from './modulation.ts';
import type { Value } from './onnx.ts';

/** Of norms without weights. */
const NORM_EPSILON = 1e-8;

export class LtxWriter extends FrameWriter {
  readonly isLast: boolean;
  /** Whether convolutions look at the two frames before, in place of those on both sides. */
  readonly isCausal: boolean;

  constructor(
    name: string,
    weights: WeightIndex,
    options: GraphOptions,
    { isFirst, isLast, isCausal }: { isFirst: boolean; isLast: boolean; isCausal: boolean },
  ) {
    super(name, weights, options, isFirst);
    this.isLast = isLast;
    this.isCausal = isCausal;
  }

  /** Frames by which what a convolution makes is behind what it is given. */
  get lag(): 0 | 1 {
    return this.isCausal ? 0 : 1;
  }

  /** LTXVideoCausalConv3d: over three frames each, of which the first and the last of the video are repeated. */
  convolved(path: string, given: readonly Value[], out: number, stride: 1 | 2 = 1): Value[] {
    const frames = this.arranged(`${path}/given`, given);
    const before = this.isFirst ? [] : this.seen(path, frames[0], 2);
    const repeated = this.isFirst ? 2 - this.lag : 0;
    const count = countOf(before) + countOf(frames);
    const places = [...Array<number>(repeated).fill(0), ...Array.from({ length: count }, (_, n) => n)];
    const all = [...before, ...frames];
    if (!this.isLast) {
      // Of a single frame the first is repeated in what is kept, too.
      this.keep(path, count < 2 ? [...all, ...all] : all, 2);
    } else if (this.lag > 0) {
      places.push(count - 1);
    }
    const windows = Array.from({ length: Math.floor((places.length - 3) / stride) + 1 }, (_, n) =>
      places.slice(n * stride, n * stride + 3),
    );
    return this.overWindows(`${path}.conv`, all, windows, out, { stride, padding: 1 });
  }

  /** Frames as late as after `layers` convolutions. */
  delayed(path: string, frames: readonly Value[], layers: 1 | 2): readonly Value[] {
    if (this.lag === 0) {
      return frames;
    }
    const before = this.isFirst ? [] : this.seen(path, frames[0], layers);
    const all = [...before, ...frames];
    if (this.isLast) {
      return all;
    }
    this.keep(path, all, layers);
    return this.beforeLast(all, layers);
  }
}

/** Blocks of one width, in turn. @param waves [1, waves] of the time that they are told, if any */
export function resnets(
  g: LtxWriter,
  path: string,
  given: readonly Value[],
  epsilon: number,
  layers: number,
  waves: Value | null,
): Value[] {
  const [, width] = picture(given[0]);
  const parts = waves ? embedded(g, `${path}.time_embedder`, waves, 4 * width) : null;
  let frames = [...given];
  for (let layer = 0; layer < layers; layer++) {
    frames = resnet(g, `${path}.resnets.${layer}`, frames, width, epsilon, parts);
  }
  return frames;
}

/** LTXVideoResnetBlock3d. @param time [1, 4 · width], @param epsilon of the norm before another width */
export function resnet(
  g: LtxWriter,
  path: string,
  frames: readonly Value[],
  out: number,
  epsilon: number,
  time: Value | null,
): Value[] {
  const [, width] = picture(frames[0]);
  const sets = time && shifts(g, path, time, width, 4);
  const by = [0, 1].map(
    (set) => sets && { shift: sets[2 * set], scale: oneMore(g, `${path}/scale/${set}`, sets[2 * set + 1]) },
  );
  const mid = g.convolved(
    `${path}.conv1`,
    frames.map((frame) => activeNorm(g, `${path}.norm1`, frame, by[0])),
    out,
  );
  const changed = g.convolved(
    `${path}.conv2`,
    mid.map((frame) => activeNorm(g, `${path}.norm2`, frame, by[1])),
    out,
  );
  const delayed = g.delayed(`${path}/shortcut`, frames, 2);
  const kept = (width === out ? delayed : g.arranged(`${path}/shortcut/all`, delayed)).map((frame) => {
    if (width === out) {
      return frame;
    }
    const tokens = g.layerNorm(`${path}.norm3`, g.tokens(`${path}/tokens`, frame), epsilon);
    return g.conv(`${path}.conv_shortcut.conv`, g.untokens(`${path}/picture`, tokens, frame), out, { kernel: 1 });
  });
  return g.sums(`${path}/add`, changed, kept);
}

/** A norm over the channels, scaled and shifted by the time where it is told, and SiLU. */
export function activeNorm(g: LtxWriter, path: string, x: Value, by: { shift: Value; scale: Value } | null): Value {
  const tokens = g.tokens(`${path}/tokens`, x);
  let normal = g.plainRmsNorm(path, tokens, NORM_EPSILON);
  if (by) {
    normal = g.add(`${path}/shifted`, g.binary(`${path}/scaled`, 'Mul', normal, by.scale), by.shift);
  }
  return g.untokens(`${path}/picture`, g.silu(`${path}/silu`, normal), x);
}

/** PixArtAlphaCombinedTimestepSizeEmbeddings, of a time alone: [1, out]. */
function embedded(g: LtxWriter, path: string, waves: Value, out: number): Value {
  const embedder = `${path}.timestep_embedder`;
  return g.linear(`${embedder}.linear_2`, g.silu(`${embedder}.act`, g.linear(`${embedder}.linear_1`, waves, out)), out);
}

/** The time on top of the table of `path`: `count` of [1, width]. */
function shifts(g: LtxWriter, path: string, time: Value, width: number, count: number): Value[] {
  const table = g.weight(`${path}.scale_shift_table`, [1, count * width]);
  const all = g.add(`${path}/modulation`, time, table);
  return g.split(
    `${path}/modulations`,
    all,
    Array.from({ length: count }, () => width),
    1,
  );
}

/** The time that `path` itself is told: `count` of [1, width]. */
export function timed(g: LtxWriter, path: string, waves: Value, width: number, count: number): Value[] {
  return shifts(g, path, embedded(g, `${path}.time_embedder`, waves, count * width), width, count);
}
