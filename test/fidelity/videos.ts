/** Whole videos, from the prompt to the frames: every folder of test/goldens/videos, run in Node. */
import { join } from 'node:path';
import { filesOf } from '../checkpoint_folder.ts';
import { differencesFrom, goldenCases, type PictureDifferences } from '../golden_pictures.ts';
import { weightlessContents } from '../weightless_checkpoints.ts';
import type { FidelityArea, FidelityCell } from './fidelity.ts';

const VIDEOS = join(import.meta.dirname, '..', 'goldens', 'videos');

const measured = new Map<string, Promise<PictureDifferences>>();

function cells(measure: (differences: PictureDifferences) => number): FidelityCell[] {
  return goldenCases(VIDEOS).map((one) => {
    const { name, checkpoint, parameters } = one;
    return {
      at: [name, checkpoint, String(parameters.frames), parameters.image === undefined ? 'words' : 'a picture'],
      difference: async () => {
        // Latents and frames come from one run.
        const run =
          measured.get(name) ?? differencesFrom(VIDEOS, one, filesOf(checkpoint, weightlessContents(checkpoint)));
        measured.set(name, run);
        return measure(await run);
      },
    };
  });
}

const columns = ['case', 'checkpoint', 'frames', 'from'];

export const areas: FidelityArea[] = [
  {
    title: 'Videos: latents',
    about:
      "AnimateDiff, Wan and LTX-Video, with weights that follow from a formula (`reference/animate_diff.py`, `reference/wan.py`, `reference/ltx.py`): against diffusers on the CPU in f32, in Node's ONNX Runtime. What the sampler leaves, in units of the spread of the expected latents.",
    columns,
    limit: 1e-3,
    cells: cells(({ latents }) => latents),
  },
  {
    title: 'Videos: frames',
    about: 'The same runs, decoded: the greatest difference of a colour in any frame, of 255.',
    columns,
    limit: 2,
    cells: cells(({ pixels }) => pixels),
  },
];
