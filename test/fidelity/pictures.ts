/** Whole operations, from the prompt to the pixels: every folder of test/goldens/{pipelines,architectures,transformers}, run in Node. */
import { join } from 'node:path';
import { architectureFiles, additionsOf, lorasOf } from '../architecture_checkpoints.ts';
import { filesOf, folderFiles } from '../checkpoint_folder.ts';
import { differencesFrom, goldenCases, type GoldenCase, type PictureDifferences } from '../golden_pictures.ts';
import { weightlessContents } from '../weightless_checkpoints.ts';
import type { FidelityArea, FidelityCell } from './fidelity.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const PIPELINES = join(ROOT, 'test', 'goldens', 'pipelines');
const ARCHITECTURES = join(ROOT, 'test', 'goldens', 'architectures');
const TRANSFORMERS = join(ROOT, 'test', 'goldens', 'transformers');

const measured = new Map<string, Promise<PictureDifferences>>();

/** Latents and pixels come from one run. */
function differencesOf(root: string, one: GoldenCase): Promise<PictureDifferences> {
  const known = measured.get(one.name) ?? run(root, one);
  measured.set(one.name, known);
  return known;
}

function run(root: string, one: GoldenCase): Promise<PictureDifferences> {
  const { checkpoint } = one;
  if (root === ARCHITECTURES) {
    return differencesFrom(root, one, architectureFiles(checkpoint), {
      loras: lorasOf(one.name),
      additions: additionsOf(one.parameters),
    });
  }
  if (root === TRANSFORMERS) {
    return differencesFrom(root, one, filesOf(checkpoint, weightlessContents(checkpoint)));
  }
  const folder = checkpoint.startsWith('builtin:')
    ? join(ROOT, 'public', 'checkpoints', checkpoint.slice('builtin:'.length))
    : join(ROOT, 'test', 'checkpoints', checkpoint);
  return differencesFrom(root, one, folderFiles(folder));
}

function cellsOf(root: string, measure: (differences: PictureDifferences) => number): FidelityCell[] {
  return goldenCases(root).map((one) => {
    const { name, operation, checkpoint, parameters } = one;
    const { sampler = 'its own', schedule = 'its own' } = parameters as { sampler?: string; schedule?: string };
    return {
      at: [name, checkpoint, operation, sampler, schedule],
      difference: async () => measure(await differencesOf(root, one)),
    };
  });
}

const columns = ['case', 'checkpoint', 'operation', 'sampler', 'schedule'];

export const areas: FidelityArea[] = [
  {
    title: 'Whole pictures: latents',
    about:
      "Against diffusers on the CPU in f32 (`reference/pipelines.py`), in Node's ONNX Runtime: what the sampler leaves, in units of the spread of the expected latents. `e2e/fidelity.spec.ts` holds the same cases to the same numbers in the browser: on wasm, and on WebGPU where that computes in a way of its own.",
    columns,
    limit: 1e-3,
    cells: cellsOf(PIPELINES, ({ latents }) => latents),
  },
  {
    title: 'Whole pictures: pixels',
    about: 'The same runs, decoded: the greatest difference of a colour, of 255.',
    columns,
    limit: 2,
    cells: cellsOf(PIPELINES, ({ pixels }) => pixels),
  },
  {
    title: 'Further architectures: latents',
    about:
      'Stable Diffusion XL, inpainting networks of 9 channels, distilled ones, what ControlNets lead, what pictures say through IP-Adapters, and other autoencoders, with weights that follow from a formula (`reference/architectures.py`, `reference/controlnets.py`, `reference/image_prompts.py`, `reference/vaes.py`); else as above.',
    columns,
    limit: 1e-3,
    cells: cellsOf(ARCHITECTURES, ({ latents }) => latents),
  },
  {
    title: 'Further architectures: pixels',
    about: 'The same runs, decoded: the greatest difference of a colour, of 255.',
    columns,
    limit: 2,
    cells: cellsOf(ARCHITECTURES, ({ pixels }) => pixels),
  },
  {
    title: 'Flow transformers: latents',
    about:
      'Z-Image, FLUX.2 klein and dev, FLUX.3 klein, Stable Diffusion 3 and 3.5, FLUX.1 and Qwen-Image, with weights that follow from a formula (`reference/flow_pipelines.py`, `reference/flux3_pipelines.py`, `reference/mmdit_pipelines.py`, `reference/qwen_pipelines.py`); else as above.',
    columns,
    limit: 1e-3,
    cells: cellsOf(TRANSFORMERS, ({ latents }) => latents),
  },
  {
    title: 'Flow transformers: pixels',
    about:
      "The same runs, decoded: the greatest difference of a colour, of 255. Latents that diffusers' inpainting pipeline of Stable Diffusion 3 made are decoded as its two other pipelines do it: it leaves the autoencoder's shift out.",
    columns,
    limit: 2,
    cells: cellsOf(TRANSFORMERS, ({ pixels }) => pixels),
  },
];
