/**
 * Rotary position angles (https://arxiv.org/abs/2104.09864). They are computed here and not in the graph: a GPU's sines are off by up to
 * 2e-4.
 */
import type { Angles, LayerWriter } from './layers.ts';

/** Of a picture, in latents. */
export interface Extent {
  height: number;
  width: number;
}

/** Cosines and sines, each [positions, half the head's width]. */
export interface RotaryTables {
  cos: Float32Array<ArrayBuffer>;
  sin: Float32Array<ArrayBuffer>;
}

/**
 * @param ids each token's position on every axis
 * @param widths elements of a head that each axis rotates, adding up to its width
 * @param angles the precision in which the reference computes them before taking cosines
 */
export function rotaryTables(
  ids: readonly (readonly number[])[],
  widths: readonly number[],
  theta: number,
  angles: 'f32' | 'f64' = 'f32',
): RotaryTables {
  const half = widths.reduce((sum, width) => sum + width / 2, 0);
  const cos = new Float32Array(ids.length * half);
  const sin = new Float32Array(ids.length * half);
  const speeds = widths.flatMap((width, axis) =>
    Array.from({ length: width / 2 }, (_, i) => ({ axis, speed: 1 / theta ** ((2 * i) / width) })),
  );
  ids.forEach((position, token) => {
    speeds.forEach(({ axis, speed }, at) => {
      const exact = position[axis] * speed;
      const angle = angles === 'f32' ? Math.fround(exact) : exact;
      cos[token * half + at] = Math.cos(angle);
      sin[token * half + at] = Math.sin(angle);
    });
  });
  return { cos, sin };
}

/**
 * The same for references that round the speed of each angle as well.
 * @param speeds radians from one position to the next, one for each pair of elements
 */
export function turnsOf(speeds: Float32Array, positions: readonly number[]): RotaryTables {
  const turns = Float32Array.from(positions.flatMap((position) => Array.from(speeds, (speed) => position * speed)));
  return { cos: turns.map(Math.cos), sin: turns.map(Math.sin) };
}

/** 1 / theta^(2i / width), in single precision. */
export function speedsOf(theta: number, width: number): Float32Array<ArrayBuffer> {
  const f = Math.fround;
  return Float32Array.from({ length: width / 2 }, (_, i) => 1 / f(theta ** f((2 * i) / width)));
}

/** The inputs `${prefix}cos` and `${prefix}sin` for `tokens` tokens. */
export function anglesInput(g: LayerWriter, prefix: string, tokens: number, half: number): Angles {
  return { cos: g.floats(`${prefix}cos`, [tokens, half]), sin: g.floats(`${prefix}sin`, [tokens, half]) };
}

/**
 * The sinusoid of a timestep, cosines first: [width]. The same as diffusers' `Timesteps` (flip_sin_to_cos, no shift) and the authors' own
 * embedders.
 */
export function timestepWaves(timestep: number, width: number): Float32Array<ArrayBuffer> {
  const half = width / 2;
  const waves = new Float32Array(width);
  for (let i = 0; i < half; i++) {
    const angle = Math.fround(timestep * Math.fround(Math.exp((-Math.log(10_000) * i) / half)));
    waves[i] = Math.cos(angle);
    waves[half + i] = Math.sin(angle);
  }
  return waves;
}
