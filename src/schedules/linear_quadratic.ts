/** Small, equal steps through the noisiest levels, then increasingly long ones: Mochi's schedule, as in ComfyUI. */
import type { Schedule } from './schedule.ts';

/** The share of the whole path that the equal steps cover. */
const THRESHOLD = 0.025;

export const schedule: Schedule = {
  id: 'linear_quadratic',
  points({ steps, range }) {
    return { sigmas: linearQuadratic(steps).map((level) => range.max * level) };
  },
};

/** The levels between 1 and 0, without the latter. */
export function linearQuadratic(steps: number): number[] {
  const even = Math.floor(steps / 2);
  const quadratic = steps - even;
  const bend = (even - THRESHOLD * steps) / quadratic ** 2;
  const done = (i: number) =>
    i < even ? (i * THRESHOLD) / even : (bend / even) * (i ** 2 + even ** 2) + (THRESHOLD / even - 2 * bend) * i;
  return Array.from({ length: steps }, (_, i) => (i === 0 ? 1 : 1 - done(i)));
}
