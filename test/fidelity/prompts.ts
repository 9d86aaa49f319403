/** Prompts as AUTOMATIC1111 and ComfyUI read them: test/goldens/prompts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openModel, type LoadedModel } from '../../src/models/family.ts';
import type { TextConditioning } from '../../src/models/latent_diffusion/conditioned_texts.ts';
import { folderFiles } from '../checkpoint_folder.ts';
import { goldenTensor } from '../golden_pictures.ts';
import { startNodeEngine } from '../node_engine.ts';
import { relativeDifference, type FidelityArea } from './fidelity.ts';

const ROOT = join(import.meta.dirname, '..');
const FOLDER = join(ROOT, 'goldens', 'prompts');

interface Chunks {
  tool: 'automatic1111' | 'comfyui';
  name: string;
  prompt: string;
}

const json = (file: string): unknown => JSON.parse(readFileSync(join(FOLDER, file), 'utf8'));
const prompts = json('chunks.json') as Chunks[];
const { edited, steps } = json('prompts.json') as { edited: { prompt: string }; steps: number };
const expected = new Uint8Array(readFileSync(join(FOLDER, 'expected.safetensors')));
/** The goldens hold every fifth token. */
const KEPT = 5;

let opened: Promise<{ model: LoadedModel; read: (one: TextConditioning) => Promise<Float32Array[]> }> | null = null;

function tiny(): NonNullable<typeof opened> {
  opened ??= (async () => {
    const { engine } = startNodeEngine();
    const model = await openModel(folderFiles(join(ROOT, 'checkpoints', 'tiny-sd15')), engine);
    const file = new Blob([readFileSync(join(FOLDER, 'tiny_style.safetensors'))]);
    await model.useLoras(['tiny style', 'tiny_style'].map((name) => ({ name, file, strength: 1 })));
    const read = ({ prompts: [{ schedule }] }: TextConditioning) =>
      Promise.all(
        schedule.map(async ({ text: { states } }) => {
          const values = await engine.arithmetic.read(states);
          const width = states.dims[2];
          return values.filter((_, i) => Math.floor(i / width) % KEPT === 0);
        }),
      );
    return { model, read };
  })();
  return opened;
}

async function states(prompt: string, syntax: Chunks['tool'], skip: number): Promise<Float32Array[]> {
  const { model, read } = await tiny();
  const text = await model.encodeText({
    prompt,
    negative_prompt: '',
    guidance_scale: 1,
    batch_size: 1,
    prompt_syntax: syntax,
    clip_skip: skip,
    steps,
  });
  try {
    return await read(text as TextConditioning);
  } finally {
    text.dispose();
  }
}

export const areas: FidelityArea[] = [
  {
    title: 'Prompts of other tools',
    about:
      "AUTOMATIC1111's and ComfyUI's own code over tiny-sd15's text encoder (`reference/prompts.py`): weights, rows of 75 tokens, BREAK, an embedding of three vectors, editing and clip skip. What the denoiser is given, in units of its spread. `test/text.test.ts` holds the parsers to theirs.",
    columns: ['tool', 'prompt', 'clip skip'],
    limit: 1e-4,
    cells: [
      ...prompts.flatMap(({ tool, name, prompt }) =>
        [1, 2].map((skip) => ({
          at: [tool, name, String(skip)],
          difference: async () => {
            const [given] = await states(prompt, tool, skip);
            return relativeDifference(given, goldenTensor(expected, `${tool}.${name}.${skip}`));
          },
        })),
      ),
      ...[0, 1].map((part) => ({
        at: ['automatic1111', `edited, part ${part + 1}`, '1'],
        difference: async () => {
          const all = await states(edited.prompt, 'automatic1111', 1);
          return relativeDifference(all[part], goldenTensor(expected, `automatic1111.edited.${part}`));
        },
      })),
    ],
  },
];
