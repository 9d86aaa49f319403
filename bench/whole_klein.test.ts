/**
 * FLUX.2 klein 4B once through on the processor: prompt, one step and a picture of 64 × 64 pixels, with random weights of 4 bits that are made
 * while they are read. `node bench/whole_klein.js FOLDER` compares it with what `reference/whole_klein.py FOLDER` had of diffusers.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openModel } from '../src/models/family.ts';
import { FolderFiles } from '../src/weights/checkpoint_files.ts';
import { relativeDifference } from '../test/fidelity/fidelity.ts';
import { goldenTensor, paint } from '../test/golden_pictures.ts';
import { quantisedFile, type NumberedTensor } from '../test/made_weights.ts';
import { startNodeEngine } from '../test/node_engine.ts';
import { weightlessContents } from '../test/weightless_checkpoints.ts';

interface Whole {
  like: string;
  parts: Record<string, { config: object; tensors: NumberedTensor[] }>;
  parameters: Record<string, unknown>;
}

const folder = process.env.DARKROOM_KLEIN ?? '';

test('FLUX.2 klein 4B, once through', { timeout: 3_600_000 }, async () => {
  const read = (name: string) => readFileSync(join(folder, name));
  const { like, parts, parameters } = JSON.parse(read('klein.json').toString()) as Whole;
  const contents = weightlessContents(like);
  const files: { path: string; file: File }[] = [];
  for (const [part, { config, tensors }] of Object.entries(parts)) {
    contents.set(`${part}/config.json`, new TextEncoder().encode(JSON.stringify(config)));
    const path = [...contents.keys()].find((each) => each.startsWith(`${part}/`) && each.endsWith('.safetensors'));
    contents.delete(path ?? '');
    files.push({ path: path ?? '', file: quantisedFile(path ?? '', tensors) });
  }
  files.push(...[...contents].map(([path, bytes]) => ({ path, file: new File([bytes], path) })));

  const { engine, log } = startNodeEngine(undefined, 'streamed');
  const model = await openModel(new FolderFiles('klein-4b', files), engine);
  const begun = performance.now();
  const { images, latents } = await paint(
    model,
    { operation: 'image_generation', config: 'flux2', parameters: { ...parameters, guidance_scale: 1, phased: true } },
    folder,
  );
  const [{ width, height, data }] = images;
  const difference = relativeDifference(latents.data, goldenTensor(read('expected.safetensors'), 'latents'));
  const size = Math.sqrt(latents.data.reduce((sum, value) => sum + value * value, 0) / latents.data.length);
  console.log(
    `klein of ${(model.summary.parameters / 1e9).toFixed(2)} billion weights, ${log.runs} runs of ${log.created} sessions in ${((performance.now() - begun) / 1000).toFixed(0)} s, ${(process.resourceUsage().maxRSS / 2 ** 20).toFixed(1)} GiB at most: latents of ${size.toFixed(3)} in root mean square, ${difference.toExponential(2)} of their spread from diffusers`,
  );
  await model.release();
  expect(difference).toBeLessThanOrEqual(1e-3);
  expect([width, height]).toEqual([64, 64]);
  expect(new Set(data).size).toBeGreaterThan(16);
});
