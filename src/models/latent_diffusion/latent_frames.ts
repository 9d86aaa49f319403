/** Single frames of latents [1, channels, frames · height, width]. */
import type { Arithmetic, DeviceTensor } from '../../engine/arithmetic.ts';

/** Copies frame `n` of `frames` into `one`, [1, channels, height, width]. */
export function takeFrame(
  arithmetic: Arithmetic,
  latents: DeviceTensor,
  frames: number,
  n: number,
  one: DeviceTensor,
): void {
  eachChannel(latents, frames, n, (at, own, count) => {
    arithmetic.copy(latents, at, one, own, count);
  });
}

/** The way back from {@link takeFrame}. */
export function putFrame(
  arithmetic: Arithmetic,
  one: DeviceTensor,
  latents: DeviceTensor,
  frames: number,
  n: number,
): void {
  eachChannel(latents, frames, n, (at, own, count) => {
    arithmetic.copy(one, own, latents, at, count);
  });
}

function eachChannel(
  { dims: [, channels, rows, width] }: DeviceTensor,
  frames: number,
  n: number,
  visit: (at: number, own: number, count: number) => void,
): void {
  const plane = (rows / frames) * width;
  for (let channel = 0; channel < channels; channel++) {
    visit((channel * frames + n) * plane, channel * plane, plane);
  }
}
