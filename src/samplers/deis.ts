/**
 * Diffusion exponential integrator sampler, third-order tAB-DEIS: https://arxiv.org/abs/2204.13902. As in ComfyUI, time is that of a
 * variance-preserving process with ends of its own, and the integrals are sums over 10,000 points.
 */
import { multistep } from './multistep.ts';
import { integral, lagrange } from './quadrature.ts';
import type { Sampler } from './sampler.ts';

/** The process: the time at which it ends, and σ at both ends. */
const EPSILON = 1e-3;
const SIGMA_MIN = 0.002;
const SIGMA_MAX = 80;
const POINTS = 10_000;

const [low, high] = [SIGMA_MIN, SIGMA_MAX].map((sigma) => Math.log(sigma ** 2 + 1));
/** β rises along β0 + t · slope. */
const SLOPE = (2 * (low / EPSILON - high)) / (EPSILON - 1);
const BETA = high - 0.5 * SLOPE;

export const sampler: Sampler = {
  id: 'deis',
  plan: ({ points, targets }) =>
    multistep(points, targets, 3, (ratios, i, known) => {
      const [from, to] = [ratios[i], ratios[i + 1]];
      if (known === 1 || to <= 0) {
        return [to - from];
      }
      const nodes = Array.from({ length: known }, (_, k) => timeOf(ratios[i - k]));
      const [start, end] = [nodes[0], timeOf(to)];
      return nodes.map((_, j) => sumOver((t) => density(t) * lagrange(nodes, j, t), start, end));
    }),
};

function timeOf(sigma: number): number {
  return (Math.sqrt(BETA ** 2 + 2 * SLOPE * Math.log(sigma ** 2 + 1)) - BETA) / SLOPE;
}

/** How fast σ rises with time, per unit of the network's noise. */
function density(t: number): number {
  const alpha = Math.exp(-0.5 * t ** 2 * SLOPE - t * BETA);
  return (0.5 * (t * SLOPE + BETA)) / Math.sqrt(alpha * (1 - alpha));
}

/** The function's mean over {@link POINTS} points including both ends, times the length: the integral plus the error of counting both ends. */
function sumOver(f: (t: number) => number, start: number, end: number): number {
  const step = (end - start) / (POINTS - 1);
  return ((POINTS - 1) / POINTS) * (integral(f, start, end) + (step * (f(start) + f(end))) / 2);
}
