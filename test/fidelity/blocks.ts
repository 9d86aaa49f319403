/** Flow transformers and their text encoders in blocks with bound weights, in Node: with weights that stay, and with streamed ones. */
import { join } from 'node:path';
import { filesOf } from '../checkpoint_folder.ts';
import { differencesFrom, goldenCases, type GoldenCase } from '../golden_pictures.ts';
import { SPLIT_CASES } from '../split_files.ts';
import { weightlessContents } from '../weightless_checkpoints.ts';
import type { FidelityArea, FidelityCell } from './fidelity.ts';

const GOLDENS = join(import.meta.dirname, '..', 'goldens');

/** One of each family: guided where it has guidance, shown a picture where it can be; and weights of 4 and 8 bits (GGUF). */
const PICTURES = [
  'z-image-guided',
  'flux2-klein-picture',
  'flux3-picture',
  'sd35-text',
  'flux1-dev-transform',
  'qwen-image-german',
];
const SPLIT = ['flux1-gguf', 'qwen-image-gguf'];

function cellsOf(root: string, name: string, open: (one: GoldenCase) => ReturnType<typeof filesOf>): FidelityCell[] {
  const one = goldenCases(root).find((each) => each.name === name) as GoldenCase;
  return (['resident', 'streamed'] as const).map((mode) => ({
    at: [name, mode === 'resident' ? 'stay' : 'streamed', one.operation],
    difference: async () => (await differencesFrom(root, one, open(one), { blocks: mode })).latents,
  }));
}

export const areas: FidelityArea[] = [
  {
    title: 'Flow transformers in blocks: latents',
    about:
      'Some of the cases above, with the networks in blocks whose weights are inputs, as they run where memory is short: all weights stay, or those of each block are brought anew at every step. What the sampler leaves, in units of the spread of the expected latents. `e2e/blocks.spec.ts` holds some of them to the same numbers on WebGPU, where both ways are equal to the bit.',
    columns: ['case', 'weights', 'operation'],
    limit: 1e-3,
    cells: [
      ...PICTURES.flatMap((name) =>
        cellsOf(join(GOLDENS, 'transformers'), name, ({ checkpoint }) =>
          filesOf(checkpoint, weightlessContents(checkpoint)),
        ),
      ),
      ...SPLIT_CASES.filter(({ name }) => SPLIT.includes(name)).flatMap(({ goldens, name, contents }) =>
        cellsOf(join(GOLDENS, goldens), name, () => filesOf(name, contents())),
      ),
    ],
  },
];
