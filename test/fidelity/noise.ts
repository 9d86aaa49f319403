/** Noise as other tools draw it: test/goldens/noise.json. */
import { readFileSync } from 'node:fs';
import type { LatentDims, NoiseName } from '../../src/core/noise.ts';
import { noiseSource } from '../../src/core/noise_sources.ts';
import { greatestDifference, type FidelityArea } from './fidelity.ts';

interface Goldens {
  levels: string[];
  rows: {
    noise: NoiseName;
    seed: string;
    batch: number;
    variation: string | null;
    strength: number;
    delta: number;
    tree: boolean;
    start: string[];
    steps: string[][];
  }[];
}

const goldens = JSON.parse(readFileSync(new URL('../goldens/noise.json', import.meta.url), 'utf8')) as Goldens;
const levels = goldens.levels.map(Number);
const range = { least: levels[levels.length - 1], greatest: levels[0] };
const jumps = [...levels.slice(1).map((to, i) => [levels[i], to]), [levels[0], levels[3]]];

/** As the goldens tell of a draw: its first numbers, their sum, and the sum of their squares, both per number. */
function told(noise: Float32Array): number[] {
  const sum = noise.reduce((total, value) => total + value, 0);
  const squares = noise.reduce((total, value) => total + value * value, 0);
  return [...noise.subarray(0, 6), sum / noise.length, squares / noise.length];
}

function expected(texts: readonly string[], count: number): number[] {
  return texts.map((text, i) => Number(text) / (i < 6 ? 1 : count));
}

export const areas: FidelityArea[] = [
  {
    title: 'Noise of other tools',
    about:
      "AUTOMATIC1111's own generators, ComfyUI's own noise functions and torchsde's Brownian trees (`reference/noise.py`): the start of a sampling and the noise of its steps, single numbers and moments of all, in units of their standard deviation. `test/random.test.ts` holds torch's generator on the CPU, which is `torch_cpu`, to the bit.",
    columns: ['noise', 'seed', 'pictures', 'variation', 'ENSD', 'steps'],
    limit: 1e-5,
    cells: goldens.rows.map((row) => ({
      at: [
        row.noise,
        row.seed,
        String(row.batch),
        row.variation === null ? '–' : `${row.variation} at ${row.strength}`,
        row.delta === 0 ? '–' : String(row.delta),
        row.tree ? 'Brownian tree' : 'fresh',
      ],
      difference: () => {
        const dims: LatentDims = [row.batch, 4, 6, 8];
        const count = 4 * 6 * 8 * row.batch;
        const source = noiseSource({
          noise: row.noise,
          seed: row.seed,
          batch_size: row.batch,
          variation_seed: row.variation ?? undefined,
          variation_strength: row.strength,
          eta_noise_seed_delta: row.delta,
        });
        const start = greatestDifference(told(source.ofStart(dims)), expected(row.start, count));
        return row.steps.reduce((most, step, i) => {
          const [from, to] = row.tree ? jumps[i] : [0, 0];
          const drawn = source.ofStep(dims, { from, to, range: row.tree ? range : null });
          return Math.max(most, greatestDifference(told(drawn), expected(step, count)));
        }, start);
      },
    })),
  },
];
