/** Small, equal steps through the noisiest levels, then increasingly long ones: Mochi's schedule, as in ComfyUI. */
import type { Schedule } from './schedule.ts';

/** The share of the whole path that the equal steps cover. */
const THRESHOLD = 0.025;

export const schedule: Schedule = {
  id: 'linear_quadratic',
  points({ steps, range }) {
    const even = Math.floor(steps / 2);
    const quadratic = steps - even;
    const bend = (even - THRESHOLD * steps) / quadratic ** 2;
    const done = (i: number) =>
      i < even ? (i * THRESHOLD) / even : (bend / even) * (i ** 2 + even ** 2) + (THRESHOLD / even - 2 * bend) * i;
    return { sigmas: Array.from({ length: steps }, (_, i) => range.max * (i === 0 ? 1 : 1 - done(i))) };
  },
};
