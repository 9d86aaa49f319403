/** Ways of guiding, as weights of both predictions. Their pictures are compared by test/fidelity/pictures.ts. */
import { join } from 'node:path';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { parameters } from '../chunks/output_image_stable_diffusion.ts';
import { GUIDANCE_METHODS } from '../src/core/guidance.ts';
import type { Guidance, Moments } from '../src/guidance/guidance.ts';
import { folderFiles } from './checkpoint_folder.ts';
import { differencesFrom, goldenCases } from './golden_pictures.ts';

const methods = import.meta.glob<Guidance>(['../src/guidance/*.ts', '!../src/guidance/guidance{,_rescale}.ts'], {
  eager: true,
  import: 'guidance',
});

test('every file is offered under its name, and leaves the prompt alone at a scale of 1 or where both agree', () => {
  const names = Object.keys(methods).map((path) => /(\w+)\.ts$/.exec(path)?.[1]);
  expect(names.sort()).toEqual([...GUIDANCE_METHODS].sort());
  const same: Moments = { count: 4, c: 1, u: 1, cc: 6, cu: 6, uu: 6 };
  for (const [path, method] of Object.entries(methods)) {
    expect(path).toContain(`/${method.id}.ts`);
    const { c, u } = method.weights(same, 7, { apg_eta: 0.5, apg_norm_threshold: 2 });
    expect(c + u).toBeCloseTo(1, 6);
  }
});

test.each([
  [{ guidance_method: 'apg', apg_eta: 0.5, apg_norm_threshold: 5 }, null],
  [{ guidance_method: 'cfg_zero_star', guidance_rescale: 0.5 }, null],
  [{ guidance_method: 'magic' }, 'guidance_method must be one of cfg, apg, cfg_zero_star.'],
  [{ guidance_method: 'cfg', apg_eta: 0.5 }, /^apg_eta and apg_norm_threshold count only with the guidance_method apg/],
  [{ guidance_method: 'apg', apg_eta: 2 }, 'apg_eta must be a number from 0 to 1.'],
])('%o', (given, expected) => {
  const result = v.safeParse(parameters, { operation: 'image_generation', prompt: 'a fox', ...given });
  expect(result.success).toBe(expected === null);
  if (expected !== null) {
    expect(result.issues?.[0].message).toMatch(expected);
  }
});

const root = join(import.meta.dirname, 'goldens', 'pipelines');
test.each(goldenCases(root).filter(({ parameters }) => 'guidance_method' in parameters))(
  "$name is the reference's picture",
  async (one) => {
    const files = folderFiles(join(import.meta.dirname, 'checkpoints', one.checkpoint));
    const { latents, pixels } = await differencesFrom(root, one, files);
    expect(latents).toBeLessThan(1e-3);
    expect(pixels).toBeLessThanOrEqual(2);
  },
);
