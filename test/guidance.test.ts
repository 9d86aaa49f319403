/** Ways of guiding, as weights of both predictions. Their pictures are compared by test/fidelity/pictures.ts. */
import { join } from 'node:path';
import * as v from 'valibot';
import { expect, test } from 'vitest';
import { parameters } from '../chunks/output_image_stable_diffusion.ts';
import { parameters as qwenImage } from '../chunks/output_image_qwen_image.ts';
import { parameters as sd3 } from '../chunks/output_image_stable_diffusion_3.ts';
import { FLOW_GUIDANCE_METHODS, GUIDANCE_METHODS } from '../src/core/guidance.ts';
import type { Guidance, Moments } from '../src/guidance/guidance.ts';
import { openModel } from '../src/models/family.ts';
import { filesOf, folderFiles } from './checkpoint_folder.ts';
import { differencesFrom, goldenCases, paint } from './golden_pictures.ts';
import { startNodeEngine } from './node_engine.ts';
import { weightlessContents } from './weightless_checkpoints.ts';

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

test.each([
  [qwenImage, { guidance_method: 'cfg_norm' }, null],
  [qwenImage, { guidance_method: 'comfyui_cfg_norm' }, null],
  [sd3, { guidance_method: 'cfg_norm' }, /must be one of cfg, apg, cfg_zero_star, comfyui_cfg_norm\.$/],
  [sd3, { apg_eta: 0.5 }, /^apg_eta and apg_norm_threshold count only with/],
  [sd3, { guidance_method: 'apg', apg_eta: 0.5 }, null],
])('of a flow, %#: %o', (schema, given, expected) => {
  const result = v.safeParse(schema, { operation: 'image_generation', prompt: 'a fox', ...given });
  expect(result.issues?.[0].message ?? null).toEqual(expected === null ? null : expect.stringMatching(expected));
});

test('no kind of guidance moves a picture of Qwen-Image as its own does, and without guidance all are one and said to be idle', async () => {
  const files = filesOf('tiny-qwen-image', weightlessContents('tiny-qwen-image'));
  const model = await openModel(files, startNodeEngine().engine);
  const make = async (guidance_scale: number, guidance_method?: string) => {
    const notices: string[] = [];
    const sizes = { width: 32, height: 32, steps: 2 };
    const chosen = { guidance_scale, ...(guidance_method !== undefined && { guidance_method }) };
    const parameters = { prompt: 'a fox', seed: '1', ...sizes, ...chosen };
    const operation = { operation: 'image_generation', config: 'qwen_image', parameters };
    const { latents } = await paint(model, operation, '', { notice: (sentence) => notices.push(sentence) });
    return { values: [...latents.data], notices };
  };
  const own = await make(4);
  expect((await make(4, 'cfg_norm')).values).toEqual(own.values);
  const others = await Promise.all(FLOW_GUIDANCE_METHODS.map((method) => make(4, method)));
  const all = [own, ...others].map(({ values }) => values.join());
  expect(new Set(all).size).toBe(all.length);
  const plain = await make(1);
  const idle = await make(1, 'comfyui_cfg_norm');
  expect(idle.values).toEqual(plain.values);
  expect(idle.notices).toEqual([expect.stringMatching(/^The kind of guidance counts only where/)]);
  await model.release();
});
